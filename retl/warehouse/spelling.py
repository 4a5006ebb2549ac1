"""SQL of Postgres' as other warehouses take it: what a workspace executes, and never a model's."""

from typing import TYPE_CHECKING, Any

from retl.lazy import lazy_module

if TYPE_CHECKING:
    import sqlglot
    from sqlglot import expressions as exp
else:
    sqlglot = lazy_module("sqlglot")
    exp = lazy_module("sqlglot.expressions")


def spelled(statement: str, dialect: str) -> str:
    """A statement in a warehouse's SQL; the names in it are quoted as it quotes them.

    Args:
        statement: one of `retl.engine.warehouse.statements`.
        dialect: sqlglot's name for the warehouse's SQL.
    """
    if dialect in ("postgres", "duckdb"):
        return statement
    tree = sqlglot.parse_one(statement, dialect="postgres")
    if dialect == "redshift":
        tree = tree.transform(_without_distinct_from)
    return tree.sql(dialect=dialect)


def _without_distinct_from(node: Any) -> Any:
    """A null-safe comparison by plain ones, for a warehouse that has none."""
    if not isinstance(node, exp.NullSafeNEQ):
        return node
    one, other = node.this.sql(dialect="postgres"), node.expression.sql(dialect="postgres")
    # Where one is NULL, or both are, so is the first comparison.
    unequal = f"COALESCE({one} <> {other}, ({one} IS NULL) <> ({other} IS NULL))"
    return sqlglot.parse_one(unequal, dialect="postgres")
