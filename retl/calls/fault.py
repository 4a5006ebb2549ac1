"""Faults of a row: why its call cannot be sent, as conditions in SQL, each with its reason and its column."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from retl import sql
from retl.calls.message_id import MAX_MESSAGE_ID
from retl.calls.rendering import Rendering
from retl.calls.template import Image, Template
from retl.config.sync import Change, Value
from retl.engine.cast import unreadable
from retl.engine.mapping import Part, Use, field_use
from retl.reason import Reason

MAX_GROUP_ID = 500
"""A group id's length limit in characters (Segment Unify, product limits)."""

BLOCKED_IDS = ("0", "-1", "null", "undefined", "anonymous", "nan", "00000000-0000-0000-0000-000000000000")
"""Ids that come from a bad cast and would merge profiles (Segment Unify, identity resolution settings)."""

SHOWN_VALUE = 200
"""Characters that are kept of a value for which a row is rejected."""


@dataclass(frozen=True)
class _Fault:
    """A condition under which a row's call cannot be sent, the reason, and the column that is the cause."""

    condition: str
    reason: Reason
    column: str


def first_fault(rendering: Rendering, template: Template) -> str:
    """The SQL of the first reason for which a row's call cannot be sent; NULL where there is none."""
    return _first_case(_in_order(rendering, template), lambda fault: sql.text(fault.reason))


def select_at_fault(rendering: Rendering, template: Template, keys: str) -> str:
    """The SELECT of the value for which the calls of one template cannot be sent.

    Args:
        rendering: all that the calls depend on.
        template: the kind of change, and its call.
        keys: a SELECT of the keys of rows that cannot be sent.

    Returns:
        A statement with the columns `key`, `reason`, `at_fault`, which is the name of the column, and
        `value`, the beginning of its text.
    """
    faults = _in_order(rendering, template)
    reason = _first_case(faults, lambda fault: sql.text(fault.reason))
    column = _first_case(faults, lambda fault: sql.text(fault.column))
    value = _first_case(faults, lambda fault: rendering.text(template.image, fault.column))
    return f"""\
SELECT key, {reason} AS reason, {column} AS at_fault, left({value}, {SHOWN_VALUE}) AS value
FROM change
WHERE change = {sql.text(template.change)} AND key IN ({keys}){rendering.moved(template)}"""


def _first_case(faults: Iterable[_Fault], value: Callable[[_Fault], str]) -> str:
    """The SQL of a value of the first fault whose condition holds; NULL where none does."""
    cases = [f"WHEN {fault.condition} THEN {value(fault)}" for fault in faults]
    return f"CASE\n{' ' * 12}{sql.join_lines(cases, separator='', indent=' ' * 12)}\n{' ' * 8}END"


def _in_order(rendering: Rendering, template: Template) -> list[_Fault]:
    """The faults that a row's call can have, in the order of their reasons, and then of the sync file."""
    order = list(Reason)
    return sorted(_faults(rendering, template), key=lambda fault: order.index(fault.reason))


def _faults(rendering: Rendering, template: Template) -> Iterator[_Fault]:
    """The faults that a row's call can have, but for its size."""
    yield from _id_faults(rendering, rendering.ids(template))
    if template.event is not None and template.event.column is not None:
        event = f"trim(coalesce({rendering.event(template)}, '')) = ''"
        column = rendering.source(template, Use(Part.EVENT), template.event.column)
        yield _Fault(event, Reason.NO_EVENT_NAME, column)
    yield from _value_faults(rendering, template)
    if template.message_id is not None:
        message_id = rendering.message_id(template)
        is_long = f"length({message_id}) > {MAX_MESSAGE_ID}"
        yield _Fault(is_long, Reason.MESSAGE_ID_TOO_LONG, template.message_id)
        if template.change is Change.CHANGED:
            is_same = f"{message_id} = {rendering.text(Image.BEFORE, template.message_id)}"
            yield _Fault(is_same, Reason.DUPLICATE_MESSAGE_ID, template.message_id)


def _id_faults(rendering: Rendering, ids: Mapping[str, str]) -> Iterator[_Fault]:
    """The faults of an id that is missing or would merge profiles."""
    columns = rendering.mapping.ids
    allowed = {one.lower() for one in rendering.sync.allow_ids}
    # The empty id cannot be allowed: Segment drops it.
    blocked = ["", *(one for one in BLOCKED_IDS if one not in allowed)]
    among = f"IN ({', '.join(map(sql.text, blocked))})"
    users = [name for name in ids if name != "group_id"]
    missing = f"coalesce({', '.join(ids[name] for name in users)}) IS NULL"
    yield _Fault(missing, Reason.NO_ID, columns[users[0]])
    if "group_id" in ids:
        group = columns["group_id"]
        yield _Fault(f"coalesce({ids['group_id']}, '') = ''", Reason.NO_GROUP_ID, group)
        yield _Fault(f"length({ids['group_id']}) > {MAX_GROUP_ID}", Reason.GROUP_ID_TOO_LONG, group)
    for name, one in ids.items():
        yield _Fault(f"lower(trim({one})) {among}", Reason.BLOCKED_ID, columns[name])


def _value_faults(rendering: Rendering, template: Template) -> Iterator[_Fault]:
    """The faults of a timestamp or a field that cannot be read."""
    if template.timestamp is not None:
        column = template.timestamp.column or ""
        yield from _unreadable(rendering, template.latest_image, template.timestamp, column)
    values = {field_use(name): value for name, value in template.fields.items()}
    values |= {Use(Part.CONTEXT, name): value for name, value in rendering.sync.block.context.items()}
    values |= {Use(Part.OPTION, name): value for name, value in rendering.sync.block.options.items()}
    for use, value in values.items():
        if not value.is_constant:
            column = rendering.source(template, use, value.column or "")
            yield from _unreadable(rendering, template.image, value, column)


def _unreadable(rendering: Rendering, image: Image, value: Value, column: str) -> Iterator[_Fault]:
    """The fault of a column whose value is not what its field asks for, where it can have one."""
    kind = rendering.type_of(image, column)
    if kind is not None:
        found = unreadable(value, kind, rendering.column(image, column), rendering.sync.timezone)
        if found is not None:
            condition, reason = found
            yield _Fault(condition, reason, column)


def faults_before(rendering: Rendering, value: Value, column: str) -> list[str]:
    """The condition, if any, under which a value before the change is not what its field asks for now.

    It may have been sent as something else before the sync was edited.
    """
    return [fault.condition for fault in _unreadable(rendering, Image.BEFORE, value, column)]
