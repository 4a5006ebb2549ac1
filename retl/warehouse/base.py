"""What every warehouse reader promises, and the checks they share."""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import pyarrow as pa

from retl.errors import MissingColumnError, ModelError
from retl.model import Model

BATCH_ROWS = 32_768
"""Rows a batch holds at most, where the caller does not say."""


FAULT = "retl.fault"
"""A last column that a batch may have beside those asked for: the reason code for which a row must be
rejected, as one of its values is none; NULL for sound rows. The value itself is NULL."""


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
    ) -> Iterator[pa.RecordBatch]:
        """The model's rows, batch after batch; the result is never in memory as a whole.

        Nothing happens before the first batch is asked for. There is always a first batch, so that a
        result without rows still has a schema. Batches may differ in the type of a column where the
        database fixes none: SQLite's, and Postgres' `numeric` without a precision.

        Args:
            model: what to read.
            columns: the columns wanted, None for all; they come in the model's order.
            batch_rows: the most rows that a batch holds.

        Raises:
            ModelError: the SQL fails, is not one SELECT, names two columns alike, or lacks a wanted one.
            WarehouseError: the warehouse cannot be reached, or the read broke off.
        """
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


def at_line(model: Model, line: int | None) -> str:
    """The place of a line of the model's SQL (1-based), in the file that holds it."""
    if line is None:
        return model.where
    file = re.sub(r":\d+$", "", model.where)
    return f"{file}:{model.first_line + line - 1}"


def line_in(message: str) -> int | None:
    """The line that a database's message points at: `LINE 3: … ^`, in any language, or `at line 3`."""
    found = re.search(r"^\w+ (\d+): .*\n\s*\^|\bat line (\d+)", message, re.MULTILINE)
    return int(found[1] or found[2]) if found else None


def sentence_in(message: str) -> str:
    """A database's error message without the excerpt of the SQL that follows it."""
    return re.split(r"\n+\w+ \d+: .*\n\s*\^", message.strip(), maxsplit=1)[0].strip()


def distinct(model: Model, names: Sequence[str]) -> None:
    """Refuse a result in which two columns share a name, upper and lower case taken as one.

    Raises:
        ModelError: two columns do.
    """
    spellings = Counter(name.casefold() for name in names)
    twice = [name for name in names if spellings[name.casefold()] > 1]
    if twice:
        raise ModelError(
            f"model {model.name} has more than one column `{twice[0]}`",
            where=model.where,
            hint="Name each column once: SELECT orders.id AS order_id, users.id AS user_id …",
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
            folded = {name.casefold(): name for name in names}
            near = difflib.get_close_matches(column.casefold(), folded, n=1)
            raise MissingColumnError(
                column,
                f"model {model.name} has no column `{column}`; it has: {', '.join(names)}",
                where=model.where,
                hint=f"did you mean `{folded[near[0]]}`?" if near else None,
            )
    return [name for name in names if name in columns]


_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?\*/ )
  | \b[eE]'(?:\\.|[^'\\])*' | '[^']*' | "[^"]*" | `[^`]*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
  | (?P<end> ; )
  | \w+ | \S
    """,
    re.VERBOSE | re.DOTALL,
)


def one_statement(model: Model) -> str:
    """The model's SQL without the semicolon that ends it and what follows; its lines stay where they are.

    Raises:
        ModelError: there is no SQL, or more than one statement.
    """
    tokens = [token for token in _TOKEN.finditer(model.sql) if not token["comment"]]
    ends = [token.start() for token in tokens if token["end"]]
    words = [token for token in tokens if not token["end"]]
    if not words:
        raise ModelError(f"model {model.name} holds no SQL", where=model.where)
    if not ends:
        return model.sql
    second = next((word for word in words if word.start() > ends[0]), None)
    if second:
        raise ModelError(
            f"model {model.name} holds more than one statement",
            where=at_line(model, model.sql.count("\n", 0, second.start()) + 1),
            hint="A model is one SELECT (or WITH … SELECT).",
        )
    return model.sql[: ends[0]]


def one_select(model: Model) -> str:
    """As `one_statement`, for databases that do not say what kind of statement they were given.

    Raises:
        ModelError: the SQL is not one statement, or it does not begin like a SELECT.
    """
    sql = one_statement(model)
    first = next(token for token in _TOKEN.finditer(sql) if not token["comment"])
    if first[0].upper() not in ("SELECT", "WITH", "("):
        raise not_a_select(model, first[0].upper(), model.sql.count("\n", 0, first.start()) + 1)
    return sql


def not_a_select(model: Model, kind: str, line: int | None = None) -> ModelError:
    """The error for a model that is another kind of statement."""
    return ModelError(
        f"model {model.name} is no SELECT but: {kind}",
        where=at_line(model, line),
        hint="A model is one SELECT (or WITH … SELECT), nothing else.",
    )
