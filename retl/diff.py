"""The diff: what happened to a model's rows since the snapshot, by SQL.

The TEMP table `change` holds a row for each: `change` ("added", "changed" or "removed"), `key`, and the
row `before` and `after`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import duckdb

from retl import sql
from retl.mapping import Comparison, Mapping
from retl.rejected import Tally
from retl.value import json_text, plain_text, valid_json


@dataclass(frozen=True)
class Diff:
    """How many rows changed, and how.

    Attributes:
        rows_read: rows of the model.
        rows_before: rows of the snapshot.
        added: rows whose key is new.
        changed: rows that differ in what is compared.
        removed: keys of the snapshot that the model no longer has.
        rejected: rows that cannot be sent: after a diff those whose key is null or shared with others.
        by_column: for each thing compared, how many of the changed rows differ in it.
    """

    rows_read: int
    rows_before: int
    added: int
    changed: int
    removed: int
    rejected: int
    by_column: dict[str, int]

    @property
    def rows_matched(self) -> int:
        """Rows with a key of their own."""
        return self.rows_read - self.rejected

    @property
    def unchanged(self) -> int:
        """Rows that are as they were."""
        return self.rows_matched - self.added - self.changed

    def without(self, tally: Tally) -> "Diff":
        """The diff once it is known which rows cannot be sent: they are neither added nor changed."""
        return replace(
            self,
            added=self.added - tally.by_change.get("added", 0),
            changed=self.changed - tally.by_change.get("changed", 0),
            rejected=sum(tally.by_reason.values()),
        )


def diff(
    db: duckdb.DuckDBPyConnection, new: Mapping, old: Mapping | None, compared: Sequence[Comparison]
) -> Diff:
    """Compare the staged rows with the snapshot, into the TEMP table `change`.

    Args:
        db: the state's connection, with `stage` and `key_fault` filled.
        new: the mapping, with the types of the staged rows.
        old: the mapping with which the snapshot was built; None on a first pass.
        compared: what is compared.
    """
    differ = _any(_differs(one, new, old, "old.row", "new.row") for one in compared)
    db.execute(_CHANGES.format(differ=differ))
    if old is not None:
        _forgive_json_spelling(db, new, old, compared)
    return _count(db, new, old, compared)


_CHANGES = """
CREATE OR REPLACE TEMP TABLE change AS
SELECT
    CASE WHEN old.key IS NULL THEN 'added' WHEN new.key IS NULL THEN 'removed' ELSE 'changed' END AS change,
    coalesce(new.key, old.key) AS key,
    old.row AS before,
    new.row AS after
FROM stage AS new
FULL JOIN state.snapshot AS old ON new.key = old.key
WHERE coalesce(new.key, old.key) IS NOT NULL
    AND coalesce(new.key, old.key) NOT IN (SELECT key FROM key_fault WHERE key IS NOT NULL)
    AND (old.key IS NULL OR new.key IS NULL OR {differ})
