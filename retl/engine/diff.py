"""The diff: what happened to a model's rows since the snapshot, by SQL.

The TEMP view `change` holds a row for each: `change` ("added", "changed" or "removed"; "unchanged" for
rows that are sent again all the same), `key`, the row `before` and `after`, and the `hash` of the newest of
them. It shows the TEMP table `differing`; but the staged rows themselves on a first pass whose rows are in
the state file already, as all of them are added. Keys of rows in which JSON is only written otherwise than
before are in the TEMP table `respelled`, and those of rows in which other values mean the same to a cast.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from retl import sql
from retl.engine.canonical import bare_json, json_text, plain_text
from retl.engine.cast import cast_json, unreadable
from retl.engine.json_form import find_forms, form
from retl.engine.landing import Landing, Staged
from retl.engine.mapping import Comparison, SyncMapping

SMALL_SNAPSHOT = 100
"""The rows below which a snapshot is too small for percentages to mean much."""

SUSPICIOUS_SHARE = 0.95
"""The share of known rows (0 to 1) above which a difference is taken for a stamp of each load, not news."""


@dataclass(frozen=True)
class Diff:
    """How many rows changed, and how.

    Attributes:
        rows_read: rows of the model.
        rows_before: rows of the snapshot.
        added: rows whose key is new.
        changed: rows that differ in what is compared.
        removed: keys of the snapshot that the model no longer has.
        rejected_by: rows that cannot be sent, by reason: after a diff those that cannot be compared, as
            their key is null or shared with others, or a value of theirs is none.
        resent: unchanged rows that are sent again.
        by_column: for each thing compared, how many of the changed rows differ in it.
    """

    rows_read: int
    rows_before: int
    added: int
    changed: int
    removed: int
    rejected_by: dict[str, int]
    resent: int
    by_column: dict[str, int]

    @property
    def rejected(self) -> int:
        """Rows that cannot be sent."""
        return sum(self.rejected_by.values())

    @property
    def rows_matched(self) -> int:
        """Rows that can be compared."""
        return self.rows_read - self.rejected

    @property
    def unchanged(self) -> int:
        """Rows that are as they were."""
        return self.rows_matched - self.added - self.changed

    @property
    def suspicious_columns(self) -> dict[str, float]:
        """Each thing compared that differs in nearly every known row, with the share of those rows (0 to 1).

        Such a difference is seldom news of the rows: rather a stamp of each load, or another spelling. Empty
        where fewer than `SMALL_SNAPSHOT` rows are known.
        """
        known = self.rows_matched - self.added
        if known < SMALL_SNAPSHOT:
            return {}
        shares = {name: rows / known for name, rows in self.by_column.items()}
        return {name: share for name, share in shares.items() if share > SUSPICIOUS_SHARE}

    def without(self, by_change: Mapping[str, int], by_reason: Mapping[str, int]) -> "Diff":
        """The diff once it is known which rows cannot be sent: they are neither added nor changed.

        Args:
            by_change: how many rows are rejected, by the kind of change that they would have been.
            by_reason: how many rows are rejected, by reason; also rows that were never compared.
        """
        return replace(
            self,
            added=self.added - by_change.get("added", 0),
            changed=self.changed - by_change.get("changed", 0),
            rejected_by=dict(by_reason),
        )


def diff(
    db: duckdb.DuckDBPyConnection,
    staged: Staged,
    old: SyncMapping | None,
    compared: Sequence[Comparison],
    rows_before: int,
    full: bool = False,
) -> Diff:
    """Compare the staged rows with the snapshot, into the TEMP view `change`.

    Args:
        db: the state's connection, with `stage`, `row_fault` and `unmatched` filled.
        staged: the rows of the model.
        old: the mapping with which the snapshot was built; None on a first pass.
        compared: what is compared.
        rows_before: rows of the snapshot.
        full: whether unchanged rows are sent again.
    """
    new = staged.mapping
    db.execute("CREATE OR REPLACE TEMP TABLE respelled (key VARCHAR)")
    if old is None and staged.landing is Landing.IN_STATE:
        db.execute(_ALL_ADDED)
        return _count_added(db, staged.rows)
    differ = _any([*(differs(one, new, old, "old.row", "new.row") for one in compared), "old.stale"])
    db.execute(_create_changes(differ, full))
    show_changes(db)
    if old is not None:
        _ignore_json_spelling(db, new, old, compared, full)
        _take_as_before(db, old, _same_without_json(new, old))
        if old == new and any(one.cast for one in compared):
            db.execute(_RESPELLED_FOR_CASTS)
    return _count(db, new, old, compared, staged.rows, rows_before)


def show_changes(db: duckdb.DuckDBPyConnection, but: str = "SELECT NULL WHERE false") -> None:
    """Make the view `change` of the table `differing`, whose columns may be of other types than before.

    Args:
        db: the state's connection.
        but: a SELECT of the keys of rows that it is not to show.
    """
    db.execute(f"CREATE OR REPLACE TEMP VIEW change AS SELECT * FROM differing WHERE key NOT IN ({but})")


_ALL_ADDED = """
CREATE OR REPLACE TEMP VIEW change AS
SELECT
    'added' AS change, key, (SELECT row FROM known WHERE false) AS before, row AS after, false AS stale, hash
