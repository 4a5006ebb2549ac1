"""Reading a user's YAML: values, lines, variables, and what is refused."""

import itertools
import os
from pathlib import Path

import pytest

from retl.errors import ConfigError
from retl.forms.yaml_file import Document, Location, interpolate, load


def read(folder: Path, text: str, **env: str) -> Document:
    """A document of a text; its first fault is raised."""
    path = folder / "syncs" / "users.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    document = load(path, env, root=folder)
    for fault in document.faults:
        raise fault.error
    return document


TEXT = """\
# users
model: users

identify:
  traits: {email: mail}
  list:
    - one
    - two
sql: |
  select 1
"""


@pytest.mark.parametrize(
    ("location", "line"),
    [
        ((), 2),
        (("model",), 2),
        (("identify",), 4),
        (("identify", "traits", "email"), 5),
        (("identify", "list", 1), 8),
        (("identify", "nothing", "here"), 4),
        (("nothing",), 2),
    ],
)
def test_line(tmp_path: Path, location: Location, line: int) -> None:
    """Each key and item knows its line; what the file lacks has the line of what is around it."""
    assert line == read(tmp_path, TEXT).line(location)


@pytest.mark.parametrize(
    ("location", "where"),
    [
        ((), "syncs/users.yml"),
        (("identify", "traits"), "syncs/users.yml:5 identify.traits"),
        (("identify", "name"), "syncs/users.yml:4 identify.name"),
        (("identify", "list", 0), "syncs/users.yml:7 identify.list.0"),
        (("primary_key",), "syncs/users.yml primary_key"),
    ],
)
def test_where(tmp_path: Path, location: Location, where: str) -> None:
    """A place is file, line and key; a top-level key that is not written has no line."""
    assert where == read(tmp_path, TEXT).where(location)


