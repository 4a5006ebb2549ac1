"""The landing of a model's rows: the table that takes them as they are read, before they are compared."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import duckdb

from retl import sql
from retl.engine.canonical import Canonical, common_type, converted
from retl.engine.mapping import SyncMapping
from retl.engine.row_hash import row_hash

SEQ = "retl_seq"
"""The column of a batch that numbers the rows in the order in which they are read."""


class Landing(StrEnum):
    """A table that takes rows."""

    ASIDE = "staged"
    """A TEMP table of all rows."""

    IN_STATE = "state.arriving"
    """A table of all rows in the state file, which can become the snapshot without a copy."""

    UNLESS_KNOWN = "arrived"
    """A TEMP table that holds of a row which the snapshot has just so only the number of that one; and the
    numbers of the snapshot's rows that no row was just like."""

    SHIPPED = "shipped"
    """A TEMP table of rows that were chosen in the warehouse, with the numbers that they have there."""


class Purpose(StrEnum):
    """The purpose for which a model's rows are staged: it decides which rows are kept, and where."""

    COMPARE = "compare"
    """Rows that may differ from the snapshot, and those of a first pass, aside: the state stays as it is."""

    LOOK_UP = "look up"
    """Every row, also where the snapshot has it just so, aside."""

    PROMOTE = "promote"
    """As to compare; but the rows of a first pass go to the state file at once, which saves a copy."""

    def landing(self, is_first: bool, all_rows: bool) -> Landing:
        """The table that takes the rows.

        Args:
            is_first: whether there is no snapshot.
            all_rows: whether rows are needed though the snapshot has them just so.
        """
        if is_first:
            return Landing.IN_STATE if self is Purpose.PROMOTE else Landing.ASIDE
        return Landing.ASIDE if all_rows or self is Purpose.LOOK_UP else Landing.UNLESS_KNOWN


@dataclass(frozen=True)
class Table:
    """The table that takes the rows of one read.

    Attributes:
        landing: which one.
        mapping: tells which columns make the row, and which are compared.
        types: canonical type of each column, as the table has it.
        compares: whether rows are looked for in the snapshot, which has the same types.
        turn: how many statements have compared rows with it.
        read_twice: columns whose JSON `stage` has as it would be in the timezone of before, too, in
            `as_before`: that was edited.
    """

    landing: Landing
    mapping: SyncMapping
    types: dict[str, str]
    compares: bool = False
    turn: int = 0
    read_twice: tuple[str, ...] = ()

    @property
    def leaves_out_known(self) -> bool:
        """Whether `stage` lacks the rows that the snapshot has just so."""
        return self.landing is Landing.UNLESS_KNOWN

    @property
    def _temp(self) -> str:
        return "" if self.landing is Landing.IN_STATE else "TEMP "

    def create(self, db: duckdb.DuckDBPyConnection) -> None:
        """Make the table, empty."""
        row = ", ".join(f"{sql.name(column)} {stored(self.types[column])}" for column in self.mapping.columns)
        image = f"key VARCHAR, row STRUCT({row})"
        if self.read_twice:
            image += f", as_before STRUCT({', '.join(f'{sql.name(one)} VARCHAR' for one in self.read_twice)})"
        columns = {
            Landing.ASIDE: f"{image}, hash UBIGINT, fault VARCHAR",
            # The columns of the snapshot, and one that goes before it becomes that.
            Landing.IN_STATE: f"{image}, stale BOOL DEFAULT false, hash UBIGINT, seq BIGINT, fault VARCHAR",
            Landing.SHIPPED: f"{image}, hash UBIGINT, seq BIGINT, fault VARCHAR",
            # A list takes no room where it is NULL; a STRUCT would, for each of its columns. Of a row of the
            # snapshot, `missing_after` is the turn after which none had come that is just so.
            Landing.UNLESS_KNOWN: f"number BIGINT, image STRUCT({image}, fault VARCHAR, hash UBIGINT)[], "
            "missing_after INTEGER",
        }
        db.execute(f"CREATE OR REPLACE {self._temp}TABLE {self.landing} ({columns[self.landing]})")

    def insert(
        self, columns: Mapping[str, Canonical], key: str, fault: str, as_before: Mapping[str, str]
    ) -> tuple[str, "Table"]:
        """The statement that takes the rows of `incoming`, and the table after it.

        Args:
            columns: each column of the row.
            key: SQL of the key.
            fault: SQL of the reason to reject the row, NULL where it is sound.
            as_before: SQL of the JSON of the columns that are read twice.
        """
        members = (
            f"{sql.name(column)} := {converted(value.type, self.types[column], value.expression)}"
            for column, value in columns.items()
        )
        image = f"{key} AS key, struct_pack({', '.join(members)}) AS row, {fault} AS fault"
        if self.read_twice:
            texts = (f"{sql.name(one)} := {as_before[one]}" for one in self.read_twice)
            image += f", struct_pack({', '.join(texts)}) AS as_before"
        if self.landing in (Landing.IN_STATE, Landing.SHIPPED):
            image += f", {sql.name(SEQ)} AS seq"
        hashed = f"SELECT *, {row_hash(self.mapping, 'row')} AS hash FROM (SELECT {image} FROM incoming)"
        if not self.leaves_out_known:
            return f"INSERT INTO {self.landing} BY NAME {hashed}", self
        if not (self.compares and fits(columns, self.types)):
            return _INSERT_ALL.format(hashed=hashed), self
        missing = _MISSING_BEFORE if self.turn == 0 else _MISSING.format(turn=self.turn)
        insert = _INSERT_UNLESS_KNOWN.format(hashed=hashed, missing=missing, turn=self.turn + 1)
        return insert, replace(self, turn=self.turn + 1)

    def widened(self, db: duckdb.DuckDBPyConnection, types: Mapping[str, str]) -> "Table":
        """The table with room for values of other types; how the ones in it are spelled stays."""
        wider = {column: common_type(self.types[column], types[column]) for column in self.mapping.columns}
        if wider == self.types:
            return self
        row = "image[1].row" if self.leaves_out_known else "row"
        values = {column: f"{row}[{sql.text(column)}]" for column in self.mapping.columns}
        members = ", ".join(
            f"{sql.name(column)} := {converted(self.types[column], wider[column], value)}"
            for column, value in values.items()
        )
        hashed = row_hash(self.mapping, "row")
        if self.leaves_out_known:
            image = _image("image[1].key", "row", "image[1].fault", hashed)
            filled = f"""
                SELECT number, {image} AS image, missing_after
                FROM (SELECT *, struct_pack({members}) AS row FROM arrived WHERE image IS NOT NULL)
                UNION ALL
                SELECT number, NULL, missing_after FROM arrived WHERE image IS NULL
            """
        else:
            filled = f"SELECT * REPLACE (struct_pack({members}) AS row) FROM {self.landing}"
            filled = f"SELECT * REPLACE ({hashed} AS hash) FROM ({filled})"
        db.execute(f"CREATE OR REPLACE {self._temp}TABLE {self.landing} AS {filled}")
        return replace(self, types=wider, compares=False)

    def show(self, db: duckdb.DuckDBPyConnection) -> None:
        """Make the TEMP view `stage` of the rows."""
        more = ", as_before" if self.read_twice else ""
        source = (
            _IMAGES if self.leaves_out_known else f"SELECT key, row, fault, hash{more} FROM {self.landing}"
        )
        db.execute(f"CREATE OR REPLACE TEMP VIEW stage AS {source}")


