"""The streams that retl prints to. No character, reader or disk of theirs ever stops the work.

Calls are on their way while progress is printed, so a stream that fails must not raise: what it does not
take is dropped, and `close` says so once all is done.
"""

import codecs
import io
import os
import re
import select
import sys
from typing import Any, TextIO

from retl.system import system_words

LOST = 3
"""Exit code where all went well but the output could not be written in full, as for any failure outside."""

_ASCII = {"→": "->", "…": "...", "↳": "->", "━": "-", "─": "-"}
"""Characters of retl's own that not every encoding has, and what is printed instead."""


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys, but for the ends of lines and tabs."""


class Outlet(io.RawIOBase):
    """A raw stream that never raises for what happens to the bytes that are written to it.

    Attributes:
        lost: why bytes could not be written; None where all were, or where the reader went away, as `head`
            does when it has read enough.
    """

    def __init__(self, raw: Any) -> None:
        super().__init__()
        self.lost: OSError | None = None
        self._raw = raw

    def write(self, data: Any) -> int:
        """Write bytes, or drop them."""
        try:
            while (written := self._raw.write(data)) is None:
                select.select([], [self._raw], [])  # a pipe that does not block has no room yet
        except BrokenPipeError:
            return len(data)
        except OSError as error:
            self.lost = self.lost or error
            return len(data)
        return int(written)

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return bool(self._raw.isatty())

    def fileno(self) -> int:
        """Its descriptor."""
        return int(self._raw.fileno())


def set_up() -> None:
    """Put streams that cannot fail in place of stdout and stderr; closed ones lead nowhere."""
    codecs.register_error("retl", _spelled_out)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            stream = _nowhere(number)
        elif number and hasattr(stream, "buffer"):
            stream = _steady(stream)
        setattr(sys, name, stream)


def close(code: int) -> int:
    """Print what is left, and say where output was lost.

    Args:
        code: the exit code of the command.

    Returns:
        The exit code of the process: that of the command, or `LOST` where that is 0.
    """
    sys.stdout.flush()
    outlet = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(outlet, Outlet) and outlet.lost is not None:
        print(
            f"error: the output could not be written in full ({system_words(outlet.lost)})", file=sys.stderr
        )
        code = code or LOST
    sys.stderr.flush()
    return code


def without_controls(text: str) -> str:
    """A text in which the signs that a terminal obeys are spelled out: keys and answers may hold any."""
    return _CONTROLS.sub(lambda sign: f"\\x{ord(sign[0]):02x}", text)


def takes_unicode(stream: TextIO) -> bool:
    """Whether a stream can print every character as it is."""
    encoding = getattr(stream, "encoding", None)
    return encoding is None or codecs.lookup(encoding).name == "utf-8"


def _steady(stream: TextIO) -> TextIO:
    raw = Outlet(getattr(stream.buffer, "raw", stream.buffer))
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="retl",
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


def _nowhere(number: int) -> TextIO:
    """A stream in place of one that was closed.

    Its descriptor is taken as well: the next file that is opened, the state for one, would get it, and
    whatever a library prints would go into that file.
    """
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    return open(number, "w" if number else "r", encoding="utf-8", errors="retl", closefd=False)


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    spelled = (_ASCII.get(one) or one.encode("ascii", "backslashreplace").decode() for one in missing)
    return "".join(spelled), error.end
