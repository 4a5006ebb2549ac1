"""The promises of every warehouse reader, and the checks that all of them share."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

from retl.errors import MissingColumnError, ModelError
from retl.lazy import lazy_module
from retl.model import Model
from retl.nearest import did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy_module("pyarrow")
    pc = lazy_module("pyarrow.compute")

BATCH_ROWS = 32_768
"""Rows a batch holds at most, where the caller does not say."""

FAULT = "retl.fault"
"""The last column of a batch in which a row holds a value that cannot be sent; other batches lack it.

The column is text: the code of the reason to reject the row, or NULL where the row is sound. The value
itself is NULL in its own column.
"""

Parsed: TypeAlias = "tuple[pa.Array, pa.Array | None]"
"""A column's values, and for each row the reason to reject it or NULL; None where all rows are sound."""


@dataclass(frozen=True)
class Column:
    """A column of a model's result.

    Attributes:
        name: as the database spells it.
        type: the database's name for its type; empty where the database gives a column no type.
    """

    name: str
    type: str


class Warehouse(Protocol):
    """A database that models are read from, and only read from.

    Use it as a context manager: leaving it closes the connection.
    """

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of the model's result, in its order, without reading its rows.

        Raises:
            ModelError: the SQL fails, is not one SELECT, or names two columns alike.
            WarehouseError: the warehouse cannot be reached.
        """
        ...

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> "Iterator[pa.RecordBatch]":
        """The model's rows, batch after batch; the result is never in memory as a whole.

        Nothing happens before the first batch is asked for. There is always a first batch, so that a
        result without rows still has a schema. Batches may differ in the type of a column where the
        database fixes none: SQLite's, and Postgres' `numeric` without a precision. A value that cannot be
        sent, such as a timestamp of the year 0, does not stop the read: the value becomes NULL, and the batch
        has `FAULT` as one more, last column, with the reason to reject the row. Only wanted columns cause a
        fault.

        Args:
            model: what to read.
            columns: the columns wanted, None for all; they come in the model's order.
            batch_rows: the most rows that a batch holds.

        Raises:
            ModelError: the SQL fails, is not one SELECT, names two columns alike, lacks a wanted one, or a
                wanted one has a type without a spelling.
            WarehouseError: the warehouse cannot be reached, or the read broke off.
        """
        ...

    def cancel(self) -> None:
        """Have the database stop what is being read, from any thread; the read ends with an error."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def batch_of(names: Sequence[str], columns: Sequence[Parsed]) -> "pa.RecordBatch":
    """The batch of these columns, with `FAULT` where a row is at fault."""
    faults = [reasons for _, reasons in columns if reasons is not None]
    arrays = [array for array, _ in columns]
    if not faults:
        return pa.RecordBatch.from_arrays(arrays, list(names))
    return pa.RecordBatch.from_arrays([*arrays, pc.coalesce(*faults)], [*names, FAULT])


def at_line(model: Model, line: int | None) -> str:
    """The place of a line of the model's SQL (1-based), in the file that holds it."""
    if line is None:
        return model.where
    file = re.sub(r":\d+$", "", model.where)
    return f"{file}:{model.first_line + line - 1}"


_LINE = re.compile(
    r"""
    ^\w+\ (\d+):\ .*\n\s*\^        # LINE 3: SELECT nope …, in any language, and a sign beneath
    | \bat\ line\ (\d+)
    | \bline\ (\d+)\ at\ position   # Snowflake
    | \bline\ (\d+),?\ pos           # Databricks
    | \bat\ \[(\d+):\d+\]           # BigQuery
    """,
    re.MULTILINE | re.VERBOSE,
)


def line_in(message: str) -> int | None:
    """The line that a database's message points at."""
    found = _LINE.search(message)
    return int(next(filter(None, found.groups()))) if found else None


def sentence_in(message: str) -> str:
    """A database's error message without the excerpt of the SQL that follows it."""
    return re.split(r"\n+\w+ \d+: .*\n\s*\^", message.strip(), maxsplit=1)[0].strip()


def distinct(model: Model, names: Sequence[str]) -> None:
    """Refuse a result in which two columns share a name, upper and lower case taken as one.

    Raises:
        ModelError: two columns do, or one has the name of `FAULT`.
    """
    if FAULT in names:
        raise ModelError(
            f"model {model.name} has a column `{FAULT}`, which is a name of retl's own",
            where=model.where,
            hint="Give the column another name.",
        )
    spellings = Counter(name.casefold() for name in names)
    twice = [name for name in names if spellings[name.casefold()] > 1]
    if twice:
        raise named_twice(model, twice[0])


def named_twice(model: Model, name: str) -> ModelError:
    """The error for a model with two columns of that name."""
    return ModelError(
        f"model {model.name} has more than one column `{name}`",
        where=model.where,
        hint="Name each column once: SELECT orders.id AS order_id, users.id AS user_id …",
    )


def unspelled(model: Model, column: str, kind: str, cast: str) -> ModelError:
    """The error for a column whose type has no clear spelling, with the SQL that gives it one."""
    return ModelError(
        f"model {model.name}: the column `{column}` has the type {kind}, which has no clear spelling",
        where=model.where,
        hint=f"Cast it in the model: {cast}; or leave the column out of the sync.",
    )


def wanted(model: Model, names: Sequence[str], columns: Collection[str] | None) -> list[str]:
    """The names that are wanted, in the result's order.

    Raises:
        MissingColumnError: the result lacks one of them.
    """
    if columns is None:
        return list(names)
    for column in columns:
        if column not in names:
            raise MissingColumnError(
                column,
                f"model {model.name} has no column `{column}`; it has: {', '.join(names)}",
                where=model.where,
                hint=did_you_mean(column, names),
            )
    return [name for name in names if name in columns]


def not_a_select(model: Model, kind: str, line: int | None = None) -> ModelError:
    """The error for a model that is another kind of statement."""
    return ModelError(
        f"model {model.name} is not a SELECT but: {kind}",
        where=at_line(model, line),
        hint="A model is one SELECT (or WITH … SELECT), nothing else.",
    )
