"""Parts of a call that its row gives: a template and a sync's mapping become one SELECT over the changes.

JSON is spliced from canonical values and never parsed and written again, which would cost digits.

On its way from the row into the call, a field passes these steps:

1. The column is looked up (`Rendering.source`): the one that the sync maps now, or, for a row that is gone
   and lacks it, the one that was mapped while the row was there.
2. It is read from one version of the row, `after['plan']` or `before['plan']` (`Rendering.column`).
3. The value becomes JSON text, cast if the field has `as` (`_json`). Where it cannot be read, the row gets a
   reason (`retl.calls.fault`).
4. If it is null, the policy decides (`_field`): `send` writes null, `omit` leaves the field out, `clear`
   writes null only where a value was sent before.
5. The fields become nested objects by their dotted names (`retl.calls.json_sql`), and the objects become
   `head`: all of the call but its message id and timestamp.
"""

from collections.abc import Mapping

from retl import sql
from retl.calls.fault import faults_before, first_fault
from retl.calls.json_sql import json_object, members, object_member
from retl.calls.rendering import Rendering
from retl.calls.template import RANK, Image, Template
from retl.config.sync import Change, Nulls, Value
from retl.engine.cast import cast_json, moment
from retl.engine.mapping import Part, Use, field_use
from retl.forms.dotted import path
from retl.json_values import json_constant, json_string
from retl.version import __version__

LIBRARY = f'{{"name":"retl","version":"{__version__}"}}'
"""`context.library` of every call, as JSON: the name and version of retl (Segment Spec, common fields)."""


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
        {rendering.message_id(template)} AS own_id,
        {_timestamp(rendering, template)} AS stamp,
        {first_fault(rendering, template)} AS fault,
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
            differs = _any(f"{before} IS DISTINCT FROM {after}", faults_before(rendering, value, known_as))
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
        had = _any(f"{known} IS NOT NULL", faults_before(rendering, value, sent_from))
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
    for condition in faults_before(rendering, value, column):
        text = f"CASE WHEN {condition} THEN NULL ELSE {text} END"
    return text


def _any(condition: str, others: list[str]) -> str:
    return f"({' OR '.join([condition, *others])})"