@dataclass(frozen=True)
class Staged:
    """The result of staging.

    Attributes:
        mapping: with the canonical type of each column, and the columns whose instants name no zone.
        rows: how many were read.
        landing: the table that took them.
        turn: how many statements have compared them with the snapshot.
    """

    mapping: SyncMapping
    rows: int
    landing: Landing
    turn: int


def _image(key: str, row: str, fault: str, hashed: str) -> str:
    """The SQL of a row's image in the table `arrived`, from the SQL of its parts."""
    return f'[struct_pack("key" := {key}, "row" := {row}, "fault" := {fault}, "hash" := {hashed})]'


_INSERT_ALL = f"""\
INSERT INTO arrived BY NAME
SELECT {_image("key", "row", "fault", "hash")} AS image
FROM ({{hashed}})"""

_INSERT_UNLESS_KNOWN = f"""\
INSERT INTO arrived BY NAME
SELECT
    number,
    CASE WHEN number IS NULL THEN {_image("key", "row", "fault", "came.hash")} END AS image,
    CASE WHEN came.hash IS NULL THEN {{turn}} END AS missing_after
FROM (SELECT *, hash(key) AS key_hash FROM ({{hashed}})) AS came
FULL JOIN ({{missing}}) AS missing
    ON CASE WHEN key IS NOT NULL AND fault IS NULL THEN came.key_hash END = missing.key_hash
    AND came.hash = missing.hash"""

_MISSING_BEFORE = """\
SELECT number, hash(key) AS key_hash, hash FROM numbered WHERE hash IS NOT NULL AND NOT stale"""

_MISSING = """\
SELECT number, hash(key) AS key_hash, hash FROM numbered
WHERE number IN (SELECT number FROM arrived WHERE missing_after = {turn})"""

_IMAGES = """
SELECT image[1].key AS key, image[1].row AS row, image[1].fault AS fault, image[1].hash AS hash
FROM arrived
WHERE image IS NOT NULL
"""


def stored(kind: str) -> str:
    """The type as which a canonical type is stored."""
    return "VARCHAR" if kind == "NULL" else kind


def fits(columns: Mapping[str, Canonical], types: Mapping[str, str]) -> bool:
    """Whether values are of these canonical types, so that their hashes can be compared."""
    return all(value.type in ("NULL", types.get(column)) for column, value in columns.items())
