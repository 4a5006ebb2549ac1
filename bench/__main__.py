"""`python -m bench` measures retl beside other ways to do its work, and writes docs/benchmarks.md."""

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import duckdb

from bench.peer import PEERS, SLOW_SECONDS, Measured, Peer, measure, prepare
from bench.peers.task import FIRST
from bench.process import machine
from bench.report import PAGE, write_all
from bench.results import Found, Setting, load_results, medians, save_setting
from bench.shop import DuckDBShop, Shop, running_postgres
from bench.sink import Sink, running_sink
from bench.venvs import NotInstalledError, versions
from retl import __version__

SIZES, LATENCIES, WAREHOUSES = (100_000, 1_000_000), (0, 30), ("duckdb", "postgres")
REPEATS = 3
PEERS_UP_TO = {0: 1_000_000, 30: 100_000}
"""The most users that others than retl and the bare ones are measured with, by latency: some take minutes."""

ONCE_FROM = 10_000_000
PACKAGES = (
    "adbc-driver-postgresql",
    "dlt",
    "drt-core",
    "pandas",
    "psycopg",
    "psycopg2-binary",
    "pyarrow",
    "segment-analytics-python",
    "sqlalchemy",
)


@dataclass(frozen=True)
class Wanted:
    """The runs that the command line asks for.

    Attributes:
        sizes: numbers of users.
        latencies: of an answer, in milliseconds.
        warehouses: kinds of warehouses.
        only: names of peers; none are all.
        repeats: how often each is measured.
    """

    sizes: tuple[int, ...]
    latencies: tuple[int, ...]
    warehouses: tuple[str, ...]
    only: tuple[str, ...]
    repeats: int

    def peers(self, rows: int, latency_ms: int, warehouse: str) -> list[Peer]:
        """The peers that are measured in a setting."""
        few = rows > PEERS_UP_TO.get(latency_ms, SIZES[0])
        fit = [peer for peer in PEERS if warehouse in peer.warehouses and (peer.sends or not latency_ms)]
        if self.only:
            return [peer for peer in fit if peer.name in self.only]
        return [peer for peer in fit if not few or peer.bare or peer.name == "retl"]


def versions_of(peers: list[Peer]) -> dict[str, str]:
    """The versions of retl and of all that peers are made of."""
    found = {"retl": __version__, "DuckDB": duckdb.__version__, "Python": platform.python_version()}
    for peer in peers:
        if peer.packages:
            try:
                found |= versions(peer.python(), PACKAGES)
            except (NotInstalledError, subprocess.CalledProcessError):
                continue
    return found


def note(words: str) -> None:
    """Say how far it is."""
    click.echo(f"{datetime.now(UTC):%H:%M:%S} {words}", err=True)


def take_turns(
    peers: list[Peer], shop: Shop, sink: Sink, rows: int, latency_ms: int, repeats: int, root: Path
) -> Iterator[Found]:
    """Measure peers in turns; yields what was found of each step of each."""
    runs: dict[tuple[str, str], list[Measured]] = {}
    missing: dict[str, str] = {}
    slow: set[str] = set()
    for turn in range(repeats):
        for peer in peers:
            if peer.name in slow or peer.name in missing:
                continue
            try:
                steps = (FIRST,) if latency_ms else peer.steps
                walls = []
                for step, measured in one_turn(peer, shop, sink, rows, latency_ms, steps, root):
                    runs.setdefault((peer.name, step), []).append(measured)
                    walls.append(measured.wall_s)
                    wrong = f"  {measured.problem}" if measured.problem else ""
                    took = f"{measured.wall_s:8.2f} s {measured.cpu_s:8.2f} CPU s {measured.peak_mb:7,.0f} MB"
                    note(f"{turn + 1}/{repeats}  {peer.title:24} {step:8} {took}{wrong}")
                if sum(walls) > SLOW_SECONDS:
                    slow.add(peer.name)
            except NotInstalledError as error:
                missing[peer.name] = f"does not install or start here: {error}"
                note(f"{peer.title}: {missing[peer.name]}")
    for (name, step), measured_runs in runs.items():
        yield medians(name, step, measured_runs)
    for name, problem in missing.items():
        yield Found(name, FIRST, 0, None, problem)


