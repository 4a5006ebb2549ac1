"""Models read from a DuckDB file, or through DuckDB from Parquet, CSV and JSON files."""

import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from retl.address import Address, shown, without_secrets
from retl.encryption import prepare
from retl.errors import ModelError, WarehouseError
from retl.memory import Room
from retl.model import Model
from retl.sql import stream
from retl.warehouse.arrow import without_rows
from retl.warehouse.base import (
    BATCH_ROWS,
    Column,
    Parsed,
    Warehouse,
    at_line,
    batch_of,
    distinct,
    line_in,
    not_a_select,
    sentence_in,
    wanted,
)
from retl.warehouse.duckdb_access import HINT, SETTINGS, Access, access_of
from retl.warehouse.duckdb_paths import with_absolute_paths
from retl.warehouse.message import WHOLE_MESSAGE, without_values
from retl.warehouse.parse import within_years
from retl.warehouse.query import more_than_read, no_sql, refuse_odd_characters, second_statement

# How messages begin that are not about the SQL; errors in the midst of a read arrive without their class.
_OUTSIDE_FAULT = re.compile(
    r"(IO|HTTP|Connection|Out of Memory|INTERNAL|FATAL|INTERRUPT) Error"
    r"|An error occurred while trying to automatically install"
)

_VOID = re.compile(r"(?:[\s;]|--[^\n]*|/\*.*?\*/)*", re.DOTALL)
"""Blanks, semicolons and comments."""

_BEFORE_ROWS = re.compile("(Binder|Catalog|Parser) Error")
"""How messages begin that come before a row is looked at."""

_WRITING_FUNCTIONS = re.compile(
    r"nextval|setval|(force_)?checkpoint|json_execute_serialized_sql|(postgres|mysql)_execute"
    r"|(enable|disable)_(logging|profiling)|write_log|truncate_duckdb_logs|query"
    r"|(create|destroy|(de)?register)_external_resource(_type)?|(add|remove)_grammar_extension",
    re.IGNORECASE,
)
"""Functions that write to the database, its log or one that is attached, or run the SQL of a text."""


_KINDS = re.compile(r'"type":"(?P<node>INSERT|UPDATE|DELETE|MERGE)|"function_name":"(?P<function>[^"]*)"')
"""Statements and functions in DuckDB's JSON of a query; within a text, each quote follows a backslash."""


