"""What the bench has found of both engines, kept in `engines.json`, and its part of the page."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("engines.json")

FIRST, LATER = "first pass, which sends nothing", "2 % changed"

HEAD = """\
## Where rows are compared

`make bench-engines` and `make bench-spark` compare the users of a Postgres, or of a Spark of two threads,
there (`engine: warehouse`) and here (`engine: local`), beside the same by hand in SQL alone: a copy of the
table, and a join of it with the copy before. The calls go to a file. *rows read* and *MB read*, as Arrow, are
what left the warehouse. Steps alternate; a figure is the median of several, or the only one of a first pass.
Spark's driver has 8 GB, and lets out results of any size.
"""


@dataclass(frozen=True)
class Taken:
    """What a step took.

    Attributes:
        way: `engine: warehouse`, `engine: local`, or the copy and join by hand.
        step: `FIRST` or `LATER`.
        seconds: from launch to exit.
        cpu_s: seconds of CPU of retl alone; None where the warehouse did all, as with the next three.
        peak_mb: the most memory that it held.
        rows: that left the warehouse.
        mb: of these rows.
    """

    way: str
    step: str
    seconds: float
    cpu_s: float | None = None
    peak_mb: float | None = None
    rows: int | None = None
    mb: float | None = None


@dataclass(frozen=True)
class Size:
    """A table of one size, what was measured on it, and on what."""

    rows: int
    changed: int
    date: str
    machine: str
    load: float
    versions: dict[str, str]
    taken: tuple[Taken, ...]
    warehouse: str = "Postgres"


def load(path: Path = PATH) -> list[Size]:
    """The sizes that were ever measured, each as it was last; by warehouse, larger ones first."""
    if not path.exists():
        return []
    return [
        Size(**{**size, "taken": tuple(Taken(**one) for one in size["taken"])})
        for size in json.loads(path.read_text(encoding="utf-8"))
    ]


def save(size: Size, path: Path = PATH) -> None:
    """Put a size in the place of the same one that was measured before."""
    others = (one for one in load(path) if (one.warehouse, one.rows) != (size.warehouse, size.rows))
    sizes = sorted([size, *others], key=lambda one: (one.warehouse, -one.rows))
    path.write_text(json.dumps([asdict(one) for one in sizes], indent=1) + "\n", encoding="utf-8")


def section(sizes: list[Size]) -> Iterator[str]:
    """The part of the page, in lines."""
    yield HEAD
    for size in sizes:
        title = f"{size.warehouse}, {size.rows:,} rows, {size.changed:,} changed"
        yield f"| {title} | s | CPU s | peak MB | rows read | MB read |"
        yield "|---|--:|--:|--:|--:|--:|"
        for one in size.taken:
            figures = (f"{one.seconds:.1f}", *map(cell, (one.cpu_s, one.peak_mb, one.rows, one.mb)))
            yield f"| {one.step}: {one.way} | {' | '.join(figures)} |"
        versions = ", ".join(f"{name} {version}" for name, version in sorted(size.versions.items()))
        yield f"\n{size.date}, {size.machine}, load {size.load:.1f} before it; {versions}.\n"


def cell(value: Any) -> str:
    """A figure in a table."""
    if value is None:
        return "-"
    return f"{value:,.1f}" if isinstance(value, float) and value < 100 else f"{value:,.0f}"
