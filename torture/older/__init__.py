"""Older states: those of a track sync in the midst of a life, as retl left them at each schema so far.

`schema_N.duckdb.gz` is the state after two runs of the last commit with schema N. Of the second run's calls
some arrived, of some the answer got lost, and the rest wait. `schema_N.json` has the versions of the rows,
and the calls that had arrived. The destination is taken out of the files, as each life has another one.
"""

import gzip
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from torture.rows import History, Row

FOLDER = Path(__file__).parent

SCHEMAS = tuple(sorted(int(path.name[7:].partition(".")[0]) for path in FOLDER.glob("schema_*.gz")))
"""The schemas of which there is a state."""


@dataclass(frozen=True)
class Older:
    """An older state.

    Attributes:
        content: of the file.
        history: the rows, and how each of them was.
        accepted: the calls that had arrived.
        left_at: when its last run ended.
    """

    content: bytes
    history: History
    accepted: list[dict[str, Any]]
    left_at: datetime


def older_state(schema: int) -> Older:
    """The state of a schema."""
    content = gzip.decompress((FOLDER / f"schema_{schema}.duckdb.gz").read_bytes())
    told = json.loads((FOLDER / f"schema_{schema}.json").read_text(encoding="utf-8"))
    versions = {
        int(number): (key, Row(int(number), owner, note))
        for number, (key, owner, note) in told["versions"].items()
    }
    current = {key: versions[version][1] for key, version in told["current"].items()}
    keys = sorted({key for key, _ in versions.values()})
    owners = sorted({row.owner for _, row in versions.values()})
    history = History(keys, owners, current, versions)
    return Older(content, history, told["accepted"], datetime.fromisoformat(told["at"]))
