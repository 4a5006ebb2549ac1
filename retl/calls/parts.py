"""Parts of a call that its row gives: a template and a sync's mapping become one SELECT over the changes.

JSON is spliced from canonical values and never parsed and written again, which would cost digits.

On its way from the row into the call, a field passes these steps:

1. The column is looked up (`Rendering.source`): the one that the sync maps now, or, for a row that is gone
   and lacks it, the one that was mapped while the row was there.
2. It is read from one version of the row, `after['plan']` or `before['plan']` (`Rendering.column`).
3. The value becomes JSON text, cast if the field has `as` (`_json`). Where it cannot be read, the row gets a
   reason (`_value_faults`).
4. If it is null, the policy decides (`_field`): `send` writes null, `omit` leaves the field out, `clear`
   writes null only where a value was sent before.
5. The fields become nested objects by their dotted names (`retl.calls.json_sql`), and the objects become
   `head`: all of the call but its message id and timestamp.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from retl import sql
from retl.calls.json_sql import json_object, members, object_member
from retl.calls.rendering import Rendering
from retl.calls.template import RANK, Image, Template
from retl.config.sync import Change, Nulls, Value
from retl.engine.cast import cast_json, moment, unreadable
from retl.engine.mapping import Part, Use, field_use
from retl.forms.dotted import path
from retl.json_values import json_constant, json_string
from retl.reason import Reason
from retl.version import __version__

LIBRARY = f'{{"name":"retl","version":"{__version__}"}}'
"""`context.library` of every call, as JSON: the name and version of retl (Segment Spec, common fields)."""

MAX_GROUP_ID = 500
"""A group id's length limit in characters (Segment Unify, product limits)."""

BLOCKED_IDS = ("0", "-1", "null", "undefined", "anonymous", "nan", "00000000-0000-0000-0000-000000000000")
"""Ids that come from a bad cast and would merge profiles (Segment Unify, identity resolution settings)."""

SHOWN_VALUE = 200
"""Characters that are kept of a value for which a row is rejected."""


def select_parts(rendering: Rendering, template: Template, source: str = "change", more: str = "") -> str:
    """The SELECT of the parts of one template's calls.

    Args:
        rendering: all that the calls depend on.
        template: the kind of change, and its call.
        source: the changes: the view `change`, or a SELECT of columns as it has.
        more: further columns of it to pass on, each after a comma.

    Returns:
        A statement with these columns: `counts_as` is the kind of change as which the call is ordered and
        identified, `lane_of` the user whose lane it takes, `own_id` and `stamp` the message id and the moment
        that its row gives, NULL where it gives none, `fault` the reason why its row cannot be sent, `head`
        the members of its JSON object but for message id and timestamp, and `most_bytes` a size that the
        finished object does not reach.
    """
    ids = rendering.ids(template)
    user, anonymous = ids.get("user_id", "NULL::VARCHAR"), ids.get("anonymous_id", "NULL::VARCHAR")
    own_id = rendering.message_id(template)
    values: list[str] = []
    head = _head(rendering, template, ids, values)
    return f"""\
    SELECT
        change, key,
        {RANK[template.rank]} AS rank,
        {sql.text(template.rank)} AS counts_as,
        {sql.text(template.type)} AS type,
        {rendering.event(template)} AS event,
        coalesce({user}, {anonymous}) AS user_id,
        {rendering.user(template.latest_image)} AS lane_of,
        {own_id} AS own_id,
        {_timestamp(rendering, template)} AS stamp,
        {_fault(rendering, template, ids, own_id)} AS fault,
        {_undated(rendering, template)} AS undated,
        hash{more},
        {_most_bytes(rendering, " ".join([*values, *head]))} AS most_bytes,
        concat(
            {sql.join_lines(head, indent=" " * 12)}
        ) AS head
    FROM (
        -- The JSON of all values, each by a name, as it stands in `head` several times.
        SELECT
            *,
            {sql.join_lines(values, indent=" " * 12)}
        FROM {source}
        WHERE change = {sql.text(template.change)}{rendering.moved(template)}
    )"""


def _most_bytes(rendering: Rendering, head: str) -> str:
    """The SQL of more bytes than a call can have, told without making its text.

    The SQL of the members holds their names and constants, and id and timestamp take less than 1,000 bytes. A
    column that is no text takes at most 100 bytes each time, a text six times its own: a control character is
    six characters in JSON.
    """
    fixed, texts = len(head.encode()) + 1_000, []
    for image in Image:
        for column in rendering.mapping.columns:
            times = head.count(rendering.column(image, column)) if rendering.type_of(image, column) else 0
            fixed += 100 * times
            if times and rendering.type_of(image, column) in ("VARCHAR", "JSON"):
                texts.append(
                    f"{6 * times} * strlen(coalesce({rendering.column(image, column)}::VARCHAR, ''))"
                )
    return " + ".join([str(fixed), *texts])


