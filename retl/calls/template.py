"""Templates: each answers one kind of change with one call; a sync has one or several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from retl.config.sync import Audience, Change, Event, Fields, Group, Nulls, Sync, Track, Value
from retl.forms.dotted import literal_name


class Image(StrEnum):
    """One of the two versions of a row that a change is about, by the column of the view `change`."""

    BEFORE = "before"  # as it was when it was last turned into calls; NULL for an added row
    AFTER = "after"  # as the model has it now; NULL for a removed row


RANK = {Change.REMOVED: 0, Change.ADDED: 1, Change.CHANGED: 2}
"""The order of calls that one user gets at the same moment."""


@dataclass(frozen=True)
class Template:
    """One kind of change, answered with one call.

    Attributes:
        change: the kind of change that it answers.
        rank: the change as which the call is ordered and identified; a row that moves from one user
            to another leaves as removed and comes as added.
        type: Segment's type of call: identify, track or group.
        image: the version of the row that the values are taken from.
        event: the name of a track call; None for other types.
        fields: the traits or properties.
        nulls: what a null field becomes where it does not say so itself.
        timestamp: the column of the call's moment, of the row after the change if there is one; None is
            the moment of detection.
        message_id: the column of its message id; None makes one.
        previous: whether the values before the change are sent as well.
        moved: whether it is only for rows whose user is another than before (True), or the same (False).
        again: whether it says once more what the row's first call said.
    """

    change: Change
    rank: Change
    type: str
    image: Image
    event: Event | None
    fields: Fields
    nulls: Nulls
    timestamp: Value | None = None
    message_id: str | None = None
    previous: bool = False
    moved: bool | None = None
    again: bool = False

    @property
    def says(self) -> Change:
        """The kind of change whose call it is, as the sync's file has it."""
        return Change.ADDED if self.again else self.change

    @property
    def latest_image(self) -> Image:
        """The newest version there is: the one before the change only where the row is gone."""
        return Image.BEFORE if self.change is Change.REMOVED else Image.AFTER


def templates(sync: Sync, full: bool = False) -> tuple[Template, ...]:
    """The calls that a sync makes of changes; with `full`, also of rows that are as they were."""
    found = _templates(sync)
    return tuple(_in_full(sync, found)) if full else found


def answering(sync: Sync, full: bool, first_pass: bool, sends: bool) -> tuple[Template, ...]:
    """The calls that a sync can make in a run.

    Args:
        sync: the sync.
        full: whether rows that are as they were are sent again.
        first_pass: whether there is no snapshot, so that all rows are new.
        sends: whether changes become calls.
    """
    found = templates(sync, full) if sends else ()
    return tuple(one for one in found if not first_pass or one.change is Change.ADDED)


def _in_full(sync: Sync, usual: Sequence[Template]) -> Iterator[Template]:
    """The usual calls, and for every other current row, under an id of its own, what its first call said."""
    for template in usual:
        is_own_event = sync.kind == "track" or template.change is not Change.CHANGED
        yield template if is_own_event else replace(template, message_id=None)
        if template.moved and template.image is Image.BEFORE:
            yield replace(template, change=Change.UNCHANGED)
        if template.change is Change.ADDED:
            again = replace(template, message_id=None, again=True)
            yield replace(again, change=Change.UNCHANGED)
            if sync.kind == "track":
                yield replace(again, change=Change.CHANGED)
            elif sync.kind == "audience":
                yield replace(again, change=Change.CHANGED, moved=False)


def _templates(sync: Sync) -> tuple[Template, ...]:
    block = sync.block
    if isinstance(block, Track):
        return tuple(_track(sync, block))
    if isinstance(block, Audience):
        return tuple(_audience(sync, block))
    kind = "group" if isinstance(block, Group) else "identify"
    nulls = sync.nulls or Nulls.CLEAR
    found = [
        Template(
            change, change, kind, Image.AFTER, None, block.fields, nulls, block.timestamp, block.message_id
        )
        for change in (Change.ADDED, Change.CHANGED)
    ]
    if block.removed is not None:
        found.append(
            Template(Change.REMOVED, Change.REMOVED, kind, Image.BEFORE, None, block.removed.traits, nulls)
        )
    return tuple(found)


def _track(sync: Sync, block: Track) -> Iterator[Template]:
    for change, call in block.calls.items():
        for_added = change is Change.ADDED
        yield Template(
            change=change,
            rank=change,
            type="track",
            image=Image.BEFORE if change is Change.REMOVED else Image.AFTER,
            event=call.event,
            fields={**block.fields, **(call.properties or {})},
            nulls=sync.nulls or Nulls.OMIT,
            timestamp=call.timestamp or (block.timestamp if for_added else None),
            message_id=call.message_id or (block.message_id if for_added else None),
            previous=call.previous,
        )


def _audience(sync: Sync, block: Audience) -> Iterator[Template]:
    nulls = sync.nulls or Nulls.OMIT
    noun = "Audience" if block.style == "engage" else "Segment"

    def membership(entered: bool) -> Fields:
        if block.style == "engage" and block.key is not None:
            named = {"audience_key": _constant(block.key), literal_name(block.key): _constant(entered)}
        else:
            named = {"segment_name": _constant(block.name)}
        return {**named, **block.fields}

    # A row that moves to another user leaves at the moment at which it comes.
    for change, leaves in (
        (Change.REMOVED, True),
        (Change.CHANGED, True),
        (Change.ADDED, False),
        (Change.CHANGED, False),
    ):
        yield Template(
            change=change,
            rank=Change.REMOVED if leaves else Change.ADDED,
            type="track",
            image=Image.BEFORE if leaves else Image.AFTER,
            event=Event(name=f"{noun} Exited" if leaves else f"{noun} Entered"),
            fields=membership(entered=not leaves),
            nulls=nulls,
            timestamp=None if change is Change.REMOVED else block.timestamp,
            message_id=None if leaves else block.message_id,
            moved=True if change is Change.CHANGED else None,
        )


def _constant(value: object) -> Value:
    return Value.model_validate({"value": value})
