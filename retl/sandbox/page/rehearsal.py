"""Rehearsal: the members that the page asks of the receivers behind a sandbox."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from retl.sandbox.store import Store


class Rehearsal(Protocol):
    """Receivers, and what of accepted calls reaches them."""

    @property
    def titles(self) -> Mapping[str, str]:
        """Their names for people, by the names that addresses have."""

    def newest(self, store: Store, name: str, limit: int, user: str | None = None) -> Any:
        """The newest accepted calls at a receiver, at most so many, of one user or of all."""

    def of_call(self, store: Store, seq: int) -> Sequence[Any]:
        """One accepted call, at each of the receivers; nothing where there is none with that number."""