class _OpenFiles:
    """The files that this process has open: DuckDB opens one a second time only with the same settings.

    Those differ by sync, as each spills rows to a folder of its own. So a thread waits for another's read.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[Path, tuple[dict[str, Any], int]] = {}
        self._accesses: dict[Path, list[Access]] = {}

    def take(self, path: Path, settings: dict[str, Any]) -> bool:
        """Wait until the file is open nowhere else with other settings; whether it is open nowhere else."""
        with self._changed:
            self._changed.wait_for(lambda: self._open.get(path, (settings, 0))[0] == settings)
            _, users = self._open.get(path, (settings, 0))
            self._open[path] = (settings, users + 1)
            return users == 0

    def restrict(self, path: Path, access: Access, restrict: Callable[[], None]) -> None:
        """Have the whole database hold to an access, unless it does since the file was opened."""
        with self._changed:
            if access not in self._accesses.setdefault(path, []):
                restrict()
                self._accesses[path].append(access)

    def give_back(self, path: Path) -> None:
        """Let others have it."""
        with self._changed:
            settings, users = self._open.pop(path)
            if users > 1:
                self._open[path] = (settings, users - 1)
            else:
                self._accesses.pop(path, None)
            self._changed.notify_all()


_open_files = _OpenFiles()


class DuckDBWarehouse(Warehouse):
    """A DuckDB database, opened read-only, unless a workspace is kept in it.

    DuckDB opens a file only once in a process, so that reader and workspace share what they open. Models are
    read by statements of which DuckDB's parser has seen that they only read.

    Columns arrive in the Arrow types that lose nothing: JSON as `arrow.json`, UUID as `arrow.uuid`,
    HUGEINT, TIMETZ and BIT as `arrow.opaque`, which DuckDB turns back into what they were.
    """

    def __init__(self, url: Address, root: Path, room: Room | None = None, *, writable: bool = False) -> None:
        """Open the file that the URL names; none is made.

        Args:
            url: where the file is, with settings of DuckDB.
            root: the project folder.
            room: what it may take, where the URL does not say so.
            writable: whether a workspace is kept in the file.

        Raises:
            ConfigError: the URL restricts what a model may read in a way that cannot be kept.
            WarehouseError: there is no such file, or DuckDB cannot open it.
        """
        in_memory = url.database in (None, "", ":memory:")
        path = root / (url.database or "")
        self._url = url
        self._shown = "duckdb://" if in_memory else shown(url)
        if not in_memory and not path.is_file():
            raise WarehouseError(
                f"there is no DuckDB file {path}",
                where=self._shown,
                hint="Three slashes begin a path relative to the project folder, four an absolute one.",
            )
        self._root = root
        self._running: set[duckdb.DuckDBPyConnection] = set()
        self._access = access_of(url, root)
        self._file = None if in_memory else path.resolve()
        settings = _settings(url, room)  # the access mode of a URL would win over `read_only`
        self._read_only = read_only = self._file is not None and not writable
        with ExitStack() as failing:
            is_first = True
            if self._file is not None:
                is_first = _open_files.take(self._file, {**settings, "read_only": read_only})
                failing.callback(_open_files.give_back, self._file)
            self._open(":memory:" if in_memory else path, settings, read_only, room if is_first else None)
            if self._file is None:
                self._restrict()
            else:
                _open_files.restrict(self._file, self._access, self._restrict)
            failing.pop_all()

    def _open(self, path: str | Path, settings: dict[str, Any], read_only: bool, room: Room | None) -> None:
        try:
            self._connection = duckdb.connect(path, read_only=read_only, config=settings)
            if room is not None and room.encrypted:
                prepare(self._connection)
        except duckdb.Error as error:
            raise self._out_of_reach(error) from None

    def _restrict(self) -> None:
        """Set for the whole database what it may reach."""
        try:
            if self._access.is_locked:
                self._set_up(self._connection, "SET GLOBAL")
            self._access.restrict(self._connection)
        except duckdb.Error as error:
            raise self._out_of_reach(error) from None

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of the model's result; see `Warehouse.columns`."""
        with self.cursor() as cursor:
            try:
                sql = one_query(cursor, model, self._root)
                described = cursor.execute(model.said(f"DESCRIBE {sql}")).fetchall()
            except duckdb.Error as error:
                raise self.translated(model, error) from None
        distinct(model, [name for name, *_ in described])
        return tuple(Column(name, kind) for name, kind, *_ in described)

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The model's rows; see `Warehouse.read`."""
        types = {column.name: column.type for column in self.columns(model)}
        names = wanted(model, list(types), columns)
        with self.cursor() as cursor:
            try:
                sql = one_query(cursor, model, self._root)
                if columns is not None:
                    chosen = ", ".join(_for_arrow(name, types[name]) for name in names)
                    sql = f"SELECT {chosen} FROM ({sql}\n)"
                yield from _at_least_one(stream(cursor, model.said(sql), batch_rows))
            # Once the reader runs, Arrow passes on DuckDB's message in an OSError of its own.
            except (duckdb.Error, OSError, pa.ArrowException) as error:
                raise self.translated(model, error) from None

    def cancel(self) -> None:
        """Stop what is being read; see `Warehouse.cancel`."""
        for cursor in list(self._running):
            cursor.interrupt()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()
        if self._file is not None:
            _open_files.give_back(self._file)
            self._file = None

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own, since one with an unfinished read takes no other work."""
        with self._connection.cursor() as cursor:
            if not self._access.is_locked:
                self._set_up(cursor, "SET")
                cursor.execute("SET enable_progress_bar = false")
            self._running.add(cursor)
            try:
                yield cursor
            finally:
                self._running.discard(cursor)

    def _set_up(self, connection: duckdb.DuckDBPyConnection, set_: str) -> None:
        """Set what a read needs: for a connection, or for all."""
        connection.execute(f"{set_} arrow_lossless_conversion = true")
        connection.execute(f"{set_} TimeZone = 'UTC'")
        # A table that is not there would be looked for among Python's variables.
        connection.execute(f"{set_} python_enable_replacements = false")
        with suppress(duckdb.CatalogException):  # before DuckDB 2 each connection has its own, if not locked
            connection.execute(f"{set_} file_search_path = ?", [str(self._root)])

    def translated(self, model: Model, error: Exception) -> ModelError | WarehouseError:
        """The error for what DuckDB says about a model."""
        message = without_secrets(str(error), self._url)
        where = at_line(model, line_in(message))
        sentence = sentence_in(message)
        if _OUTSIDE_FAULT.match(message):
            return WarehouseError(
                f"model {model.name}: {sentence}", where=where, hint=f"The warehouse is {self._shown}."
            )
        if not _BEFORE_ROWS.match(message):
            sentence = without_values(_without_own_words(sentence, model), model)
        hint = WHOLE_MESSAGE if "…" in sentence else None
        if message.startswith("Permission Error") and self._access.is_restricted:
            hint = HINT
        return ModelError(f"model {model.name}: {sentence}", where=where, hint=hint)

    def _out_of_reach(self, error: Exception) -> WarehouseError:
        use = " for writing?" if self._read_only else "? `engine: warehouse` has to write in it."
        return WarehouseError(
            f"DuckDB cannot open its file: {without_secrets(str(error), self._url)}",
            where=self._shown,
            hint=f"Is it a DuckDB file, and does no other process have it open{use}",
        )


def _settings(url: Address, room: Room | None) -> dict[str, Any]:
    """DuckDB's settings: those of the URL, else those of the room."""
    said: dict[str, Any] = {
        key.lower(): str(one)
        for key, one in url.query.items()
        if key.lower() not in ("access_mode", *SETTINGS)
    }
    if room is None:
        return said
    return {"memory_limit": f"{room.memory}B", "temp_directory": str(room.scratch), **said}


