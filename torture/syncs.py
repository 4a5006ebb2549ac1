"""Syncs of lives: one for each way to tell what became of the rows, and what edits add to them."""

import tempfile
from functools import cache
from pathlib import Path

from retl.config.project import Project, load_model, load_sync
from retl.config.sync import Sync
from retl.model import Model
from torture.bad_day import KEY

ENVIRONMENT = {"SEGMENT_WRITE_KEY": KEY, "RETL_WAREHOUSE_URL": "duckdb://"}

TRACK = """\
sql: SELECT * FROM users
primary_key: id
track:
  user_id: owner
  added: {{event: Added}}
  changed: {{event: Changed, previous: true}}
  removed: {{event: Removed}}
  properties: {{id: id, version: version{more}}}
initial: send
guards: {{removed: off, changed: off, added: off, rejected: off}}
"""

IDENTIFY = """\
sql: SELECT * FROM users
primary_key: id
identify:
  user_id: id
  traits: {{version: version{more}}}
  removed: {{traits: {{version: {{value: gone}}}}}}
guards: {{removed: off, changed: off, added: off}}
"""

AUDIENCE = """\
sql: SELECT * FROM users
primary_key: id
audience:
  user_id: id
  name: Members
  properties: {{version: version{more}}}
initial: send
guards: {{removed: off, changed: off, added: off, rejected: off}}
"""

ENGINE = """\
engine: {engine}
engine_schema: {schema}
"""

SYNCS = {"track": TRACK, "identify": IDENTIFY, "audience": AUDIENCE}

EDITS = (
    ("", ""),
    (", note: note", ""),
    (", n: {column: note, nulls: omit}", ""),
    (", fixed: {value: 7}", ""),
    (", note: note", "compare: [version]\n"),
)
"""Edits of a sync: further properties, and further lines."""

LOCAL = ("local", "retl")
"""The engine of a life without a schema of retl's in its warehouse."""

ENGINES = (("warehouse", "retl"), ("warehouse", "retl"), ("warehouse", "retl_2"), LOCAL, ("local", "retl_2"))
"""Engines of the others, each with its schema."""


@cache
def load(kind: str, edit: tuple[str, str], engine: tuple[str, str]) -> tuple[Sync, Model]:
    """A sync with an edit and an engine, and its model; a file is read once, whoever needs it."""
    more, below = edit
    below += ENGINE.format(engine=engine[0], schema=engine[1])
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        path = Path(folder) / "life.yml"
        path.write_text(SYNCS[kind].format(more=more) + below, encoding="utf-8")
        project = Project(path.parent, ENVIRONMENT)
        sync = load_sync(path, project)
        return sync, load_model(sync, project)
