"""JSON objects spliced in SQL, as DuckDB makes them."""

import json

import duckdb
import pytest

from retl.calls.json_sql import MOST_ASKING, json_object, members, object_member


def made(expression: str) -> str | None:
    """The text that an SQL expression yields."""
    row = duckdb.execute(f"SELECT {expression}").fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "{}"),
        ({"a": "'1'", "b": "'null'"}, '{"a":1,"b":null}'),
        ({"b": "'2'", "a": "'1'"}, '{"b":2,"a":1}'),
        ({"a": "NULL", "b": "'2'", "c": "NULL"}, '{"b":2}'),
        ({"a": "NULL::VARCHAR"}, "{}"),
        ({"a.b": "'1'", "c": "'2'", "a.d": "'3'"}, '{"a":{"b":1,"d":3},"c":2}'),
        ({"a.b.c": "'[]'"}, '{"a":{"b":{"c":[]}}}'),
        ({"a.b": "NULL", "c": "'2'"}, '{"c":2}'),
        ({"a.b.c": "NULL", "a.b.d": "NULL"}, "{}"),
        ({"a.b.c": "NULL", "a.d": "'1'"}, '{"a":{"d":1}}'),
        ({"a": "CASE WHEN true THEN '1' ELSE '2' END"}, '{"a":1}'),
        ({"a": "'1.10'", "b": "'12345678901234567890'"}, '{"a":1.10,"b":12345678901234567890}'),
    ],
)
def test_an_object(fields: dict[str, str], text: str) -> None:
    """Dotted names nest, nulls and nested objects without members are left out, values stay as written."""
    assert text == made(json_object(fields))


@pytest.mark.parametrize(
    "name", ["it's", 'say "x"', "back\\slash", "tab\t", "größe", "名前", "🙂", "a b", "{}"]
)
def test_names(name: str) -> None:
    """A name is read back as it was, whatever is in it; Unicode is not escaped."""
    text = made(json_object({name: "'1'"}))
    assert text is not None
    assert {name: 1} == json.loads(text)
    assert "\\u" not in text


def test_a_name_of_many_levels() -> None:
    """The SQL of a nested object grows by the same with each level; if it doubled, this would not end."""
    name = ".".join("a" * 32)

    assert '{"a":' * 32 + "1" + "}" * 32 == made(json_object({name: "'1'"}))
    assert "{}" == made(json_object({name: "NULL"}))


@pytest.mark.parametrize("count", [1, 3, MOST_ASKING, MOST_ASKING + 1])
def test_commas(count: int) -> None:
    """Whichever members are there, a comma stands between two of them, and nowhere else."""
    wholes = {1, count // 2, count}
    for there in ([], [0], [count - 1], [0, count - 1], [*range(1, count)], [*range(count)]):
        values = {number: str(number) if number in there else None for number in range(count)}
        fields = {
            f"m{number}": f"'{value}'" if value else "NULL::VARCHAR" for number, value in values.items()
        }
        nested = {
            f"m{number}.o" if number in wholes else f"m{number}": fields[f"m{number}"] for number in values
        }
        told = {f"m{number}": {"o": number} if number in wholes else number for number in sorted(set(there))}
        assert json.dumps(
            {name: int(fields[name].strip("'")) for name in told}, separators=(",", ":")
        ) == made(json_object(fields))
        assert json.dumps(told, separators=(",", ":")) == made(json_object(nested))


def test_members() -> None:
    """Members stand behind a comma, without those whose value is NULL; an object is there even if empty."""
    some = {"a": "'1'", "b": "NULL", "c": "'2'"}
    assert ',"a":1,"c":2' == made(f"concat({', '.join(members(some))})")
    assert ',"o":{"a":1,"c":2}' == made(f"concat({', '.join(object_member('o', some))})")
    assert ',"o":{}' == made(f"concat({', '.join(object_member('o', {'a': 'NULL'}))})")
