"""Shop: the warehouse of a life, a DuckDB file with a table of rows and the schemas of `engine: warehouse`.

It outlives each process of `retl`. What a statement did in it stays, wherever the process is killed; each
statement in a schema of retl's is a step.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa

from retl.errors import WarehouseError
from retl.model import Model
from retl.warehouse import Column, Warehouse, Workspace, open_warehouse, open_workspace
from retl.warehouse.workspace import StoredColumn
from torture.fuse import Fuse
from torture.rows import SCHEMA, History

URL = "duckdb:///shop.duckdb?threads=1"
"""With one thread the order of rows is always the same."""

T = TypeVar("T")


class Shop:
    """The file, open for as long as a life lasts, as it takes long to open one.

    Args:
        folder: for the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._db = duckdb.connect(folder / "shop.duckdb", config={"threads": "1"})

    def __enter__(self) -> "Shop":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def load(self, history: History, is_empty: bool) -> None:
        """Let the table have the rows that are there now, or none."""
        rows = [
            {"id": key, "owner": row.owner, "version": row.version, "note": row.note}
            for key, row in history.current.items()
        ]
        self._db.register("loaded", pa.Table.from_pylist([] if is_empty else rows, schema=SCHEMA))
        self._db.execute("CREATE OR REPLACE TABLE users AS FROM loaded")
        self._db.unregister("loaded")

    def reader(self, batch_rows: int, breaks_after: int | None) -> Warehouse:
        """The warehouse as models are read in it; the arguments are those of `rows.Warehouse`."""
        return _BreakingReader(self._folder, batch_rows, breaks_after)

    def workspace(self, schema: str, fuse: Fuse, breaks_after: int | None) -> Workspace:
        """A schema of retl's own.

        Args:
            schema: its name.
            fuse: burns with each statement.
            breaks_after: statements after which it breaks, the last without an answer; None
                is never.
        """
        return _BurningWorkspace(open_workspace(URL, self._folder, schema), fuse, breaks_after)

    def tables(self) -> set[tuple[str, str]]:
        """Schema and name of all tables of retl's."""
        found = self._db.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE schema_name <> 'main'"
        )
        return set(found.fetchall())


class _BreakingReader(Warehouse):
    def __init__(self, folder: Path, batch_rows: int, breaks_after: int | None) -> None:
        self._open = open_warehouse(URL, folder, with_workspace=True)
        self._batch_rows = batch_rows
        self._breaks_after = breaks_after

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of a model."""
        return self._open.columns(model)

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = 1_000
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a model, in small batches, until the connection breaks."""
        for number, batch in enumerate(self._open.read(model, columns, self._batch_rows)):
            if number == self._breaks_after:
                raise WarehouseError("the connection broke off")
            yield batch
        if self._breaks_after is not None:
            raise WarehouseError("the connection broke off")

    def cancel(self) -> None:
        """Stop what is being read."""
        self._open.cancel()

    def close(self) -> None:
        """Close the file."""
        self._open.close()


class _BurningWorkspace(Workspace):
    """A workspace whose statements are steps; a dead process executes none."""

    def __init__(self, workspace: Workspace, fuse: Fuse, breaks_after: int | None) -> None:
        self.schema = workspace.schema
        self.dialect = workspace.dialect
        self.longest_name = workspace.longest_name
        self._open = workspace
        self._fuse = fuse
        self._left = breaks_after

    def prepare(self) -> None:
        """Make the schema."""
        self._step("making the schema", self._open.prepare)

    def tables(self, prefix: str) -> list[str]:
        """The tables whose names begin so."""
        return self._step("listing tables", lambda: self._open.tables(prefix))

    def columns(self, table: str) -> tuple[StoredColumn, ...]:
        """The columns of a table."""
        return self._step("listing columns", lambda: self._open.columns(table))

    def query_of(self, model: Model) -> str:
        """The model's SQL in brackets."""
        return self._open.query_of(model)

    def spelled(self, statement: str) -> str:
        """A statement as DuckDB takes it."""
        return self._open.spelled(statement)

    def execute(self, statement: str, model: Model | None = None) -> None:
        """Execute a statement."""
        what = " ".join(statement.split()[:2]).lower()
        self._step(f"at {what}", lambda: self._open.execute(statement, model))

    def analyze(self, table: str, columns: Sequence[str]) -> None:
        """Nothing."""
        self._open.analyze(table, columns)

    def number(self, query: str) -> int:
        """The one number that a query gives."""
        return self._step("counting", lambda: self._open.number(query))

    def drop(self, tables: Sequence[str]) -> None:
        """Drop tables, one after another."""
        for table in tables:
            self._step("at drop table", lambda one=table: self._open.drop([one]))  # type: ignore[misc]

    def missing_grants(self) -> list[str]:
        """None is missing."""
        return self._open.missing_grants()

    def cancel(self) -> None:
        """Stop what is executed."""
        self._open.cancel()

    def close(self) -> None:
        """Let go of the file."""
        self._open.close()

    def _step(self, step: str, work: Callable[[], T]) -> T:
        """Do some work, unless the process is dead or the connection broken, and take a step then."""
        self._fuse.refuse_dead()
        if self._left is not None and self._left <= 0:
            raise WarehouseError("the connection is broken")
        done = work()
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                raise WarehouseError("the connection broke off before the answer came")
        self._fuse.burn(f"in the warehouse, {step}")
        return done
