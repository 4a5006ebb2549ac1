"""A dialect is one value: nothing else has to know of it."""

import ast
import inspect
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy
from sqlalchemy.engine import make_url
from warehouses import KINDS, model, rows

from retl.errors import ModelError, WarehouseError
from retl.warehouse.base import Column
from retl.warehouse.dialect import DEFAULT, ColumnType, Dialect
from retl.warehouse.dialects import DIALECTS, dialect_of
from retl.warehouse.sqlalchemy import SQLAlchemyWarehouse

URL = make_url("invented:///shop.db?token=hush")

PREPARED: list[object] = []
"""The connections that the dialect below has prepared."""

MADE_UP = Dialect(
    engine=lambda url, root: sqlalchemy.create_engine(f"sqlite:///{root / str(url.database)}"),
    session=("CREATE TEMPORARY TABLE session AS SELECT 'mine' AS owner",),
    prepare=PREPARED.append,
    quoted=lambda name: f"upper({name}) AS {name}",
    types=lambda _connection, cursor: [
        ColumnType("shape", None, f"area({name})")
        if name == "shape"
        else ColumnType("word", lambda values: (pa.array([f"{value}!" for value in values]), None))
        for name, *_ in cursor.description
    ],
    leave_unread=lambda _cursor: True,
    is_model_fault=lambda error: "no such table" in str(error.orig),
    message=lambda error: f"alas, {error.orig}",
    named_twice=lambda error: "twin" if "twin" in str(error.orig) else None,
)


@pytest.fixture
def made_up(tmp_path: Path) -> Iterator[SQLAlchemyWarehouse]:
    """A database of a dialect that is only in this file."""
    lite = sqlite3.connect(tmp_path / "shop.db")
    lite.execute("CREATE TABLE users AS SELECT 1 AS user_id, 'a' AS email, 2 AS shape")
    lite.commit()
    lite.close()
    PREPARED.clear()
    with SQLAlchemyWarehouse(URL, tmp_path, MADE_UP) as warehouse:
        yield warehouse


@pytest.mark.parametrize("dialect", [DEFAULT, *DIALECTS.values()], ids=["default", *DIALECTS])
def test_each_dialect_has_a_database(dialect: Dialect) -> None:
    """Each dialect, the default among them, has a database that the contract of warehouses is tested on."""
    kinds = [kind for kind in KINDS if kind != "duckdb"]  # is not read through SQLAlchemy
    assert dialect in [dialect_of(make_url(f"{kind}://")) for kind in kinds]


def test_no_dialect_is_named() -> None:
    """The warehouse behind SQLAlchemy neither compares nor imports anything that has a dialect's name."""
    tree = ast.parse(Path(inspect.getfile(SQLAlchemyWarehouse)).read_text(encoding="utf-8"))
    named: set[object] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=value):
                named.add(value)
            case ast.Import(names=names):
                named |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names):
                named |= {(module or "").rpartition(".")[2], *(alias.name for alias in names)}
    assert "dialects" in named
    assert set() == named & {*DIALECTS, *KINDS}


def test_session_and_types(made_up: SQLAlchemyWarehouse) -> None:
    """A dialect's own engine, session and types are enough to describe and read a model."""
    owner = "SELECT owner FROM session"

    assert (Column("owner", "word"),) == made_up.columns(model(owner))
    assert [{"owner": "mine!"}] == rows(made_up, owner)


def test_choice_of_columns(made_up: SQLAlchemyWarehouse) -> None:
    """Wanted columns are selected as the dialect writes them; others may be of a type without a spelling."""
    assert [{"email": "A!"}] == rows(made_up, "SELECT * FROM users", ["email"])
    with pytest.raises(ModelError, match="type shape, which has no clear spelling") as error:
        rows(made_up, "SELECT * FROM users")

    assert "area(shape)" in (error.value.hint or "")


def test_errors(made_up: SQLAlchemyWarehouse) -> None:
    """The dialect says whose fault an error is, in which words, and which column a model has twice."""
    with pytest.raises(ModelError, match="model users: alas, no such table: nowhere"):
        rows(made_up, "SELECT * FROM nowhere")
    with pytest.raises(WarehouseError, match="model users: alas, no such column: absent") as error:
        rows(made_up, "SELECT absent FROM users")
    with pytest.raises(ModelError, match="more than one column `twin`"):
        rows(made_up, "SELECT twin FROM users")

    assert "hush" not in f"{error.value}"


def test_connection_that_is_left(made_up: SQLAlchemyWarehouse) -> None:
    """A connection is not used again where the dialect says that a read has spoilt it."""
    before = len(PREPARED)
    rows(made_up, "SELECT email FROM users")
    rows(made_up, "SELECT email FROM users")

    assert before + 1 == len(PREPARED)