def one_turn(
    peer: Peer, shop: Shop, sink: Sink, rows: int, latency_ms: int, steps: tuple[str, ...], root: Path
) -> Iterator[tuple[str, Measured]]:
    """Measure the steps of a peer once, from nothing."""
    folder = root / peer.name
    try:
        prepare(peer, shop, sink, rows, latency_ms, folder)
        for step in steps:
            measured = measure(peer, shop, sink, rows, latency_ms, step, folder)
            yield step, measured
            if measured.problem and measured.problem.startswith("exit code"):
                return
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_size(wanted: Wanted, rows: int, root: Path) -> Iterator[Setting]:
    """Measure all that is wanted of one number of users."""
    note(f"making {rows:,} users")
    shop = DuckDBShop(root)
    shop.fill(rows)
    parquet_mb = shop.parquet_bytes(root) / 1e6
    with ExitStack() as stack:
        shops: list[Shop] = [shop] if "duckdb" in wanted.warehouses else []
        server: dict[str, str] = {}
        if "postgres" in wanted.warehouses:
            postgres = stack.enter_context(running_postgres(root))
            postgres.fill(shop, root)
            server = {"Postgres": postgres.version()}
            shops.append(postgres)
        for one in shops:
            for latency_ms in wanted.latencies:
                peers = wanted.peers(rows, latency_ms, one.kind)
                load = os.getloadavg()[0]
                repeats = 1 if rows >= ONCE_FROM else wanted.repeats
                note(f"{rows:,} users, {one.kind}, answers take {latency_ms} ms")
                with running_sink(latency_ms) as sink:
                    found = tuple(take_turns(peers, one, sink, rows, latency_ms, repeats, root))
                made_of = {**versions_of(peers), **(server if one.kind == "postgres" else {})}
                yield Setting(
                    rows=rows,
                    warehouse=one.kind,
                    latency_ms=latency_ms,
                    date=f"{datetime.now(UTC):%Y-%m-%d}",
                    machine=machine(),
                    load=load,
                    sink=sink.language,
                    versions=made_of,
                    parquet_mb=parquet_mb,
                    found=found,
                )


def install(wanted: Wanted) -> None:
    """Install all peers first, so that no figure waits for pip; one that fails says so in its table."""
    for peer in PEERS:
        if not wanted.only or peer.name in wanted.only:
            note(f"{peer.title}: installing, if it is not there")
            try:
                peer.python()
            except NotInstalledError as error:
                note(f"{peer.title} does not install here: {error}")


NAMES = click.Choice([peer.name for peer in PEERS])
ROWS, MS, KINDS = click.IntRange(min=1000), click.IntRange(min=0), click.Choice(WAREHOUSES)


@click.command(context_settings={"show_default": True})
@click.option(
    "--rows", "sizes", type=ROWS, multiple=True, default=SIZES, help="Users; several times for several."
)
@click.option("--latency", "latencies", type=MS, multiple=True, default=LATENCIES, help="Of answers, in ms.")
@click.option(
    "--warehouse", "warehouses", type=KINDS, multiple=True, default=WAREHOUSES, help="To read from."
)
@click.option("--only", type=NAMES, multiple=True, help="Peers; others keep what was found of them before.")
@click.option("--once", is_flag=True, help=f"Measure each once, not {REPEATS} times.")
@click.option("--page", is_flag=True, help="Measure nothing; write the page anew.")
@click.option("--dry", is_flag=True, help="Write nothing.")
def main(
    sizes: tuple[int, ...],
    latencies: tuple[int, ...],
    warehouses: tuple[str, ...],
    only: tuple[str, ...],
    once: bool,
    page: bool,
    dry: bool,
) -> None:
    """Measure retl and other ways to do its work, side by side, and write docs/benchmarks.md."""
    if any(rows % 1000 for rows in sizes):
        raise click.BadParameter("the number of users must be a multiple of 1000")
    wanted = Wanted(sizes, latencies, warehouses, only, 1 if once else REPEATS)
    if page:
        write_all(load_results())
        return
    install(wanted)
    with tempfile.TemporaryDirectory(prefix="retl-bench-") as folder:
        for rows in sizes:
            root = Path(folder) / str(rows)
            root.mkdir()
            for setting in measure_size(wanted, rows, root):
                if not dry:
                    write_all(save_setting(setting))
            shutil.rmtree(root)
    if not dry:
        click.echo(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