def _without_own_words(sentence: str, model: Model) -> str:
    """A message without what the model may have put into it by the function `error`."""
    if re.search(r"\berror\W*\(", model.sql, re.IGNORECASE) and sentence.startswith("Invalid Input Error"):
        return "Invalid Input Error: the model's own"
    return sentence


def one_query(cursor: duckdb.DuckDBPyConnection, model: Model, root: Path) -> str:
    """The model's SQL without the semicolon that ends it, by DuckDB's own parser.

    Its relative paths start from the project folder, `root`.

    Raises:
        ModelError: it is not one query that only reads.
        duckdb.ParserException: it is not SQL.
    """
    refuse_odd_characters(model)
    statements = cursor.extract_statements(model.sql)
    if not statements:
        raise no_sql(model)
    if len(statements) > 1:
        # DuckDB 1.4 leaves out the semicolon.
        void = _VOID.match(model.sql, len(statements[0].query))
        raise second_statement(model, void.end() if void else 0)
    if statements[0].type.name != "SELECT":
        raise not_a_select(model, statements[0].type.name)
    sql = _without_end(cursor, model.sql)
    ((tree,),) = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    if tree.startswith('{"error":true'):
        raise more_than_read(model, "a statement that cannot be looked into")
    # Python's reader of JSON gives up before DuckDB's parser does, a thousand expressions deep.
    for part in _KINDS.finditer(tree):
        if part["node"] or _WRITING_FUNCTIONS.fullmatch(part["function"]):
            raise more_than_read(model, part["node"] or f"the function {part['function']}")
    return with_absolute_paths(sql, tree, root)


def _without_end(cursor: duckdb.DuckDBPyConnection, sql: str) -> str:
    """One statement without the semicolon that ends it, and what follows."""
    for end in re.finditer(";", sql):
        with suppress(duckdb.Error):  # of a text that is cut in a string or a comment
            before, after = (
                cursor.extract_statements(part) for part in (sql[: end.start()], sql[end.end() :])
            )
            if before and not after:
                return sql[: end.start()]
    return sql


def _for_arrow(name: str, kind: str) -> str:
    """A column as Arrow can carry it: a VARIANT is its JSON, since DuckDB 1.4 hands over none."""
    quoted = '"' + name.replace('"', '""') + '"'
    return f"{quoted}::JSON AS {quoted}" if kind == "VARIANT" else quoted


def _at_least_one(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    batch = None
    for batch in reader:
        yield batch_of(batch.schema.names, [_parsed(column) for column in batch.columns])
    if batch is None:
        yield without_rows(reader.schema)


def _parsed(column: pa.Array) -> Parsed:
    is_instant = pa.types.is_date32(column.type) or pa.types.is_timestamp(column.type)
    return within_years(column) if is_instant else (column, None)