def _head(rendering: Rendering, template: Template, ids: Mapping[str, str], values: list[str]) -> list[str]:
    """The members of a call's JSON object, in order, but for message id and timestamp; parts for a concat.

    The SQL of the values in it goes to `values`.
    """
    names = {"user_id": "userId", "anonymous_id": "anonymousId", "group_id": "groupId"}
    texts = {name: ids[one] for one, name in names.items() if one in ids}
    if template.event is not None:
        texts["event"] = rendering.event(template)
    body_name = "properties" if template.type == "track" else "traits"
    json_texts = {name: f"to_json({text})::VARCHAR" for name, text in texts.items()}
    parts = [sql.text(f'"type":"{template.type}"'), *members(_named(json_texts, values))]
    parts += object_member(body_name, _named(_body(rendering, template, values), values))
    parts += object_member("context", _named(_context(rendering, template), values))
    if rendering.sync.block.options:
        parts += object_member("integrations", _named(_options(rendering, template), values))
    elif rendering.sync.block.integrations:
        parts.append(sql.text(',"integrations":' + json_constant(rendering.sync.block.integrations)))
    return parts


def _named(fields: Mapping[str, str], values: list[str]) -> dict[str, str]:
    """The fields with names for the SQL of their values, which goes to `values`."""
    named = {}
    for name, value in fields.items():
        named[name] = f"value_{len(values)}"
        values.append(f"{value} AS {named[name]}")
    return named


@dataclass(frozen=True)
class _Fault:
    """A condition under which a row's call cannot be sent, the reason, and the column that is the cause."""

    condition: str
    reason: Reason
    column: str


def _fault(rendering: Rendering, template: Template, ids: Mapping[str, str], own_id: str) -> str:
    """The SQL of the first reason for which a row's call cannot be sent; NULL where there is none."""
    return _first_case(_faults(rendering, template, ids, own_id), lambda fault: sql.text(fault.reason))


def select_at_fault(rendering: Rendering, template: Template, keys: str) -> str:
    """The SELECT of the value for which the calls of one template cannot be sent.

    Args:
        rendering: all that the calls depend on.
        template: the kind of change, and its call.
        keys: a SELECT of the keys of rows that cannot be sent.

    Returns:
        A statement with the columns `key`, `at_fault`, which is the name of the column, and `value`, the
        beginning of its text.
    """
    ids = rendering.ids(template)
    faults = list(_faults(rendering, template, ids, rendering.message_id(template)))
    column = _first_case(faults, lambda fault: sql.text(fault.column))
    value = _first_case(faults, lambda fault: rendering.text(template.image, fault.column))
    return f"""\
SELECT key, {column} AS at_fault, left({value}, {SHOWN_VALUE}) AS value
FROM change
WHERE change = {sql.text(template.change)} AND key IN ({keys}){rendering.moved(template)}"""


def _first_case(faults: Iterable[_Fault], value: Callable[[_Fault], str]) -> str:
    """The SQL of a value of the first fault whose condition holds; NULL where none does."""
    cases = [f"WHEN {fault.condition} THEN {value(fault)}" for fault in faults]
    return f"CASE\n{' ' * 12}{sql.join_lines(cases, separator='', indent=' ' * 12)}\n{' ' * 8}END"


def _faults(
    rendering: Rendering, template: Template, ids: Mapping[str, str], own_id: str
) -> Iterator[_Fault]:
    """The faults that a row's call can have, those first that count first."""
    yield from _id_faults(rendering, ids)
    if template.event is not None and template.event.column is not None:
        event = f"trim(coalesce({rendering.event(template)}, '')) = ''"
        column = rendering.source(template, Use(Part.EVENT), template.event.column)
        yield _Fault(event, Reason.NO_EVENT_NAME, column)
    if template.message_id is not None and template.change is Change.CHANGED:
        last = rendering.text(Image.BEFORE, template.message_id)
        yield _Fault(f"{own_id} = {last}", Reason.DUPLICATE_MESSAGE_ID, template.message_id)
    yield from _value_faults(rendering, template)


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


