"""Workspace: the schema of retl's own in a warehouse, the one place there that it writes in.

`engine: warehouse` keeps its tables in it (`retl.engine.remote`). A workspace knows nothing of what they are
for; of a column it knows how its values are compared without missing a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from retl.errors import ConfigError
from retl.model import Model


@dataclass(frozen=True)
class StoredColumn:
    """A column of a table in the workspace, and how its values are compared there.

    In each piece of SQL, `{}` stands for the column. Whatever differs for retl must differ for these; that
    they tell two values apart which are the same for retl does no harm.

    Attributes:
        name: as the model spells it.
        type: the whole type; values of columns whose types are not the same are not compared.
        key: SQL of the value by which rows are joined: keys that are the same for retl are equal there. None
            where the type has no such value.
        exact: SQL of the values that are all the same where two values of the column are.
        odd: the condition that a key is none for retl though it is not NULL; None where that cannot be.
        at_fault: the condition that a value may be one that cannot be sent; None where that cannot be.
    """

    name: str
    type: str
    key: str | None
    exact: tuple[str, ...]
    odd: str | None = None
    at_fault: str | None = None


class Workspace(Protocol):
    """A schema in which tables are made, filled and dropped.

    Use it as a context manager: leaving it closes the connection. A table is named without the schema.

    Attributes:
        schema: its name.
        dialect: sqlglot's name for the warehouse's SQL.
        longest_name: characters that a table's name may have.
    """

    schema: str
    dialect: str
    longest_name: int

    def prepare(self) -> None:
        """Make the schema where there is none.

        Raises:
            ConfigError: the user may not, or may not make tables in it; the hint is the SQL that lets them.
            WarehouseError: the warehouse cannot be reached.
        """
        ...

    def tables(self, prefix: str) -> list[str]:
        """The tables whose names begin so."""
        ...

    def columns(self, table: str) -> tuple[StoredColumn, ...]:
        """The columns of a table, in its order."""
        ...

    def query_of(self, model: Model) -> str:
        """The model's SQL as a statement can have it in brackets; its lines stay where they are.

        Raises:
            ModelError: it is not one SELECT.
        """
        ...

    def spelled(self, statement: str) -> str:
        """A statement as the warehouse takes it, which is as it is unless its SQL differs.

        `execute` and `number` spell statements by themselves, but for the model's part of them.
        """
        return statement

    def execute(self, statement: str, model: Model | None = None) -> int | None:
        """Execute a statement that gives no rows.

        Args:
            statement: in SQL as Postgres and DuckDB have it.
            model: whose SQL is part of it, which may then be to blame.

        Returns:
            How many rows the table has that it made; None where the warehouse does not say it.

        Raises:
            ModelError: the model's SQL fails, or gives what no table can hold.
            ConfigError: the user may not.
            WarehouseError: the warehouse cannot be reached, or gave up.
        """
        ...

    def analyze(self, table: str, columns: Sequence[str]) -> None:
        """Let the database know how a new table is joined on these columns, where it has to be told."""
        ...

    def number(self, query: str) -> int:
        """The one number that a query gives; raises as `execute`."""
        ...

    def drop(self, tables: Sequence[str]) -> None:
        """Drop tables, of which some may be gone; raises as `execute`."""
        ...

    def missing_grants(self) -> list[str]:
        """The statements that let the user do what is needed, each as SQL; empty where nothing is missing."""
        ...

    def cancel(self) -> None:
        """Have the database stop what is executed, from any thread."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lacking_grants(schema: str, statements: Sequence[str], where: str) -> ConfigError:
    """The error for a user who may not do what is needed in a schema, with the statements that let them."""
    return ConfigError(
        f"the warehouse's user may not make tables in the schema `{schema}`",
        where=where,
        hint="have an owner of the database run: " + " ".join(f"{one};" for one in statements),
    )
