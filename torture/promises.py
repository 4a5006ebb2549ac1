"""Promises: the calls of a sync, as they arrived, told again as the versions of the rows.

Nothing is asked of retl here but its rejected calls. Each call of a track sync says from which version of a
row it leads to which, so that all calls of a row must be one way, from no row to the row that is there now.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torture.rows import History

LOST, TWICE, OUT_OF_ORDER, FLOOD, WRONG = "lost", "twice", "out of order", "flood", "wrong"
LEFT = "left behind"
KINDS = (LOST, TWICE, OUT_OF_ORDER, FLOOD, WRONG, LEFT)


class Broken(Exception):
    """A promise is broken.

    Attributes:
        kind: one of `KINDS`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


@dataclass(frozen=True)
class Told:
    """A call, as Segment has it or as it was refused.

    Attributes:
        arrival: its place among all calls that arrived; None where Segment refused it.
        key: of its row.
        user: its `userId`.
        before: the version from which it leads; None is no row.
        after: the version to which it leads; None is no row.
    """

    arrival: int | None
    key: str
    user: str
    before: int | None
    after: int | None

    @property
    def place(self) -> tuple[int, bool]:
        """Its place among the calls of its row: versions only grow, and a row is gone after its last."""
        return (self.before or 0, True) if self.after is None else (self.after, False)


def check_ways(
    history: History,
    accepted: Sequence[dict[str, Any]],
    refused: Sequence[dict[str, Any]],
    fulls: int = 0,
) -> None:
    """See that the calls of a track sync lead each row to how it is now.

    Args:
        history: the rows.
        accepted: the calls, as they arrived.
        refused: calls that are kept as refused.
        fulls: how often every row may have been told again as one that is added.

    Raises:
        Broken: they do not.
    """
    told = [_told(number, call) for number, call in enumerate(accepted)]
    told += [_told(None, call) for call in refused]
    by_key: dict[str, list[Told]] = defaultdict(list)
    for one in sorted(told, key=lambda one: one.place):
        by_key[one.key].append(one)
    for key in {*by_key, *history.current}:
        _check_way(history, key, by_key[key], fulls)


def _told(arrival: int | None, call: Mapping[str, Any]) -> Told:
    properties = call["properties"]
    version = int(properties["version"])
    before, after = {
        "Added": (None, version),
        "Changed": ((properties.get("previous") or {}).get("version"), version),
        "Removed": (version, None),
    }[call["event"]]
    return Told(arrival, properties["id"], call["userId"], before, after)


def _check_way(history: History, key: str, way: list[Told], fulls: int) -> None:
    here = None
    arrivals: dict[str, int] = {}
    for call in way:
        if call.before != here and not _is_told_again(call, here, way, fulls):
            kind = TWICE if any(other is not call and other.after == call.after for other in way) else LOST
            raise Broken(kind, f"row {key} is at version {here}, and {call} comes")
        version = call.before if call.after is None else call.after
        if version is None or version not in history.versions:
            raise Broken(WRONG, f"row {key} never had version {version}")
        known_key, row = history.versions[version]
        if known_key != key or row.owner != call.user:
            raise Broken(WRONG, f"version {version} is row {known_key} of {row.owner}, and {call} comes")
        if call.arrival is not None:
            if call.arrival < arrivals.get(call.user, -1):
                raise Broken(OUT_OF_ORDER, f"{call} arrived before an older one of the same row and user")
            arrivals[call.user] = call.arrival
        here = call.after
    now = history.current[key].version if key in history.current else None
    if here != now:
        raise Broken(LOST, f"row {key} is at version {now}, and its calls end at {here}")


def _is_told_again(call: Told, here: int | None, way: list[Told], fulls: int) -> bool:
    """Whether a call may be one of those that a full run makes of each row, or of the same version as one."""
    if call.after is None or (call.before is not None and call.after != here):
        return False
    return sum(other.after == call.after for other in way) <= 1 + fulls


def check_profiles(
    history: History, accepted: Sequence[dict[str, Any]], refused: Collection[str], repeats: bool
) -> None:
    """See that the calls of an identify sync leave each profile as the row is now, and never led it back.

    Args:
        history: the rows.
        accepted: the calls, as they arrived.
        refused: users of whom a call was refused, so that two calls may say the same.
        repeats: whether a row may be told again, as it was sent in full, or an edit added a trait.

    Raises:
        Broken: they do not.
    """
    seen: dict[str, tuple[int, bool]] = {}
    for call in accepted:
        key, version = call["userId"], call["traits"]["version"]
        last = seen.get(key, (0, False))
        place = (last[0], True) if version == "gone" else (int(version), False)
        if version != "gone" and (version not in history.versions or history.versions[version][0] != key):
            raise Broken(WRONG, f"row {key} never had version {version}")
        if place == last and key not in refused and not repeats:
            raise Broken(TWICE, f"row {key} is told again to be at {place}")
        if place < last:
            raise Broken(OUT_OF_ORDER, f"row {key} is led back from {last} to {place}")
        seen[key] = place
    for key in {*seen, *history.current}:
        row = history.current.get(key)
        version, is_gone = seen.get(key, (0, True))
        if (row is None) != is_gone or (row is not None and row.version != version):
            raise Broken(LOST, f"row {key} is {row}, and its profile is at {version}, gone: {is_gone}")


def check_members(
    history: History,
    accepted: Sequence[dict[str, Any]],
    refused: Collection[str],
    kept: Collection[str] = (),
    repeats: bool = False,
) -> None:
    """See that the calls of an audience sync let each user come and go in turn, and leave in it who is there.

    Args:
        history: the rows.
        accepted: the calls, as they arrived.
        refused: users of whom a call was refused, so that two calls may say the same.
        kept: users of whom a refused call waits for `retl retry --stale`, perhaps as the last word: the one
            that overtook it may have been discarded since.
        repeats: whether who is in it may enter again, as all rows were sent in full.

    Raises:
        Broken: they do not.
    """
    members: set[str] = set()
    for call in accepted:
        user, enters = call["userId"], call["event"] == "Segment Entered"
        if enters == (user in members) and user not in refused and not (enters and repeats):
            raise Broken(TWICE, f"{user} is {'in' if enters else 'out'} already, and {call['event']} comes")
        (members.add if enters else members.discard)(user)
    if against := members.symmetric_difference(history.current).difference(kept):
        raise Broken(LOST, f"in or out against the rows: {sorted(against)}")


def check_order(accepted: Sequence[dict[str, Any]]) -> None:
    """See that the timestamps of each user never go back.

    Raises:
        Broken: they do.
    """
    last: dict[str, str] = {}
    for call in accepted:
        user, moment = call["userId"], call["originalTimestamp"]
        if moment < last.get(user, ""):
            raise Broken(OUT_OF_ORDER, f"a call of {user} of {moment} came after one of {last[user]}")
        last[user] = moment