"""


def _any(conditions: Iterable[str]) -> str:
    return f"({sql.join_lines(list(conditions) or ['false'], ' OR', indent=' ' * 8)})"


def _differs(one: Comparison, new: Mapping, old: Mapping | None, before_row: str, after_row: str) -> str:
    """True where the two rows differ in one thing; equal spelling is equal, whatever the types."""
    before_type = old.types.get(one.before) if old and one.before else None
    after_type = new.types[one.after]
    after = f"{after_row}[{sql.text(one.after)}]"
    if one.before is None or before_type is None:
        return f"{after} IS NOT NULL"
    before = f"{before_row}[{sql.text(one.before)}]"
    if before_type == after_type:
        return f"{before} IS DISTINCT FROM {after}"
    return f"{_spelled(one, before_type, before)} IS DISTINCT FROM {_spelled(one, after_type, after)}"


def _spelled(one: Comparison, kind: str, value: str) -> str:
    """The text by which values of different types are compared."""
    if one.is_id:
        return plain_text(kind, value)
    if one.is_json_text and kind == "VARCHAR":
        return value
    return json_text(kind, value)


def _forgive_json_spelling(
    db: duckdb.DuckDBPyConnection, new: Mapping, old: Mapping, compared: Sequence[Comparison]
) -> None:
    """Take back changes that are only another key order or other spaces in JSON."""
    pairs = []
    for one in compared:
        if one.is_json and one.before in old.types:
            before = _spelled(one, old.types[one.before], f"before[{sql.text(one.before)}]")
            pairs.append((before, _spelled(one, new.types[one.after], f"after[{sql.text(one.after)}]")))
    if not pairs:
        return
    others = [one for one in compared if not (one.is_json and one.before in old.types)]
    differs_elsewhere = _any(_differs(one, new, old, "before", "after") for one in others)
    in_doubt = f"change = 'changed' AND NOT {differs_elsewhere}"
    texts = (
        f"SELECT {side} AS text FROM change WHERE {in_doubt} AND {before} IS DISTINCT FROM {after}"
        for before, after in pairs
        for side in (before, after)
    )
    db.execute(_JSON_FORMS.replace("<texts>", "\n    UNION\n    ".join(texts)))
    differ = _any(f"{_form(before)} IS DISTINCT FROM {_form(after)}" for before, after in pairs)
    db.execute(f"DELETE FROM change WHERE {in_doubt} AND NOT {differ}")


def _form(text: str) -> str:
    """A JSON text in the form by which it is compared; what is no JSON stays as it is."""
    return f"coalesce((SELECT form FROM json_form WHERE text = {text}), {text})"


_TOKENS = r'"(?:[^"\\]|\\.)*"|[-+0-9.eE]+|[a-z]+|[{}\[\]:,]'

_JSON_FORMS = f"""
CREATE OR REPLACE TEMP TABLE json_form AS
WITH found AS (
    <texts>
),
-- Numbers become marked text before JSON is parsed, because parsing costs digits.
marked AS (
    SELECT
        text,
        array_to_string(
            list_transform(
                regexp_extract_all(text, {sql.text(_TOKENS)}),
                lambda token: CASE
                    WHEN token[1] = '"' THEN '"text ' || token[2:]
                    WHEN regexp_matches(token, '^-?[0-9]+\\.[0-9]+$')
                        THEN '"number ' || rtrim(rtrim(token, '0'), '.') || '"'
                    WHEN regexp_matches(token, '^[-0-9]') THEN '"number ' || token || '"'
                    ELSE token
                END
            ),
            ''
        ) AS marked
    FROM found
    WHERE text IS NOT NULL AND {valid_json("text")}
)
SELECT
    text,
    string_agg(fullkey || ' ' || type || ' ' || coalesce(atom::VARCHAR, ''), chr(10) ORDER BY fullkey) AS form
FROM marked, LATERAL (SELECT fullkey, type, atom FROM json_tree(marked.marked))
GROUP BY text
"""


def _count(
    db: duckdb.DuckDBPyConnection, new: Mapping, old: Mapping | None, compared: Sequence[Comparison]
) -> Diff:
    conditions = [f"change = '{kind}'" for kind in ("added", "changed", "removed")]
    conditions += [f"change = 'changed' AND {_differs(one, new, old, 'before', 'after')}" for one in compared]
    counts = (f"count(*) FILTER ({condition})" for condition in conditions)
    row = db.execute(f"SELECT {', '.join(counts)} FROM change").fetchone()
    totals = db.execute(
        """
        SELECT
            (SELECT count(*) FROM stage),
            (SELECT count(*) FROM state.snapshot),
            (SELECT coalesce(sum(rows), 0) FROM key_fault)
        """
    ).fetchone()
    assert row is not None and totals is not None
    by_column = {one.name.lstrip("."): count for one, count in zip(compared, row[3:], strict=True) if count}
    return Diff(int(totals[0]), int(totals[1]), row[0], row[1], row[2], int(totals[2]), by_column)
