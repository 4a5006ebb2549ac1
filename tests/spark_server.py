"""A real Spark Connect server for tests: one process, two threads of work, on the loopback alone."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest
from process import running

TOKEN = "Zeichen-4711=="
"""What the server asks for."""

LARGEST_RESULT = "64m"
"""The largest result that the server lets out, as `spark.driver.maxResultSize` says it."""

EVENTS = "events"
"""The folder in which the server notes what it does, in that of the server."""

UNTESTED = "Spark is NOT tested: make test-spark does, where there is a Java"


@contextmanager
def spark_server(folder: Path) -> Iterator[str]:
    """The URL of a server that has just been started; it is ended in the end."""
    spark = find_spec("pyspark")
    submit = Path(spark.origin or "").parent / "bin/spark-submit" if spark else None
    if which("java") is None or submit is None or not submit.exists():
        pytest.skip(UNTESTED)  # it needs a Java, and an environment of its own, which CI makes
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / EVENTS).mkdir()
    settings = {
        "spark.connect.authenticate.token": TOKEN,
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": port,
        "spark.driver.maxResultSize": LARGEST_RESULT,
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": folder / EVENTS,
        "spark.eventLog.enabled": "true",
        "spark.sql.shuffle.partitions": 2,
        "spark.sql.warehouse.dir": folder / "warehouse",
        "spark.ui.enabled": "false",
    }
    command = [
        submit,
        *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
        *("--master", "local[2]", "--driver-memory", "1g"),
        *("--driver-java-options", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"),  # starts sooner
        *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}")),
    ]
    env = {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(folder)}
    with running(command, b"Spark Connect server started at", folder, env):
        yield f"sc://localhost:{port}/;token={TOKEN}"