FROM stage
WHERE key IS NOT NULL AND key NOT IN (SELECT key FROM row_fault WHERE key IS NOT NULL)
"""


def _create_changes(differ: str, full: bool) -> str:
    """The statement that makes the table of rows that are new, gone, or differ; in full, of all."""
    wanted = "true" if full else differ
    kind = f"CASE WHEN {differ} THEN 'changed' ELSE 'unchanged' END" if full else "'changed'"
    return f"""\
CREATE OR REPLACE TEMP TABLE differing AS
SELECT
    CASE WHEN old.key IS NULL THEN 'added' WHEN new.key IS NULL THEN 'removed' ELSE {kind} END AS change,
    coalesce(new.key, old.key) AS key,
    old.row AS before,
    new.row AS after,
    old.stale AS stale,
    CASE WHEN new.key IS NULL THEN old.hash ELSE new.hash END AS hash
FROM stage AS new
FULL JOIN unmatched AS old ON new.key = old.key
WHERE coalesce(new.key, old.key) IS NOT NULL
    AND coalesce(new.key, old.key) NOT IN (SELECT key FROM row_fault WHERE key IS NOT NULL)
    AND (old.key IS NULL OR new.key IS NULL OR {wanted})"""


# Of these rows only the hashes tell that a value is another than it was.
_RESPELLED_FOR_CASTS = """
INSERT INTO respelled
SELECT key
FROM stage AS new JOIN unmatched AS old USING (key)
WHERE new.hash IS DISTINCT FROM old.hash
    AND key NOT IN (SELECT key FROM change UNION ALL SELECT key FROM respelled)
    AND key NOT IN (SELECT key FROM row_fault WHERE key IS NOT NULL)
