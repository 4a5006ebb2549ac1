"""The landing of a model's rows: the table that takes them as they are read, before they are compared."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import duckdb

from retl import sql
from retl.engine.canonical import Canonical, common_type, converted
from retl.engine.mapping import SyncMapping
from retl.engine.row_hash import row_hash

SEQ = "retl.seq"
"""The column of a batch that numbers the rows in the order in which they are read, from 1."""


class Landing(StrEnum):
    """A table that takes rows."""

    ASIDE = "staged"
    """A TEMP table of all rows."""

    IN_STATE = "state.arriving"
    """A table of all rows in the state file, which can become the snapshot without a copy."""

    UNLESS_KNOWN = "arrived"
    """A TEMP table that holds of a row which the snapshot has just so only its hashes."""


@dataclass(frozen=True)
class Table:
    """The table that takes the rows of one read.

    Attributes:
        landing: which one.
        mapping: tells which columns make the row, and which are compared.
        types: canonical type of each column, as the table has it.
    """

    landing: Landing
    mapping: SyncMapping
    types: dict[str, str]

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
        columns = {
            Landing.ASIDE: f"{image}, hash UBIGINT, fault VARCHAR",
            # The columns of the snapshot, and one that goes before it becomes that.
            Landing.IN_STATE: f"{image}, stale BOOL DEFAULT false, hash UBIGINT, seq BIGINT, fault VARCHAR",
            # A list takes no room where it is NULL; a STRUCT would, for each of its columns.
            Landing.UNLESS_KNOWN: f"key_hash UBIGINT, hash UBIGINT, image STRUCT({image}, fault VARCHAR)[]",
        }
        db.execute(f"CREATE OR REPLACE {self._temp}TABLE {self.landing} ({columns[self.landing]})")

    def insert(self, columns: Mapping[str, Canonical], key: str, fault: str) -> str:
        """The statement that takes the rows of `incoming`.

        Args:
            columns: each column of the row.
            key: SQL of the key.
            fault: SQL of the reason to reject the row, NULL where it is sound.
        """
        members = (
            f"{sql.name(column)} := {converted(value.type, self.types[column], value.expression)}"
            for column, value in columns.items()
        )
        image = f"{key} AS key, struct_pack({', '.join(members)}) AS row, {fault} AS fault"
        if self.landing is Landing.IN_STATE:
            image += f", {sql.name(SEQ)} AS seq"
        hashed = f"SELECT *, {row_hash(self.mapping, 'row')} AS hash FROM (SELECT {image} FROM incoming)"
        if not self.leaves_out_known:
            return f"INSERT INTO {self.landing} BY NAME {hashed}"
        is_known = _IS_KNOWN if fits(columns, self.types) else "false"
        return f"""\
INSERT INTO arrived
SELECT
    hash(key), hash,
    CASE WHEN NOT {is_known} THEN [struct_pack("key" := key, "row" := row, "fault" := fault)] END
FROM ({hashed})"""

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
        filled = f"SELECT * REPLACE (struct_pack({members}) AS row) FROM {self.landing}"
        if self.leaves_out_known:
            image = f'"key" := image[1].key, "row" := struct_pack({members}), "fault" := image[1].fault'
            image = f"CASE WHEN image IS NOT NULL THEN [struct_pack({image})] END"
            filled = f"SELECT * REPLACE ({image} AS image) FROM arrived"
        hashed = f"CASE WHEN {row} IS NULL THEN hash ELSE {row_hash(self.mapping, row)} END"
        filled = f"SELECT * REPLACE ({hashed} AS hash) FROM ({filled})"
        db.execute(f"CREATE OR REPLACE {self._temp}TABLE {self.landing} AS {filled}")
        return replace(self, types=wider)

    def show(self, db: duckdb.DuckDBPyConnection) -> None:
        """Make the TEMP view `stage` of the rows."""
        source = _IMAGES if self.leaves_out_known else f"SELECT key, row, fault, hash FROM {self.landing}"
        db.execute(f"CREATE OR REPLACE TEMP VIEW stage AS {source}")


@dataclass(frozen=True)
class Staged:
    """The result of staging.

    Attributes:
        mapping: with the canonical type of each column, and the columns whose instants name no zone.
        rows: how many were read.
        landing: the table that took them.
    """

    mapping: SyncMapping
    rows: int
    landing: Landing


_IS_KNOWN = """(
        key IS NOT NULL AND fault IS NULL
        AND (hash(key), hash) IN (SELECT (hash(key), hash) FROM known WHERE hash IS NOT NULL AND NOT stale)
    )"""

_IMAGES = """
SELECT image[1].key AS key, image[1].row AS row, image[1].fault AS fault, hash
FROM arrived
WHERE image IS NOT NULL
"""


def stored(kind: str) -> str:
    """The type as which a canonical type is stored."""
    return "VARCHAR" if kind == "NULL" else kind


def fits(columns: Mapping[str, Canonical], types: Mapping[str, str]) -> bool:
    """Whether values are of these canonical types, so that their hashes can be compared."""
    return all(value.type in ("NULL", types.get(column)) for column, value in columns.items())