@pytest.mark.parametrize(
    ("text", "line"), [("a: x", 1), ("a:\n  'x'", 2), ("a: |\n  x", 2), ("b: 1\na: >-\n  x", 3)]
)
def test_text_line(tmp_path: Path, text: str, line: int) -> None:
    """The text of a block starts on the line below its mark."""
    assert line == read(tmp_path, text).text_line(("a",))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("1.5", 1.5),
        ("true", True),
        ("~", None),
        ("off", "off"),
        ("yes", "yes"),
        ("20%", "20%"),
        ("2024-01-31", "2024-01-31"),
        ("2024-01-31T10:00:00Z", "2024-01-31T10:00:00Z"),
        ("'1'", "1"),
        ("[a, {b: 1}]", ["a", {"b": 1}]),
        ("&x [1]\nb: *x", [1]),
        ("&x 1\nb: &x 2", 1),
        ("=", "="),
        ("0x1f", 31),
        ("190:20:30", "190:20:30"),
    ],
)
def test_values(tmp_path: Path, written: str, value: object) -> None:
    """Values are read by the rules of YAML 1.2; moments stay the text they are."""
    read_value = read(tmp_path, f"a: {written}").data["a"]

    assert value == read_value
    assert type(value) is type(read_value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "syncs/users.yml:3 a: the key `a` stands here twice; first on line 1"),
        (
            "a:\n  b: 1\n  b: 2",
            "syncs/users.yml:3 a.b: the key `b` stands here twice; first on line 2",
        ),
        ("", "syncs/users.yml: the file is empty"),
        ("# nothing", "syncs/users.yml: the file is empty"),
        ("- a", "syncs/users.yml:1: the file must be a mapping, lines of `key: value`"),
        ("a: !!bool x", "syncs/users.yml:1 a: `x` is not what its tag says"),
        ("a:\n  1: x", "syncs/users.yml:2 a: a key must be text; put `1` in quotes"),
        ("[a]: 1", "syncs/users.yml:1: a key must be text, not a list or a mapping"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "syncs/users.yml:3 c: merge keys (`<<`) are not supported"),
        ("a: &x\n  b: *x", "syncs/users.yml:2 a.b: the alias stands inside what it stands for"),
        ("a: !secret x", "syncs/users.yml:1 a: the tag !secret is not supported"),
        ("a: !!int x", "syncs/users.yml:1 a: `x` is not what its tag says"),
        ("a: !!int ''", "syncs/users.yml:1 a: `` is not what its tag says"),
        ("a: !!set {x, y}", "syncs/users.yml:1 a: the tag tag:yaml.org,2002:set is not supported"),
        ("a: !!str [x]", "syncs/users.yml:1 a: the tag tag:yaml.org,2002:str is not supported"),
        (
            "a: 1_000",
            "syncs/users.yml:1 a: `1_000` is a number to some readers of YAML and text to others; "
            "write digits alone, or quotes",
        ),
        (
            f"a: 0x{'f' * 100}",
            "syncs/users.yml:1 a: a whole number has at most 100 digits; put it in quotes if text is meant",
        ),
        (
            'a: "\\UFFFFFFFF"',
            "syncs/users.yml:1: not valid YAML: it cannot be read beyond this line",
        ),
        (
            f"a:\n  {'[' * 60}",
            "syncs/users.yml:2: not valid YAML at column 52: it is nested more than 50 levels deep",
        ),
        ("a:\n  b: ${NO_SUCH}", "syncs/users.yml:2 a.b: NO_SUCH is not set"),
        ("a: [x, '${NO_SUCH}']", "syncs/users.yml:1 a.1: NO_SUCH is not set"),
    ],
)
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    """What is no such file is refused with file, line and key."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)

    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("text", "place", "cause"),
    [
        ("a: b: c", "1, 5", "the value of `a` holds another `: `"),
        (
            "a:\n  b: x\n    c: y",
            "3, 6",
            "this line is indented as a part of line 2, which has a value already",
        ),
        ("a:1\nb: 2", "2, 2", "line 1 has no space behind its colon"),
        ("a:\n\t- x", "2, 1", "a tab stands where only spaces may"),
        ("a:\n  b: 1\n c: 2", "3, 2", "this line begins in another column than the lines around it"),
        ("  a: 1\nb: 2", "2, 1", "this line begins in another column than the lines around it"),
        ("a: 1\nb: 'x\nc: 1\n", "2, 4", "the quote that begins here is not closed"),
        ("a: 'it's'", "1, 8", "text stands behind a closing quote"),
        (
            "a: [1, 2\nb: 3",
            "2, 2",
            "the `[` or `{` of line 1 is not closed before this, or a comma is missing",
        ),
        ("a: {b: 1 c: 2}", "1, 11", "the `[` or `{` is not closed before this, or a comma is missing"),
        ("a: {b: ${X}}", "1, 9", "`${…}` inside `[…]` or `{…}` needs quotes"),
        ("a: ]", "1, 4", "`]` closes nothing"),
        ("a: 1\nb\nc: 2", "2, 1", "a line without `key:` stands here"),
        ("a: - b", "1, 4", "a list item stands behind its key"),
        ("a: b\n- c", "2, 1", "a list item and a key stand beside each other"),
        ("a: @x", "1, 4", "a text must not begin with `@`"),
        ("a: & b", "1, 4", "a text must not begin with `&`"),
        ("a: *x", "1, 4", "`*x` stands for what is named `&x`, and nothing is"),
        ('a: "\\q"', "1, 6", "a `\\` in double quotes begins an escape"),
        ("a: |x\n b", "1, 5", "text stands behind `|` or `>`"),
        ("a: 1\n---\nb: 2", "2, 1", "`---` begins a second document, and a file has one"),
        ("a: b\nc: \x01", "2, 4", "the character U+0001 must not stand in it"),
        ("a: !<x", "1, 7", "expected '>' but found '\\x00'"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_likely_cause(
    tmp_path: Path, text: str, place: str, cause: str
) -> None:
    """The error names line and column, and what is likely wrong there, in words that are not the parser's."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)

    line, column = place.split(", ")
    told = str(caught.value)
    assert told.startswith(f"syncs/users.yml:{line}: not valid YAML at column {column}: {cause}")


def test_all_faults_are_noted(tmp_path: Path) -> None:
    """What is wrong with values and keys is noted, and the rest is read; None stands where a value was."""
    (tmp_path / "a.yml").write_text("a: !x 1\nb: [1, 1_0, {c: '${NO}'}]\n2: d\nb: 3\ne: f")

    document = load(tmp_path / "a.yml", {}, root=tmp_path)

    assert {"a": None, "b": [1, None, {"c": None}], "e": "f"} == document.data
    assert [(1, ("a",)), (2, ("b", 1)), (2, ("b", 2, "c")), (3, None), (4, None)] == [
        (fault.line, fault.location) for fault in document.faults
    ]


BOMBS = {
    "ten by ten": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in itertools.pairwise("abcdefghi")),
    "many of a long text": f"a: &a '{'x' * 5_000}'\nb: [{', '.join(['*a'] * 1_000)}]",
    "many of a long list": f"a: &a [{'x, ' * 500}]\nb: [{', '.join(['*a'] * 500)}]",
    "as keys": "a: &a [x, x]\nb: {" + "? *a\n: 1," * 15_000 + "}",
    "no alias at all": f"a: [{'x, ' * 25_000}]",
}


