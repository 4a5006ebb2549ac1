"""The project that the bench runs: users in a DuckDB file, and one identify sync."""

from pathlib import Path

import duckdb

SYNC = """\
sql: SELECT * FROM users
warehouse: duckdb:///shop.duckdb
primary_key: user_id
identify:
  user_id: user_id
  traits: {{email: email, first_name: first_name, last_name: last_name, address.city: city,
    address.country: country, plan: plan, balance: balance, score: score, active: active,
    createdAt: created_at}}
  removed: {{traits: {{plan: {{value: gone}}}}}}
segment: {{endpoint: "{endpoint}", events_per_second: 0, concurrency: {connections}}}
"""

USERS = """
SELECT
    format('user-{{:08d}}', i) AS user_id,
    format('user.{{:08d}}@mail.example.com', i) AS email,
    ['Ada', 'Björn', 'Chloé', 'Dmitri', 'Emeka'][1 + i * 7919 % 5] AS first_name,
    format('Lastname-{{}}', i * 7919 % 50_021) AS last_name,
    ['Paris', 'Lagos', 'São Paulo', 'Osaka', 'Leeds'][1 + i % 5] AS city,
    ['FR', 'NG', 'BR', 'JP', 'GB'][1 + i % 5] AS country,
    ['free', 'pro', 'team'][1 + i % 3] AS plan,
    (i * 7919 % 1_000_003 / 100)::DECIMAL(12, 2) AS balance,
    CASE WHEN i % 10 > 0 THEN i * 7919 % 1009 / 7 END AS score,
    i % 4 > 0 AS active,
    TIMESTAMPTZ '2024-01-01 00:00:00Z' + to_milliseconds(i * 61_007) AS created_at
FROM range({start}, {stop}) AS t(i)
"""


def make_project(root: Path, rows: int, endpoint: str, connections: int) -> None:
    """Write the project into a folder, and so many users into its warehouse."""
    (root / "syncs").mkdir()
    sync = SYNC.format(endpoint=endpoint, connections=connections)
    (root / "syncs" / "users.yml").write_text(sync, encoding="utf-8")
    with duckdb.connect(root / "shop.duckdb") as db:
        db.execute(f"CREATE TABLE users AS {USERS.format(start=0, stop=rows)}")


def edit_users(root: Path, rows: int) -> int:
    """Change 1 % of the users, remove 0.5 % and add 0.5 %; returns how many that is together."""
    edits = (
        "UPDATE users SET plan = plan || '+' WHERE right(user_id, 2) = '01'",
        "DELETE FROM users WHERE right(user_id, 3) IN ('002', '102', '202', '302', '402')",
        f"INSERT INTO users {USERS.format(start=rows, stop=rows + rows // 200)}",
    )
    with duckdb.connect(root / "shop.duckdb") as db:
        return sum(int(db.execute(edit).fetchall()[0][0]) for edit in edits)
