"""The type `Dialect`: all that `retl.warehouse.sqlalchemy` has to know of a kind of database.

To add a dialect, write a value in a module of its own, as `retl.warehouse.sqlite` does, and list it in
`retl.warehouse.dialects.DIALECTS`. Then add a database of that kind to `KINDS` and to the fixture `shop` in
tests/test_warehouse.py: each test that takes `shop` must pass on it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from retl.warehouse.base import TOKEN

SUBQUERY_END = "\n) AS model"
"""Ends a model that is a subquery; on a line of its own, since a comment may end the model."""


def as_subquery(sql: str) -> str:
    """A model's SQL as another SELECT can read from it; its lines stay where they are."""
    return f"({sql}{SUBQUERY_END}"


@dataclass(frozen=True)
class Dialect:
    """Everything in which a kind of database differs from others behind SQLAlchemy.

    The defaults are right for a database of which nothing is known.

    Attributes:
        session: statements that are executed on each new connection.
        read_options: SQLAlchemy's execution options of the connection that a model is read on.
        token: matches the tokens of its SQL, as `retl.warehouse.base.TOKEN` does for most.
        quoted: a column's name in SQL. Where it is given, the wanted columns are selected from the model as
            a subquery; where it is None, the whole model is read and the wanted columns are kept.
        describes_by_subquery: whether a model's columns are asked for by a SELECT of no rows from the model
            as a subquery, because the database would otherwise run the whole model. Every read asks first.
    """

    session: tuple[str, ...] = ()
    read_options: Mapping[str, Any] = field(default_factory=dict)
    token: re.Pattern[str] = TOKEN
    quoted: Callable[[str], str] | None = None
    describes_by_subquery: bool = False


DEFAULT = Dialect()
"""The dialect of any database that has none of its own."""
