"""Syncs of lives: one for each way to tell what became of the rows, and what edits add to them."""

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

SYNCS = {"track": TRACK, "identify": IDENTIFY, "audience": AUDIENCE}

EDITS = ("", ", note: note", ", n: {column: note, nulls: omit}")
"""Further properties that edits of the sync add and take away."""
