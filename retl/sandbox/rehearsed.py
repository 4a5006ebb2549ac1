"""Accepted calls as they would reach receivers: the requests of each, made when they are asked for."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from retl.receivers.checker import ReceiverChecker
from retl.receivers.compiled_check import CallKind
from retl.receivers.data_file import receiver
from retl.receivers.requests import NOTHING, Rehearsed, requests_of
from retl.receivers.settings import Settings, known_receivers, read_settings
from retl.sandbox.store import Store

MOST_CALLS = 500
"""Calls of one listing."""


@dataclass(frozen=True)
class RehearsedCall:
    """An accepted call, and its outcome at a receiver.

    Attributes:
        seq: its place in the order of arrival.
        received_at: when it arrived.
        type: of the call.
        event: name of its event; None where it is no track call.
        user_id: None where it has none, as `anonymous_id`.
        message_id: of the call.
        sync: that sent it; None where that was not told.
        outcome: the requests, what arrives, and what is wrong.
    """

    seq: int
    received_at: datetime
    type: str
    event: str | None
    user_id: str | None
    anonymous_id: str | None
    message_id: str | None
    sync: str | None
    outcome: Rehearsed

    def as_json(self) -> dict[str, Any]:
        """As listings have it."""
        told = {key: value for key, value in self.__dict__.items() if key != "outcome"}
        return {**told, "received_at": self.received_at.isoformat(), **self.outcome.as_json()}


@dataclass(frozen=True)
class ReceiverListing:
    """Some accepted calls at one receiver.

    Attributes:
        receiver: its name.
        title: its name for people.
        reached_by: how calls get there, in words.
        calls: in the order of arrival.
        after: the seq after which the next listing begins: the greatest that was looked at.
    """

    receiver: str
    title: str
    reached_by: str
    calls: Sequence[RehearsedCall]
    after: int

    def as_json(self) -> dict[str, Any]:
        """As the sandbox gives it at `/receivers/<name>.json`."""
        return {**self.__dict__, "calls": [one.as_json() for one in self.calls]}


class ReceiverRehearsal:
    """Receivers, with the customer's settings at each, for calls of a sandbox.

    Args:
        settings: by the receiver's name; the defaults count for one that is not there.
        of_syncs: the same by the name of the sync that sent a call, which come first.
    """

    def __init__(
        self,
        settings: Mapping[str, Settings] | None = None,
        of_syncs: Mapping[str, Mapping[str, Settings]] | None = None,
    ) -> None:
        self._settings = dict(settings or {})
        self._of_syncs = dict(of_syncs or {})
        self._made: dict[tuple[str, str | None], tuple[Settings, ReceiverChecker]] = {}

    @property
    def names(self) -> list[str]:
        """The names of the receivers."""
        return known_receivers()

    def outcome(self, name: str, call: Mapping[str, Any], size: int, sync: str | None = None) -> Rehearsed:
        """The outcome at a receiver of a call of so many bytes, which a sync sent, where that is known."""
        settings, checker = self._at(name, sync)
        violations = checker.violations(CallKind(str(call.get("type")), call.get("event")), call, size)
        return requests_of(receiver(name), settings, call, violations)

    def _at(self, name: str, sync: str | None) -> tuple[Settings, ReceiverChecker]:
        """The settings that count at a receiver for calls of a sync, and the checks by them; made once."""
        own = self._of_syncs.get(sync or "", {})
        key = name, sync if name in own else None
        if key not in self._made:
            settings = own.get(name) or self._settings.get(name) or read_settings(name, {})
            self._made[key] = settings, ReceiverChecker({name: settings})
        return self._made[key]

    def newest(self, store: Store, name: str, limit: int, user: str | None = None) -> ReceiverListing:
        """The newest accepted calls at a receiver, at most so many, of one user or of all."""
        return self._listing(store, name, store.read(_NEWEST, [user, user, user, limit]))

    def after(
        self, store: Store, name: str, after: int, limit: int, user: str | None = None
    ) -> ReceiverListing:
        """The accepted calls that came after one, by its seq, at most so many; else as `newest`."""
        rows = store.read(_AFTER, [after, user, user, user, limit])
        return self._listing(store, name, rows, after)

    def of_call(self, store: Store, seq: int) -> list[RehearsedCall]:
        """One accepted call, at each of the receivers; nothing where there is none with that seq."""
        rows = store.read(_ONE, [seq])
        return [self._rehearsed(name, row) for row in rows for name in self.names]

    def _listing(
        self, store: Store, name: str, rows: Sequence[Mapping[str, Any]], after: int = 0
    ) -> ReceiverListing:
        about = receiver(name)
        calls = [self._rehearsed(name, row) for row in rows]
        return ReceiverListing(name, about.title, about.reached_by, calls, calls[-1].seq if calls else after)

    def _rehearsed(self, name: str, row: Mapping[str, Any]) -> RehearsedCall:
        outcome = Rehearsed(name, (), NOTHING, (), "it is nested too deep to be rehearsed")
        with suppress(RecursionError):
            call = json.loads(row["body"])
            if isinstance(call, dict):  # else the store had a text to say the same
                outcome = self.outcome(name, call, len(row["body"].encode()), row["sync"])
        return RehearsedCall(**{key: row[key] for key in row if key != "body"}, outcome=outcome)


_COLUMNS = "SELECT seq, received_at, type, event, user_id, anonymous_id, message_id, sync, body FROM call"

_OF_USER = "outcome = 'accepted' AND (?::VARCHAR IS NULL OR user_id = ? OR anonymous_id = ?)"

_AFTER = f"{_COLUMNS} WHERE seq > ? AND {_OF_USER} ORDER BY seq LIMIT ?"

_NEWEST = f"FROM ({_COLUMNS} WHERE {_OF_USER} ORDER BY seq DESC LIMIT ?) ORDER BY seq"

_ONE = f"{_COLUMNS} WHERE seq = ? AND outcome = 'accepted'"
