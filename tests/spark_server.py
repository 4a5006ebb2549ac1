"""A real Spark Connect server for tests: one process, two threads of work, on the loopback alone."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from threading import Event, Thread

import pytest

TOKEN = "Zeichen-4711=="
"""What the server asks for."""

LARGEST_RESULT = "64m"
"""The largest result that the server lets out, as `spark.driver.maxResultSize` says it."""

START_SECONDS = 120

EVENTS = "events"
"""The folder in which the server notes what it does, in that of the server."""

UNTESTED = "Spark is NOT tested: make test-spark does, where there is a Java"


@contextmanager
def spark_server(folder: Path) -> Iterator[str]:
    """The URL of a server that has just been started; it is ended in the end."""
    spark = find_spec("pyspark")
    submit = Path(spark.origin or "").parent / "bin/spark-submit" if spark else None
    if which("java") is None or submit is None or not submit.exists():
        pytest.skip(UNTESTED)
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
    server = subprocess.Popen(
        [
            submit,
            *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
            *("--master", "local[2]", "--driver-memory", "1g"),
            *("--driver-java-options", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"),  # starts sooner
            *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}")),
        ],
        cwd=folder,
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    started = Event()
    Thread(target=_read_log, args=[server, started, folder / "spark.log"], daemon=True).start()
    try:
        assert started.wait(START_SECONDS) and server.poll() is None, (folder / "spark.log").read_text()[
            -4000:
        ]
        yield f"sc://localhost:{port}/;token={TOKEN}"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _read_log(server: subprocess.Popen[bytes], started: Event, file: Path) -> None:
    """Keep the server's log, and tell when it has started; or that it will not."""
    assert server.stdout is not None
    with server.stdout as lines, file.open("wb", buffering=0) as log:
        for line in lines:
            log.write(line)
            if b"Spark Connect server started at" in line:
                started.set()
    started.set()
