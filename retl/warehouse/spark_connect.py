"""A session of a Spark Connect server, which is sent SQL and answers with Arrow batches.

The client's own frames would make Python objects of the rows. What is beneath them does not: a plan of one
node, that of a SQL text, and its result as batches.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from urllib.parse import quote
from uuid import uuid4

import pyarrow as pa

from retl.address import Address, shown
from retl.errors import ModelError, WarehouseError
from retl.model import Model
from retl.version import __version__
from retl.warehouse.arrow import without_rows
from retl.warehouse.base import Column
from retl.warehouse.spark_errors import read_failed, sentence
from retl.warehouse.spark_sql import SqlSession

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or gRPC writes to stderr, past Python

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about the versions of pandas that PySpark knows; rows never meet it
    from pyspark.errors import PySparkException
    from pyspark.logger import PySparkLogger
    from pyspark.sql.connect import proto
    from pyspark.sql.connect.client import DefaultChannelBuilder, SparkConnectClient
    from pyspark.sql.connect.client.retries import DefaultPolicy

warnings.filterwarnings("ignore", r"\[RETRIES_EXCEEDED\]")  # an error follows that says more
# They would write errors to stderr, with the values that these quote.
for _name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
    PySparkLogger.getLogger(_name).disabled = True

SETTINGS = {"spark.sql.session.timeZone": "UTC"}
"""The settings of each session."""

FIRST_TRIES = 2
"""How often the server is tried again while a session is opened, within less than a second."""

TRIES = 4
"""How often it is tried again later, where a connection broke, within 5 seconds; a read goes on then."""


class SparkSession(SqlSession):
    """A session of a server, whose settings are its own. Methods raise `PySparkException`, in any thread."""

    errors = PySparkException

    def __init__(self, address: Address) -> None:
        """Open one.

        Args:
            address: `sc://host:port/;name=value;…` in its parts, with the client's settings.

        Raises:
            ValueError: the client does not take the address.
        """
        self.address = address
        if "session_id" in address.query:
            raise ValueError("each read opens a session of its own, so there can be no `session_id`")
        settings = {"user_agent": f"retl/{__version__}", **address.query}
        # The client takes a value apart where it holds an `=`, as some tokens do.
        listed = ";".join(f"{name}={quote(str(value), safe='')}" for name, value in settings.items())
        path = address.database or ""
        channel = DefaultChannelBuilder(f"{shown(replace(address, database=None))}/{path};{listed}")
        self._client = SparkConnectClient(channel, retry_policy={"max_retries": FIRST_TRIES})
        self._running: set[str] = set()
        try:
            self._set(SETTINGS)
        except BaseException:
            self._client.close()
            raise
        self._client.set_retry_policies([DefaultPolicy(max_retries=TRIES)])

    def columns(self, sql: str) -> tuple[Column, ...]:
        """The columns of a query, without running it."""
        schema = self._client.schema(_plan(sql))
        return tuple(Column(field.name, field.dataType.simpleString()) for field in schema)

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query as they come; a result without rows is one batch without rows.

        A query that is left in its midst is interrupted.
        """
        with self._interruptible() as tag:
            arriving = self._client.to_table_as_iterator(_plan(sql), {})
            with self._tagged(tag):
                part = next(arriving, None)
            while part is not None:
                if isinstance(part, pa.Table):
                    yield from part.to_batches() or [without_rows(part.schema)]
                part = next(arriving, None)

    def execute(self, sql: str) -> None:
        """Execute a command to its end."""
        command = proto.Command(sql_command=proto.SqlCommand(input=_relation(sql)))
        with self._interruptible() as tag, self._tagged(tag):
            self._client.execute_command(command)

    def sentence(self, error: Exception) -> str:
        """The words of an error, in one sentence and without secrets."""
        return sentence(error, self.address)

    def condition(self, error: Exception) -> str | None:
        """Spark's name for what is wrong; None where it has none."""
        assert isinstance(error, PySparkException)
        found: str | None = error.getCondition()
        return found

    def state(self, error: Exception) -> str | None:
        """The SQLSTATE of an error."""
        assert isinstance(error, PySparkException)
        found: str | None = error.getSqlState()
        return found

    def read_failed(self, model: Model, error: Exception) -> ModelError | WarehouseError:
        """The error for a model that could not be described, read or copied."""
        assert isinstance(error, PySparkException)
        return read_failed(model, error, self.address)

    def cancel(self) -> None:
        """Have the server stop what it does."""
        for tag in list(self._running):
            self._client.interrupt_tag(tag)

    def close(self) -> None:
        """End the session, which a server that is gone has forgotten anyway."""
        self._client.set_retry_policies([DefaultPolicy(max_retries=0)])
        with suppress(PySparkException):
            self._client.release_session()
        self._client.close()

    @contextmanager
    def _interruptible(self) -> Iterator[str]:
        """Have `cancel` know of an operation by a tag, and interrupt it where it is left in its midst."""
        tag = f"retl-{uuid4().hex}"
        self._running.add(tag)
        try:
            yield tag
        except PySparkException:
            raise  # it has ended, or the server is gone
        except BaseException:
            with suppress(PySparkException):
                self._client.interrupt_tag(tag)
            raise
        finally:
            self._running.discard(tag)

    @contextmanager
    def _tagged(self, tag: str) -> Iterator[None]:
        """Give operations that start meanwhile a tag, in this thread: tags belong to one."""
        self._client.add_tag(tag)
        try:
            yield
        finally:
            self._client.remove_tag(tag)

    def _set(self, settings: dict[str, str]) -> None:
        pairs = [proto.KeyValue(key=key, value=value) for key, value in settings.items()]
        self._client.config(proto.ConfigRequest.Operation(set=proto.ConfigRequest.Set(pairs=pairs)))


def _plan(sql: str) -> proto.Plan:
    return proto.Plan(root=_relation(sql))


def _relation(sql: str) -> proto.Relation:
    return proto.Relation(sql=proto.SQL(query=sql))
