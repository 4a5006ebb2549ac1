"""The type `Dialect`: all that `retl.warehouse.sqlalchemy` has to know of a kind of database.

To add a dialect, write a value in a module of its own, as `retl.warehouse.sqlite` does, and list it in
`retl.warehouse.dialects.DIALECTS`. Then add its name to `KINDS` in tests/warehouses.py and a database of its
kind to the fixture `shop` in tests/test_warehouse.py: each test that takes `shop` must pass on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy
from sqlalchemy.engine import URL, Connection, CursorResult, Engine
from sqlalchemy.exc import DBAPIError

from retl.warehouse.base import Parsed
from retl.warehouse.query import Grammar
from retl.warehouse.untyped import inferred

SUBQUERY_END = "\n) AS model"
"""Ends a model that is a subquery; on a line of its own, since a comment may end the model."""


def as_subquery(sql: str) -> str:
    """A model's SQL as another SELECT can read from it; its lines stay where they are."""
    return f"({sql}{SUBQUERY_END}"


Reader = Callable[[Sequence[Any]], Parsed]
"""Makes a column of the values that the driver loaded."""


@dataclass(frozen=True)
class Columnar:
    """How a driver that hands over columns is asked for one, with the same values as a `Reader` makes.

    Attributes:
        sql: the SQL of what is selected for it, given the column's quoted name.
        arrow: the types in which the driver hands that over.
        parsed: makes the column of what is handed over.
    """

    sql: Callable[[str], Sequence[str]]
    arrow: Sequence[pa.DataType]
    parsed: Callable[..., Parsed]


@dataclass(frozen=True)
class ColumnType:
    """The type of a column of a result.

    Attributes:
        name: the database's name for it; empty where the database gives a column no type.
        reader: how its values become Arrow; None where the type has no clear spelling.
        cast: SQL that turns such a column into one that has; empty where there is a reader.
        columnar: how it is read through a driver that hands over columns; None where there is none.
    """

    name: str
    reader: Reader | None
    cast: str = ""
    columnar: Columnar | None = None


def engine_of_url(url: URL, _root: Path) -> Engine:
    """The engine that SQLAlchemy itself makes of a URL."""
    return sqlalchemy.create_engine(url)


def _leave_as_it_is(_connection: Any) -> None:
    """Change nothing about a connection of the driver's."""


def _ask_nothing(_connection: Connection, _sql: str) -> None:
    """Take the text's word for what it is."""


def _types_of_values(_connection: Connection, cursor: Any) -> Sequence[ColumnType]:
    """Types without a name, for a database that gives none: each batch's values say what they are."""
    return [ColumnType("", inferred)] * len(cursor.description)


def _cancel(_engine: Engine, connection: Any) -> None:
    """Cancel by the method that many drivers have, though Python's database API does not."""
    if hasattr(connection, "cancel"):
        connection.cancel()


def _leave_to_driver(_cursor: Any) -> bool:
    """Leave an unfinished result to the driver, which closes it without reading the rest."""
    return False


def is_model_fault(error: DBAPIError) -> bool:
    """Decide by the class of the error, as Python's database API defines them."""
    return type(error).__name__ in ("ProgrammingError", "DataError", "NotSupportedError", "IntegrityError")


def _message(error: DBAPIError) -> str:
    """The driver's own words."""
    return str(error.orig)


def _no_name(_error: DBAPIError) -> None:
    """Take no error for one about two columns of one name; the result tells."""


@dataclass(frozen=True)
class Dialect:
    """Everything in which a kind of database differs from others behind SQLAlchemy.

    The defaults are right for a database of which nothing is known.

    Attributes:
        engine: makes the engine from the URL and the project folder; it connects to nothing yet.
        packages: the package to install for a driver, by its module, where the package's name differs.
        session: statements that are executed on each new connection.
        prepare: what else is done with each new connection, which is the driver's.
        read_options: SQLAlchemy's execution options of the connection that a model is read on.
        grammar: how it reads SQL.
        begin: what is done on a connection before a model is executed, given its SQL; raises where the
            database could do more with it than read.
        quoted: a column's name in SQL. Where it is given, the wanted columns are selected from the model as
            a subquery; where it is None, the whole model is read and the wanted columns are kept.
        describes_by_subquery: whether a model's columns are asked for by a SELECT of no rows from the model
            as a subquery, because the database would otherwise run the whole model. Every read asks first.
        describe: have the database describe a model without running it, given its SQL; the result has no
            rows. None where a model is executed for that, of which no row is asked for.
        types: the types of a result's columns, given the connection and the driver's cursor of the result.
        cancel: stop what a connection of the driver's executes, from another thread.
        leave_unread: have the driver's cursor not read the rest of a result, which may be endless, when the
            result is closed; true where the connection is of no use after that.
        is_model_fault: whether the model's SQL is to blame for an error, rather than the server, the disk or
            the network. A lost connection need not be considered.
        message: an error's message, without anything that is not about the model's SQL.
        named_twice: the name of the column that a model has twice, where that is what an error says.
    """

    engine: Callable[[URL, Path], Engine] = engine_of_url
    packages: Mapping[str, str] = field(default_factory=dict)
    session: tuple[str, ...] = ()
    prepare: Callable[[Any], None] = _leave_as_it_is
    read_options: Mapping[str, Any] = field(default_factory=dict)
    grammar: Grammar = field(default_factory=Grammar)
    begin: Callable[[Connection, str], None] = _ask_nothing
    quoted: Callable[[str], str] | None = None
    describes_by_subquery: bool = False
    describe: Callable[[Connection, str], CursorResult[Any]] | None = None
    types: Callable[[Connection, Any], Sequence[ColumnType]] = _types_of_values
    cancel: Callable[[Engine, Any], None] = _cancel
    leave_unread: Callable[[Any], bool] = _leave_to_driver
    is_model_fault: Callable[[DBAPIError], bool] = is_model_fault
    message: Callable[[DBAPIError], str] = _message
    named_twice: Callable[[DBAPIError], str | None] = _no_name


DEFAULT = Dialect()
"""The dialect of any database that has none of its own."""