def _timestamp(rendering: Rendering, template: Template) -> str:
    """The instant that a column gives, NULL where the moment of detection is to be taken."""
    if template.timestamp is None:
        return "NULL::TIMESTAMP"
    column = template.timestamp.column or ""
    instant = _moment(rendering, template.latest_image, template.timestamp, column)
    if template.change is not Change.CHANGED or template.again:
        return instant
    last = _moment(rendering, Image.BEFORE, template.timestamp, column)
    return f"CASE WHEN {last} IS NULL OR {instant} > {last} THEN {instant} END"


def _moment(rendering: Rendering, image: Image, value: Value, column: str) -> str:
    kind = rendering.type_of(image, column)
    if kind is None:
        return "NULL::TIMESTAMP"
    return moment(value, kind, rendering.column(image, column), rendering.sync.timezone)


def _undated(rendering: Rendering, template: Template) -> str:
    """True where the column of the call's moment is null."""
    if template.timestamp is None:
        return "false"
    return f"{rendering.column(template.latest_image, template.timestamp.column or '')} IS NULL"


def _body(rendering: Rendering, template: Template, values: list[str]) -> dict[str, str]:
    """The SQL of traits or properties, by their names; of values that are used more than once in `values`."""
    fields = {
        name: _field(rendering, template, field_use(name), value) for name, value in template.fields.items()
    }
    if template.previous:
        was, names = {}, []
        for name, value in template.fields.items():
            if value.column is None:
                continue
            known_as = rendering.old_column(template, field_use(name)) or value.column
            before = _known_json(rendering, value, known_as)
            after = _json(rendering, Image.AFTER, value, value.column)
            differs = _any(f"{before} IS DISTINCT FROM {after}", _faults_before(rendering, value, known_as))
            was[name] = f"CASE WHEN {differs} THEN coalesce({before}, 'null') END"
            names.append(f"CASE WHEN {differs} THEN {sql.text(json_string('.'.join(path(name))))} END")
        fields["previous"] = json_object(_named(was, values))
        fields["changed"] = f"'[' || concat_ws(',', {', '.join(names) or 'NULL'}) || ']'"
    return fields


def _context(rendering: Rendering, template: Template) -> dict[str, str]:
    fields = {
        name: _field(rendering, template, Use(Part.CONTEXT, name), value, Nulls.OMIT)
        for name, value in rendering.sync.block.context.items()
    }
    if not any(path(name)[0] == "library" for name in fields):
        fields["library"] = sql.text(LIBRARY)
    return fields


def _options(rendering: Rendering, template: Template) -> dict[str, str]:
    """The fields of the integrations object, where a column has a part in it."""
    return {
        name: _field(rendering, template, Use(Part.OPTION, name), value, Nulls.OMIT)
        for name, value in rendering.sync.block.options.items()
    }


def _field(
    rendering: Rendering, template: Template, use: Use, value: Value, nulls: Nulls | None = None
) -> str:
    """The JSON text of one field, NULL where it is left out."""
    if value.is_constant:
        return sql.text(json_constant(value.constant))
    written = _json(rendering, template.image, value, rendering.source(template, use, value.column or ""))
    policy = value.nulls or nulls or template.nulls
    if policy is Nulls.SEND:
        return f"coalesce({written}, 'null')"
    sent_from = rendering.old_column(template, use)
    if policy is Nulls.CLEAR and template.image is Image.AFTER and sent_from is not None:
        known = _json(rendering, Image.BEFORE, value, sent_from)
        had = _any(f"{known} IS NOT NULL", _faults_before(rendering, value, sent_from))
        return f"coalesce({written}, CASE WHEN {had} THEN 'null' END)"
    return written


def _json(rendering: Rendering, image: Image, value: Value, column: str) -> str:
    """The JSON text of a column's value in one of the rows; NULL where that row lacks the column."""
    kind = rendering.type_of(image, column)
    if kind is None:
        return "NULL::VARCHAR"
    return cast_json(value, kind, rendering.column(image, column), rendering.sync.timezone)


def _known_json(rendering: Rendering, value: Value, column: str) -> str:
    """The JSON of a column before the change; NULL where it was not what its field asks for now."""
    text = _json(rendering, Image.BEFORE, value, column)
    for condition in _faults_before(rendering, value, column):
        text = f"CASE WHEN {condition} THEN NULL ELSE {text} END"
    return text


def _faults_before(rendering: Rendering, value: Value, column: str) -> list[str]:
    """The condition, if any, under which a value before the change is not what its field asks for now.

    It may have been sent as something else before the sync was edited.
    """
    return [fault.condition for fault in _unreadable(rendering, Image.BEFORE, value, column)]


def _any(condition: str, others: list[str]) -> str:
    return f"({' OR '.join([condition, *others])})"
