"""The pointer of a state in a bucket: a small object that names the file that counts.

Each save uploads the file under a name of its own, and then moves the pointer. So nobody ever reads half a
file, and the write of a few bytes decides which of two runners was first.
"""

import json
from dataclasses import asdict, dataclass, replace
from secrets import token_hex

from retl.errors import StateError

FORMAT = 1
"""The form of the pointers that this retl writes."""


@dataclass(frozen=True)
class Pointer:
    """The state that counts.

    Attributes:
        write: random, so that no two writes are alike.
        file: the name of the object with the state file; None where there is no state any more.
        size: of it, in bytes.
        sha256: of its bytes.
        leaving: whether calls of it may have left since it was saved: its runner sends them now, or was
            killed at it.
    """

    write: str
    file: str | None = None
    size: int = 0
    sha256: str = ""
    leaving: bool = False

    def anew(self) -> "Pointer":
        """The same, for another write."""
        return replace(self, write=token_hex(16))

    def as_bytes(self) -> bytes:
        """The object's content."""
        return json.dumps({"retl_state": FORMAT, **asdict(self)}).encode()


NOTHING = Pointer("")
"""The pointer where no state was ever saved."""


def read_pointer(content: bytes, where: str) -> Pointer:
    """Read a pointer.

    Args:
        content: of the object.
        where: its address, for the error.

    Raises:
        StateError: it is none, or was written by a newer retl.
    """
    try:
        known = json.loads(content)
        form = known.pop("retl_state")
        if form == FORMAT:
            return Pointer(**known)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StateError(
            "this object was not made by retl",
            where=where,
            hint="move it away, or give another folder of the bucket",
        ) from error
    raise StateError(
        "this state was written by a newer retl", where=where, hint="upgrade retl: pip install --upgrade retl"
    )