"""


def _any(conditions: Iterable[str]) -> str:
    return f"({sql.join_lines(list(conditions) or ['false'], ' OR', indent=' ' * 8)})"


def differs(
    one: Comparison, new: SyncMapping, old: SyncMapping | None, before_row: str, after_row: str
) -> str:
    """True where the two rows differ in one thing; equal spelling is equal, whatever the types.

    What a field casts differs where the cast does, or where one of the two cannot be cast.
    """
    after_type = new.types[one.after]
    before_type = old.type_of(one.before, after_type) if old and one.before else None
    after = f"{after_row}[{sql.text(one.after)}]"
    if old is None or one.before is None or before_type is None:
        return f"{after} IS NOT NULL"
    before = f"{before_row}[{sql.text(one.before)}]"
    if old.types[one.before] == after_type and not one.is_json_anew:
        unequal = f"{before} IS DISTINCT FROM {after}"
    else:
        unequal = f"{_spelled(one, before_type, before)} IS DISTINCT FROM {_spelled(one, after_type, after)}"
    if one.cast is None or new.timezone is None:
        return unequal
    cast_before = cast_json(one.cast, before_type, before, new.timezone)
    cast_after = cast_json(one.cast, after_type, after, new.timezone)
    faults = (
        unreadable(one.cast, kind, value, new.timezone)
        for kind, value in ((before_type, before), (after_type, after))
    )
    readable = [f"NOT coalesce({fault[0]}, false)" for fault in faults if fault]
    still = " AND ".join([f"{cast_before} IS NOT DISTINCT FROM {cast_after}", *readable])
    return f"({unequal} AND NOT ({still}))"


def _spelled(one: Comparison, kind: str, value: str) -> str:
    """The text by which values of different types are compared."""
    if one.is_id:
        return plain_text(kind, value)
    if one.is_json_anew and kind == "VARCHAR":
        return bare_json(value)
    if one.is_json_text and kind == "VARCHAR":
        return value
    return json_text(kind, value)


def _ignore_json_spelling(
    db: duckdb.DuckDBPyConnection,
    new: SyncMapping,
    old: SyncMapping,
    compared: Sequence[Comparison],
    full: bool,
) -> None:
    """Take back changes that are only another key order or other spaces in JSON.

    Where a row changed otherwise too, JSON of the same meaning counts as what it was before.

    The diff itself compares JSON as text, which is quick and finds too many changes. So:

    1. Pair the texts before and after of everything compared that may hold JSON (the first pairs), and of
       all columns that hold it, compared or not (the rest).
    2. Give each text that differs a form in the table `json_form`: its paths with type and value, sorted.
       Two texts mean the same if their forms are equal. No other text is parsed.
    3. A changed row in which all compared JSON means the same, in itself or to its field's cast, and nothing
       else differs, is not changed. Its key goes to `respelled`, so that the snapshot takes the new spelling,
       and is not compared again.
    4. In rows that stay changed, `before` takes the JSON of `after` where both mean the same, so that a call
       with `previous` does not name it.
    """
    doubtful = [one for one in compared if one.is_json and one.before in old.types]
    pairs = [_texts(one, new, old) for one in doubtful]
    same_columns = [
        column
        for column in new.columns
        if new.types[column] == old.types.get(column)
        and (new.types[column] == "JSON" or column in new.json_columns)
    ]
    pairs += [
        (_json_in("before", column, new, old), _json_in("after", column, new, old)) for column in same_columns
    ]
    if not pairs or not find_forms(db, "change WHERE change = 'changed'", pairs):
        return
    same = [f"{form(before)} IS NOT DISTINCT FROM {form(after)}" for before, after in pairs]
    alike = [
        f"({equal} OR NOT {differs(one, new, old, 'before', 'after')})" if one.cast else equal
        for one, equal in zip(doubtful, same, strict=False)
    ]
    others = [one for one in compared if one not in doubtful]
    differs_elsewhere = _any(differs(one, new, old, "before", "after") for one in others)
    only_respelled = " AND ".join(["NOT stale", f"NOT {differs_elsewhere}", *alike])
    db.execute(f"INSERT INTO respelled SELECT key FROM change WHERE change = 'changed' AND {only_respelled}")
    is_respelled = "change = 'changed' AND key IN (SELECT key FROM respelled)"
    if full:
        db.execute(f"UPDATE differing SET change = 'unchanged' WHERE {is_respelled}")
    else:
        db.execute(f"DELETE FROM differing WHERE {is_respelled}")
    _take_as_before(db, old, dict(zip(same_columns, same[len(doubtful) :], strict=True)))


def _same_without_json(new: SyncMapping, old: SyncMapping) -> dict[str, str]:
    """The condition, by column, that the text is the same of what is not read as JSON any more.

    The snapshot has NULL for a JSON null, too, so that NULL and the text `null` count as the same here.
    """
    found = {}
    for column in set(old.json_columns) & (set(new.columns) - set(new.json_columns)):
        if new.types[column] == old.types[column]:
            before, after = (_json_in(row, column, new, old) for row in ("before", "after"))
            found[column] = f"{before} IS NOT DISTINCT FROM {after}"
    return found


def _json_in(row: str, column: str, new: SyncMapping, old: SyncMapping) -> str:
    """The JSON text of a column before or after, in the view `change`."""
    text = f"{row}[{sql.text(column)}]::VARCHAR"
    is_anew = (column in new.json_columns) != (column in old.json_columns)
    return bare_json(text) if is_anew else text


def _texts(one: Comparison, new: SyncMapping, old: SyncMapping) -> tuple[str, str]:
    """The JSON texts of one thing before and after, in the view `change`."""
    assert one.before is not None
    before_type = old.type_of(one.before, new.types[one.after]) or "NULL"
    before = _spelled(one, before_type, f"before[{sql.text(one.before)}]")
    return before, _spelled(one, new.types[one.after], f"after[{sql.text(one.after)}]")


def _take_as_before(db: duckdb.DuckDBPyConnection, old: SyncMapping, same: dict[str, str]) -> None:
    """Let changed rows have had the JSON that they have now, where it means the same."""
    if not same:
        return
    members = []
    for column in old.columns:
        was = f"before[{sql.text(column)}]"
        value = (
            f"CASE WHEN {same[column]} THEN after[{sql.text(column)}] ELSE {was} END"
            if column in same
            else was
        )
        members.append(f"{sql.name(column)} := {value}")
    db.execute(f"UPDATE differing SET before = struct_pack({', '.join(members)}) WHERE change = 'changed'")


def _count_added(db: duckdb.DuckDBPyConnection, rows_read: int) -> Diff:
    """The counts where all rows that can be compared are added."""
    rejected_by = _faults(db)
    added = rows_read - sum(rejected_by.values())
    return Diff(rows_read, 0, added, 0, 0, rejected_by, resent=0, by_column={})


def _faults(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many rows cannot be compared, by reason."""
    found = db.execute("SELECT reason, sum(rows)::BIGINT FROM row_fault GROUP BY reason ORDER BY reason")
    return dict(found.fetchall())


def _count(
    db: duckdb.DuckDBPyConnection,
    new: SyncMapping,
    old: SyncMapping | None,
    compared: Sequence[Comparison],
    rows_read: int,
    rows_before: int,
) -> Diff:
    conditions = [f"change = '{kind}'" for kind in ("added", "changed", "removed", "unchanged")]
    conditions += [f"change = 'changed' AND {differs(one, new, old, 'before', 'after')}" for one in compared]
    counts = (f"count(*) FILTER ({condition})" for condition in conditions)
    row = db.execute(f"SELECT {', '.join(counts)} FROM change").fetchone()
    assert row is not None
    added, changed, removed, resent, *differing = row
    names = [one.use.label for one in compared]
    return Diff(
        rows_read=rows_read,
        rows_before=rows_before,
        added=added,
        changed=changed,
        removed=removed,
        rejected_by=_faults(db),
        resent=resent,
        by_column={name: rows for name, rows in zip(names, differing, strict=True) if rows},
    )