@pytest.mark.variants(1)
@pytest.mark.rule("S6")
@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_text_that_stands_for_too_much_is_refused(tmp_path: Path, text: str) -> None:
    """Values are counted while they are read, each alias as what it stands for; beyond a limit that stops."""
    with pytest.raises(ConfigError, match="it is too large, each alias counted as what it stands for"):
        read(tmp_path, text)


@pytest.mark.rule("S6")
def test_a_large_file_is_refused(tmp_path: Path) -> None:
    """No more than a million bytes are read."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "#" * 1_000_001)

    assert "syncs/users.yml: cannot be read: it is larger than 1,000,000 bytes" == str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe, which may never end, is no file."""
    os.mkfifo(tmp_path / "users.yml")

    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "users.yml", {}, root=tmp_path)

    assert "users.yml: cannot be read: it is not a file" == str(caught.value)


def test_a_variable_that_is_not_text(tmp_path: Path) -> None:
    """A variable whose bytes are not UTF-8 is an error that names it."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "a: ${NAME}", NAME="caf\udce9")

    assert "syncs/users.yml:1 a: NAME is not UTF-8 text" == str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is an error that names it."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "users.yml", {}, root=tmp_path)

    assert "users.yml: cannot be read: No such file or directory" == str(caught.value)


def test_not_utf8(tmp_path: Path) -> None:
    """A file in another encoding is an error that names it."""
    path = tmp_path / "users.yml"
    path.write_bytes(b"a: \xff")

    with pytest.raises(ConfigError) as caught:
        load(path, {}, root=tmp_path)

    assert "users.yml: is not UTF-8 text" == str(caught.value)


@pytest.mark.rule("E11")
@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${A}", "x"),
        ("<${A}${A}>", "<xx>"),
        ("${B:-y}", "y"),
        ("${B:-}", ""),
        ("${A:-y}", "x"),
        ("${EMPTY}", ""),
        ("${EMPTY:-y}", "y"),
        ("$${A}", "${A}"),
        ("$A $ {A} $$", "$A $ {A} $$"),
        ("${NESTED}", "${A}"),
    ],
)
def test_interpolate(text: str, filled: str) -> None:
    """Variables are filled in once; a default counts where the variable is unset or empty."""
    assert filled == interpolate(text, {"A": "x", "EMPTY": "", "NESTED": "${A}"}, "here")


@pytest.mark.parametrize("text", ["${", "${}", "${a b}", "x ${1A}", "${A-b}"])
def test_interpolate_broken(text: str) -> None:
    """A `${` that opens no variable is an error, and how to write a plain one is said."""
    with pytest.raises(ConfigError) as caught:
        interpolate(text, {"A": "x"}, "here")

    assert "here: `${` without a variable's name and `}`" == str(caught.value)
    assert "write `$${` for a plain `${`" == caught.value.hint


def test_unset_variable_hint(tmp_path: Path) -> None:
    """Whoever lacks a variable is told where to set it."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "a: ${NO_SUCH}")

    assert "set it in the environment or in .env" == caught.value.hint


def test_as_written(tmp_path: Path) -> None:
    """Variables are left alone at the locations that are named, and nowhere else."""
    path = tmp_path / "users.yml"
    path.write_text("segment: {write_key: '${KEY}', name: '${NAME}'}\nwrite_key: ${NAME}", encoding="utf-8")

    document = load(path, {"NAME": "x"}, root=tmp_path, as_written=[("segment", "write_key")])

    assert {"segment": {"write_key": "${KEY}", "name": "x"}, "write_key": "x"} == document.data


def test_no_values_in_repr(tmp_path: Path) -> None:
    """A document's repr holds no value of the environment."""
    assert "hunter2" not in repr(read(tmp_path, "a: ${PASSWORD}", PASSWORD="hunter2"))


def test_outside_the_root(tmp_path: Path) -> None:
    """A file outside the project is shown with its whole path."""
    path = tmp_path / "users.yml"
    path.write_text("a: 1", encoding="utf-8")

    assert f"{path}:1 a" == load(path, {}, root=tmp_path / "project").where(("a",))


def test_an_escaped_emoji_is_one_character(tmp_path: Path) -> None:
    """A character that is escaped as two halves, as JSON does it, is read as one."""
    assert {"event": "\U0001f600"} == read(tmp_path, 'event: "\\ud83d\\ude00"').data


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    """Half of such a character alone is no text."""
    with pytest.raises(ConfigError, match="half of a character") as caught:
        read(tmp_path, 'event: "\\ud83d"')
    assert ":1 event" in str(caught.value)
