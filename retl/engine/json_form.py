"""The form of JSON, by which two texts are compared that may have another key order, or other spaces.

The TEMP table `json_form` (text, form) has it for the texts that differ; no other text is parsed.
"""

from collections.abc import Sequence

import duckdb

from retl import sql
from retl.engine.canonical import valid_json


def find_forms(db: duckdb.DuckDBPyConnection, rows: str, pairs: Sequence[tuple[str, str]]) -> bool:
    """Fill the table `json_form` for pairs of JSON texts that differ; returns whether there are any.

    Args:
        db: the state's connection.
        rows: the rows that are looked at, as SQL behind a FROM, with a WHERE.
        pairs: SQL of two texts of such a row.
    """
    db.execute(_create_forms(rows, pairs))
    return db.execute("SELECT count(*) FROM json_form").fetchone() != (0,)


def form(text: str) -> str:
    """A JSON text in the form by which it is compared; a text that is not JSON stays as it is."""
    return f"coalesce((SELECT form FROM json_form WHERE text = {text}), {text})"


_TOKENS = r'"(?:[^"\\]|\\.)*"|[-+0-9.eE]+|[a-z]+|[{}\[\]:,]'


def _create_forms(rows: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The statement that makes the table `json_form` of each JSON text that differs."""
    texts = (
        f"SELECT {side} AS text FROM {rows} AND {before} IS DISTINCT FROM {after}"
        for before, after in pairs
        for side in (before, after)
    )
    found = "\n    UNION\n    ".join(texts)
    return f"""\
CREATE OR REPLACE TEMP TABLE json_form AS
WITH found AS (
    {found}
),
-- Numbers become marked text before JSON is parsed, because parsing costs digits.
marked AS (
    SELECT
        text,
        array_to_string(
            list_transform(
                regexp_extract_all(text, {sql.text(_TOKENS)}),
                lambda token: CASE
                    WHEN token[1] = '"' THEN '"text ' || token[2:]
                    WHEN regexp_matches(token, '^-?[0-9]+\\.[0-9]+$')
                        THEN '"number ' || rtrim(rtrim(token, '0'), '.') || '"'
                    WHEN regexp_matches(token, '^[-0-9]') THEN '"number ' || token || '"'
                    ELSE token
                END
            ),
            ''
        ) AS marked
    FROM found
    WHERE text IS NOT NULL AND {valid_json("text")}
)
SELECT
    text,
    string_agg(fullkey || ' ' || type || ' ' || coalesce(atom::VARCHAR, ''), chr(10) ORDER BY fullkey) AS form
FROM marked, LATERAL (SELECT fullkey, type, atom FROM json_tree(marked.marked))
GROUP BY text"""
