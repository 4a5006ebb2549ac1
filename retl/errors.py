"""Errors, grouped by what to do next.

    RetlError
    ├── SetupError            exit 2   fix a file, a setting or a credential
    │   ├── ConfigError                a sync, retl.yml or the command line
    │   ├── ModelError                 the model's SQL or its columns
    │   │   └── MissingColumnError
    │   ├── StateError                 the state file is damaged, foreign or newer
    │   └── DestinationError           write key refused, or not the one the state knows
    ├── ExternalError         exit 3   a system outside failed; state is intact, run again
    │   ├── WarehouseError             unreachable, or the read broke off
    │   ├── SegmentError               unreachable, or it keeps refusing
    │   ├── StorageError               no disk or memory, or a file that cannot be written
    │   └── DeadlineError              time is up
    ├── GuardError            exit 4   a guard stopped the run before the first call
    │   └── MovedError                 something moved since the plan that was to be sent
    ├── LockedError           exit 5   another process holds the sync
    ├── Interrupted           exit 130/143   stopped by a signal; resumable
    └── BugError              exit 70  anything else: a fault of retl itself

The command line reports each of them; `retl.system` makes one of an error of the operating system.
"""


class RetlError(Exception):
    """Something went wrong.

    Attributes:
        message: what happened, in one sentence.
        where: the file, line and key, or the address; None where there is no such place.
        hint: what to do now; None where the message says it all.
        code: a stable word for machines.
        exit_code: the process's exit code.
        run: the record of the run that it ended, a `retl.Run`, where a program in Python started that run.
    """

    code = "error"
    exit_code = 70
    run: object = None

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class SetupError(RetlError):
    """A file, a setting or a credential must be fixed."""

    code = "config"
    exit_code = 2


class ConfigError(SetupError):
    """A sync file, retl.yml, the environment or the command line is wrong."""

    code = "config"


class ModelError(SetupError):
    """The model's SQL fails, or its result lacks what the sync needs."""

    code = "model"


class MissingColumnError(ModelError):
    """The model's result lacks a column that the sync names."""

    def __init__(
        self, column: str, message: str, *, where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.column = column


class StateError(SetupError):
    """The state file is not a state file, is damaged, or was written by a newer retl."""

    code = "state"


class DestinationError(SetupError):
    """Segment refuses the write key, or the state belongs to another destination."""

    code = "destination"


class ExternalError(RetlError):
    """A system outside retl failed; state is intact and the same command can be run again."""

    code = "external"
    exit_code = 3


class WarehouseError(ExternalError):
    """The warehouse cannot be reached, or a read broke off."""

    code = "warehouse"


class SegmentError(ExternalError):
    """Segment cannot be reached, or keeps refusing."""

    code = "segment"


class StorageError(ExternalError):
    """Disk or memory is full, or a file cannot be written."""

    code = "storage"


class DeadlineError(ExternalError):
    """The time that the run was given is up."""

    code = "deadline"


class GuardError(RetlError):
    """A guard stopped the run; nothing was sent and state is as it was."""

    code = "guard"
    exit_code = 4


class MovedError(GuardError):
    """A saved plan does not hold any more, so that nothing of it was sent."""

    code = "moved"


class LockedError(RetlError):
    """Another process holds the sync's state."""

    code = "locked"
    exit_code = 5


class Interrupted(RetlError):
    """A signal stopped the run; what was under way is kept and goes on next time."""

    code = "interrupted"

    def __init__(self, signal_number: int) -> None:
        super().__init__("stopped by a signal; run the same command again to go on")
        self.exit_code = 128 + signal_number


class BugError(RetlError):
    """A fault of retl itself."""

    code = "bug"
