"""What a run tells whoever watches it."""

from typing import Protocol


class Watch(Protocol):
    """Told of each turn of a run; must be quick, and is called from several threads."""

    def rows_read(self, rows: int) -> None:
        """So many more rows came from the warehouse."""

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """The diff is known."""

    def delivering(self, calls: int) -> None:
        """So many calls are about to be delivered."""

    def delivered(self, calls: int) -> None:
        """Segment accepted so many more calls."""

    def waiting(self, reason: str, seconds: float) -> None:
        """A batch waits before it is tried again."""

    def notice(self, sentence: str) -> None:
        """Something the user should know."""

    def close(self) -> None:
        """The run is over."""


class Silent:
    """Watches without a word."""

    def rows_read(self, rows: int) -> None:
        """Nothing."""

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """Nothing."""

    def delivering(self, calls: int) -> None:
        """Nothing."""

    def delivered(self, calls: int) -> None:
        """Nothing."""

    def waiting(self, reason: str, seconds: float) -> None:
        """Nothing."""

    def notice(self, sentence: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
