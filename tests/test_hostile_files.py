"""A sync file with bytes changed at random is a sync, or an error that says where."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retl.config.project import find_project, load_model, load_sync
from retl.errors import ConfigError, ModelError

EXAMPLES = int(os.environ.get("RETL_TEST_EXAMPLES", "40"))

SYNC = b"""\
name: users
sql: |
  SELECT 1 AS id, 'a' AS email
primary_key: [id]
track:
  user_id: id
  added: {event: "Signed \\u00dcp", timestamp: {column: at, as: timestamp, unit: ms}}
  changed: {event: {column: name}, previous: true}
  properties: {email: email, address.city: &city {column: city, nulls: omit}, address.town: *city}
  context: {traits.email: {value: [1, 2.5, null, true, {a: 'b'}]}}
  integrations: {All: true}
initial: skip
guards: {removed: 20%, changed: 500, added: off, min_rows: 1}
timezone: Europe/Berlin
allow_ids: ["0"]
receivers: {insider: {mode: warn}}
segment: {endpoint: "http://127.0.0.1:8765", name: "${NAME:-shop}", events_per_second: 100, gzip: false}
"""

PIECES = [
    *(b"&a", b"*a", b"<<: ", b"? ", b"- ", b"[", b"{", b"}", b"]", b"!!int ", b"!!set ", b"!x ", b"|\n"),
    *(b'"\\ud800"', b'"\\UFFFFFFFF"', b"\xff", b"\x00", b"\t", b"\r", b"\n", b"\xef\xbb\xbf", b"---\n"),
    *(b"1e400", b".nan", b"0b1", b"${", b"${A}", b"%", b":", b"#", b"'", b'"', b"9" * 400, b"[" * 80, b"."),
]
"""Pieces of text that a reader of YAML may stumble over."""

pieces = st.one_of(st.sampled_from(PIECES), st.binary(max_size=4))
edits = st.lists(st.tuples(st.integers(0, len(SYNC)), st.integers(0, 12), pieces), min_size=1, max_size=4)
"""Places, how many bytes go there, and what comes in their place."""


@pytest.mark.rule("E13")
@given(edits=edits)
@settings(max_examples=EXAMPLES, deadline=None)
def test_an_edited_file_is_a_sync_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int, bytes]]
) -> None:
    """However a file is edited, reading it gives a sync or an error that names the file."""
    text = SYNC
    for place, gone, come in edits:
        text = text[:place] + come + text[place + gone :]
    path: Path = tmp_path_factory.getbasetemp() / "syncs" / "users.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    project = find_project(path, {})

    where = "syncs/users.yml"
    try:
        load_model(load_sync(path, project), project)
    except (ConfigError, ModelError) as error:
        where = error.where or ""
    assert where.startswith("syncs/users.yml")
