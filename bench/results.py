"""What the bench has found, kept in `results.json`; the page and the chart are made of it."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.peer import Measured

PATH = Path(__file__).with_name("results.json")


@dataclass(frozen=True)
class Found:
    """One step of one peer: the medians of its runs.

    Attributes:
        peer: its name.
        step: the step.
        runs: how many were measured.
        figures: the medians; None where there are none.
        problem: what went wrong.
    """

    peer: str
    step: str
    runs: int
    figures: Measured | None
    problem: str | None = None


@dataclass(frozen=True)
class Setting:
    """A warehouse of one size behind answers of one latency, and what was found there.

    Attributes:
        rows: users in version 1.
        warehouse: `duckdb` or `postgres`.
        latency_ms: how long each answer waits.
        date: of the measurement.
        machine: in words.
        load: the load average just before.
        sink: the language of the sink.
        versions: of all that was measured, by name.
        parquet_mb: the size of the users as Parquet with zstd.
        found: what was found, step by step.
    """

    rows: int
    warehouse: str
    latency_ms: int
    date: str
    machine: str
    load: float
    sink: str
    versions: dict[str, str]
    parquet_mb: float
    found: tuple[Found, ...] = ()

    @property
    def key(self) -> tuple[int, str, int]:
        """All that tells it from another setting."""
        return self.rows, self.warehouse, self.latency_ms

    def of(self, peer: str, step: str) -> Found | None:
        """What was found of one step of a peer."""
        return next((one for one in self.found if (one.peer, one.step) == (peer, step)), None)


def medians(peer: str, step: str, runs: list[Measured]) -> Found:
    """Each figure's median over some runs of a step; the first problem counts for all."""
    problem = next((run.problem for run in runs if run.problem), None)
    figures: dict[str, Any] = {}
    for field in fields(Measured):
        values = [getattr(run, field.name) for run in runs]
        numbers = [value for value in values if isinstance(value, int | float)]
        figures[field.name] = median(numbers) if numbers else None
    return Found(peer, step, len(runs), Measured(**{**figures, "problem": problem}), problem)


def load_results(path: Path = PATH) -> list[Setting]:
    """All settings that were ever measured, each as it was last; smaller ones first."""
    if not path.exists():
        return []
    settings = []
    for setting in json.loads(path.read_text(encoding="utf-8")):
        found = tuple(
            Found(**{**one, "figures": one["figures"] and Measured(**one["figures"])})
            for one in setting["found"]
        )
        settings.append(Setting(**{**setting, "found": found}))
    return settings


def save_setting(setting: Setting, path: Path = PATH) -> list[Setting]:
    """Put a setting in the place of the one that was measured before; returns all, as they are kept.

    Peers that were left out this time keep what was found of them.
    """
    others = {one.key: one for one in load_results(path)}
    if before := others.pop(setting.key, None):
        again = {one.peer for one in setting.found}
        kept = tuple(one for one in before.found if one.peer not in again)
        setting = replace(
            setting, found=setting.found + kept, versions={**before.versions, **setting.versions}
        )
    settings = sorted([*others.values(), setting], key=lambda one: one.key)
    path.write_text(json.dumps(rounded([asdict(one) for one in settings]), indent=1) + "\n", encoding="utf-8")
    return load_results(path)


def rounded(value: Any) -> Any:
    """The same with no more than four digits after the point."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value
