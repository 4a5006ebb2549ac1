"""A project folder: finding it, its syncs and models, and its settings."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from harness import runner

from retl.config.project import (
    Project,
    check_names,
    every_sync,
    find_project,
    find_syncs,
    load_model,
    load_sync,
    warehouse_url,
    write_key,
)
from retl.config.sync import Sync
from retl.errors import ConfigError, ModelError
from retl.model import Model

SYNC = "model: {model}\nprimary_key: id\nidentify: {{user_id: id}}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with the sync and the model `users`."""
    folder = tmp_path / "shop"
    write(folder / "models/users.sql", "select * from users\n")
    write(folder / "syncs/users.yml", SYNC.format(model="users"))
    return folder


def write(path: Path, text: str) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(path: Path, environ: Mapping[str, str] | None = None) -> tuple[Sync, Project]:
    """A sync and its project."""
    project = find_project(path, environ or {})
    return load_sync(path, project), project


@pytest.mark.parametrize(
    ("present", "start", "found"),
    [
        (["a/models/", "a/syncs/"], "a/syncs/x.yml", "a"),
        (["models/", "a/models/"], "a/syncs/deep/x.yml", "a"),
        (["models/", "a/syncs/", "a/retl.yml"], "a/syncs/x.yml", "a"),
        (["models/", "a/syncs/"], "a/syncs/x.yml", "a"),
        (["retl.yml", "a/models/", "a/syncs/"], "a/models", "."),
        (["models/", "a/b/x.yml"], "a/b/x.yml", "."),
        (["a/syncs/"], "a/syncs/x.yml", "a"),
        (["a/retl.yml"], "a/b/x.yml", "a"),
        ([], "a/b/x.yml", "a/b"),
        (["a/models/"], "a/models", "a"),
        (["a/models/"], "a", "a"),
    ],
)
def test_find_project(tmp_path: Path, present: list[str], start: str, found: str) -> None:
    """The project is the nearest folder with retl.yml, else syncs/, else models/; else the file's own."""
    for name in present:
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        else:
            write(tmp_path / name, "timezone: UTC")

    assert (tmp_path / found).resolve() == find_project(tmp_path / start, {}).root


def test_linked_sync(tmp_path: Path, root: Path) -> None:
    """A sync file that is a link belongs to the project in which the link is."""
    target = write(tmp_path / "mounted/data.yml", SYNC.format(model="users"))
    link = root / "syncs/linked.yml"
    link.symlink_to(target)

    assert root == find_project(link, {}).root


@pytest.mark.rule("E11")
def test_environment(root: Path) -> None:
    """.env is read as it is written; the environment wins over it."""
    write(root / ".env", "# keys\nA=1\nexport B='2'\nC=x$y${A}\nEMPTY=\nNOTHING\n")

    project = find_project(root, {"A": "9", "D": "4"})

    assert {"A": "9", "B": "2", "C": "x$y${A}", "D": "4", "EMPTY": ""} == project.env
    assert "x$y" not in repr(project)


def test_env_not_text(root: Path) -> None:
    """A .env in another encoding is an error that names it."""
    (root / ".env").write_bytes(b"A=\xff")

    with pytest.raises(ConfigError) as caught:
        find_project(root, {})

    assert ".env: is not UTF-8 text" == str(caught.value)


def test_bad_settings(root: Path) -> None:
    """A mistake in retl.yml is found with the project."""
    write(root / "retl.yml", "timezone: UTC\ntimezome: UTC")

    with pytest.raises(ConfigError) as caught:
        find_project(root, {})

    assert "retl.yml:2 timezome: unknown key `timezome`; did you mean `timezone`?" == str(caught.value)


@pytest.mark.parametrize(
    ("env", "override", "expected"),
    [
        ({}, None, "shop/state"),
        ({"RETL_STATE_DIR": ""}, None, "shop/state"),
        ({"RETL_STATE_DIR": "var/state"}, None, "shop/var/state"),
        ({"RETL_STATE_DIR": "/var/state"}, None, "/var/state"),
        ({"RETL_STATE_DIR": "/var/state"}, "/elsewhere", "/elsewhere"),
    ],
)
def test_state_dir(
    tmp_path: Path, root: Path, env: dict[str, str], override: str | None, expected: str
) -> None:
    """State is in the project, unless the environment or the caller says otherwise."""
    project = find_project(root, env)

    assert tmp_path / expected == project.state_dir(Path(override) if override else None)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["syncs/users.yml"], ["syncs/users.yml"]),
        (["users"], ["syncs/users.yml"]),
        (["vip"], ["syncs/vip.yaml"]),
        (["team/deep"], ["syncs/team/deep.yml"]),
        (["syncs"], ["syncs/a.yml", "syncs/users.yml", "syncs/vip.yaml"]),
        (["syncs/"], ["syncs/a.yml", "syncs/users.yml", "syncs/vip.yaml"]),
        (["."], ["syncs/a.yml", "syncs/users.yml", "syncs/vip.yaml"]),
        (["other"], ["other/x.yml"]),
        (
            ["vip", "syncs", "syncs/../syncs/a.yml"],
            ["syncs/vip.yaml", "syncs/a.yml", "syncs/users.yml"],
        ),
        ([], []),
    ],
)
def test_find_syncs(root: Path, arguments: list[str], found: list[str]) -> None:
    """An argument is a file, a folder or a name; each file is taken once."""
    for name in ("syncs/vip.yaml", "syncs/a.yml", "syncs/team/deep.yml", "top.yml", "other/x.yml"):
        write(root / name, "x: y")
    for name in ("syncs/notes.txt", "syncs/.hidden.yml", "retl.yml"):
        write(root / name, "")

    assert [root / name for name in found] == find_syncs(arguments, root)


@pytest.mark.parametrize("argument", ["users", "syncs/users.yml", "syncs", ".."])
@pytest.mark.parametrize("folder", ["models", "models/users"])
def test_find_from_below(root: Path, folder: str, argument: str) -> None:
    """In a subfolder of a project its syncs are found by name, and by their paths from the project folder."""
    (root / "models/users").mkdir()
    here = root / folder
    argument = argument if argument != ".." else os.path.relpath(root, here)

    assert [root / "syncs/users.yml"] == find_syncs([argument], here)


def test_find_by_the_name_that_a_file_gives_itself(root: Path) -> None:
    """Messages and state speak of a sync by its `name`, so that it is found by that as well."""
    write(root / "syncs/a.yml", "model: x\nname: 'people'  # once users\n")
    write(root / "syncs/b.yml", "name: a\n")

    assert [root / "syncs/a.yml"] == find_syncs(["people"], root)
    assert [root / "syncs/a.yml"] == find_syncs(["a"], root)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("user", "there is no sync `user`; did you mean `users`?"),
        ("xyz", "there is no sync `xyz`; known here: `users`"),
        ("syncs/user.yml", "there is no file syncs/user.yml; did you mean `users.yml`?"),
        ("gone/x.yml", "there is no file gone/x.yml"),
        ("models", "there are no sync files in models"),
    ],
)
def test_no_sync(root: Path, argument: str, message: str) -> None:
    """What means no sync file is an error with the nearest name."""
    with pytest.raises(ConfigError) as caught:
        find_syncs(["users", argument], root)

    assert message == str(caught.value)


def test_no_syncs_at_all(tmp_path: Path) -> None:
    """A name outside of any project is an error as well."""
    with pytest.raises(ConfigError) as caught:
        find_syncs(["users"], tmp_path)

    assert "there is no sync `users`" == str(caught.value)


@pytest.mark.parametrize("command", [["status"], ["check"], ["run", "--all"], ["report"]])
def test_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Commands on all syncs say outside of any project that there is none, and leave no file."""
    monkeypatch.chdir(tmp_path)
    code, out, err = runner(capsys)(*command)

    assert (2, "", []) == (code, out, list(tmp_path.iterdir()))
    assert [
        "error: there is no retl project here or above",
        "  → cd into one, or make one: retl init shop",
    ] == err.splitlines()


def test_a_project_without_a_folder_of_syncs(tmp_path: Path) -> None:
    """A project that has no syncs/ is not taken for none."""
    write(tmp_path / "retl.yml", "")
    with pytest.raises(ConfigError) as caught:
        every_sync(tmp_path)

    assert f"there is no folder syncs/ in {tmp_path}" == str(caught.value)


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_model(root: Path, start: str) -> None:
    """A model is its file's text, as it stands; what it means is for the warehouse to say."""
    text = "\n-- a\nselect ';' -- it's\n; -- done; really\n/* yes */"
    write(root / "models/users.sql", start + text)

    assert Model("users", text, "models/users.sql") == load_model(*load(root / "syncs/users.yml"))


def test_model_in_a_folder(root: Path) -> None:
    """A model may be in a folder below models/."""
    write(root / "models/team/vip.sql", "select 2")
    path = write(root / "syncs/vip.yml", SYNC.format(model="team/vip"))

    assert Model("team/vip", "select 2", "models/team/vip.sql") == load_model(*load(path))


@pytest.mark.parametrize(
    ("written", "sql", "where", "line"),
    [
        ("sql: select 1", "select 1", "syncs/x.yml:3", 3),
        ("sql: |\n  select 1\n  from a;\n", "select 1\nfrom a;\n", "syncs/x.yml:4", 4),
        ("sql: |\n  -- ${SCHEMA}\n  select 1\n", "-- shop\nselect 1\n", "syncs/x.yml:4", 4),
    ],
)
def test_inline_model(tmp_path: Path, written: str, sql: str, where: str, line: int) -> None:
    """SQL in a sync needs no models/, and knows the line on which it starts."""
    path = write(tmp_path / "syncs/x.yml", f"primary_key: id\nidentify: {{user_id: id}}\n{written}")

    assert Model("x", sql, where, line) == load_model(*load(path, {"SCHEMA": "shop"}))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("user", "there is no models/user.sql; did you mean `users`?"),
        ("users.sql", "there is no models/users.sql.sql; did you mean `users`?"),
        ("xyz", "there is no models/xyz.sql; known here: `a/b`, `users`"),
    ],
)
def test_missing_model(root: Path, model: str, message: str) -> None:
    """A model without a file is an error at the line that names it."""
    write(root / "models/a/b.sql", "select 1")
    path = write(root / "syncs/x.yml", SYNC.format(model=model))

    with pytest.raises(ConfigError) as caught:
        load_model(*load(path))

    assert f"syncs/x.yml:1 model: {message}" == str(caught.value)


def test_no_models_folder(tmp_path: Path) -> None:
    """A sync that names a model needs a models/ above it."""
    path = write(tmp_path / "syncs/x.yml", SYNC.format(model="users"))

    with pytest.raises(ConfigError) as caught:
        load_model(*load(path))

    assert f"syncs/x.yml:1 model: there is no folder models/ in {tmp_path}" == str(caught.value)
    assert "create models/users.sql, or write the query here as `sql`" == caught.value.hint


@pytest.mark.parametrize("text", ["", " \n", ";", "-- later\n", "/* select\n1 */ ;"])
def test_empty_model(root: Path, text: str) -> None:
    """A model without SQL is an error."""
    write(root / "models/users.sql", text)

    with pytest.raises(ModelError) as caught:
        load_model(*load(root / "syncs/users.yml"))

    assert "models/users.sql: there is no SQL here" == str(caught.value)


@pytest.mark.parametrize(
    ("text", "jinja"),
    [
        ("select * from {{ ref('users') }}", ":1: here is Jinja, `{{ ref('users') }}`"),
        ("select 1\n{% if x %}\n, 2 {% endif %}", ":2: here is Jinja, `{% if x %}`"),
        (
            "select '{{a}}' as \"{{b}}\", 'it\\'s {{c}}', $$ {{d}} $$, $x$ {{e}} $x$ -- {{f}}\n/* {% g %} */",
            None,
        ),
        ("select {'a': {'b': 1}} as c", None),
    ],
)
def test_jinja_is_named(root: Path, text: str, jinja: str | None) -> None:
    """A template of SQL, such as a model of dbt, is named with its line; texts and comments hold anything."""
    write(root / "models/users.sql", text)
    sync, project = load(root / "syncs/users.yml")

    if jinja is None:
        assert text == load_model(sync, project).sql
    else:
        with pytest.raises(ModelError) as caught:
            load_model(sync, project)
        assert str(caught.value).startswith(f"models/users.sql{jinja}; retl reads SQL as it is")
        assert "target/compiled" in str(caught.value.hint)


def test_model_not_text(root: Path) -> None:
    """A model in another encoding is an error that names it."""
    (root / "models/users.sql").write_bytes(b"select '\xff'")

    with pytest.raises(ModelError) as caught:
        load_model(*load(root / "syncs/users.yml"))

    assert "models/users.sql: is not UTF-8 text" == str(caught.value)


def test_no_secret_is_needed(root: Path) -> None:
    """A sync is read without its write key and without its warehouse's URL."""
    write(root / "retl.yml", "warehouse: ${NO_SUCH}\nsegment: {write_key: '${NO_SUCH_EITHER}'}")

    assert "users" == load(root / "syncs/users.yml")[0].name


@pytest.mark.parametrize(
    ("lines", "env", "value"),
    [
        ("", {"SEGMENT_WRITE_KEY": "secret"}, "secret"),
        ("", {"SEGMENT_WRITE_KEY": " secret\n"}, "secret"),
        ("segment: {write_key: '${OTHER}'}", {"OTHER": "secret"}, "secret"),
        ("segment: {write_key: '${OTHER:-none}'}", {}, "none"),
        ("segment: {region: eu}", {"SHOP_KEY": "shop", "SEGMENT_WRITE_KEY": "secret"}, "secret"),
    ],
)
def test_write_key(root: Path, lines: str, env: dict[str, str], value: str) -> None:
    """The write key comes from the variable that the sync names."""
    path = write(root / "syncs/x.yml", SYNC.format(model="users") + lines)

    assert value == write_key(*load(path, env))


def test_write_key_of_the_project(root: Path) -> None:
    """The write key may be named in retl.yml, for all syncs, while they say other things of Segment."""
    write(root / "retl.yml", "segment: {write_key: '${SHOP_KEY}'}")
    path = write(root / "syncs/x.yml", SYNC.format(model="users") + "segment: {region: eu}")

    assert "secret" == write_key(*load(path, {"SHOP_KEY": "secret"}))


@pytest.mark.parametrize(
    ("lines", "env", "message"),
    [
        ("", {}, "syncs/x.yml segment.write_key: SEGMENT_WRITE_KEY is not set"),
        ("", {"SEGMENT_WRITE_KEY": ""}, "syncs/x.yml segment.write_key: the write key is empty"),
        (
            "segment:\n  write_key: ${OTHER}",
            {},
            "syncs/x.yml:5 segment.write_key: OTHER is not set",
        ),
    ],
)
def test_no_write_key(root: Path, lines: str, env: dict[str, str], message: str) -> None:
    """A write key that is not set is an error when it is needed, which names the variable."""
    path = write(root / "syncs/x.yml", SYNC.format(model="users") + lines)

    with pytest.raises(ConfigError) as caught:
        write_key(*load(path, env))

    assert message == str(caught.value)
    assert "set it in the environment or in .env" == caught.value.hint


@pytest.mark.parametrize(
    ("lines", "env", "url"),
    [
        ("", {"RETL_WAREHOUSE_URL": "duckdb:///a.db"}, "duckdb:///a.db"),
        ("warehouse: postgresql://${USER}@db/shop", {"USER": "me"}, "postgresql://me@db/shop"),
    ],
)
def test_warehouse_url(root: Path, lines: str, env: dict[str, str], url: str) -> None:
    """The warehouse is the one that the sync names, else that of the environment."""
    path = write(root / "syncs/x.yml", SYNC.format(model="users") + lines)

    assert url == warehouse_url(*load(path, env))


@pytest.mark.parametrize(
    ("settings", "env", "message"),
    [
        ("", {}, "syncs/users.yml warehouse: RETL_WAREHOUSE_URL is not set"),
        ("", {"RETL_WAREHOUSE_URL": ""}, "syncs/users.yml warehouse: the warehouse's URL is empty"),
        ("timezone: UTC\nwarehouse: ${DB}", {}, "retl.yml:2 warehouse: DB is not set"),
    ],
)
def test_no_warehouse(root: Path, settings: str, env: dict[str, str], message: str) -> None:
    """A warehouse that is not set is an error when it is needed, at the line that names it."""
    if settings:
        write(root / "retl.yml", settings)

    with pytest.raises(ConfigError) as caught:
        warehouse_url(*load(root / "syncs/users.yml", env))

    assert message == str(caught.value)


@pytest.mark.rule("E9")
def test_one_name_twice(root: Path) -> None:
    """Two syncs of one name would share their state, and are refused."""
    first = load(root / "syncs/users.yml")[0]
    second = load(write(root / "syncs/more.yml", SYNC.format(model="users") + "name: users"))[0]
    third = load(write(root / "syncs/other.yml", SYNC.format(model="users")))[0]

    check_names([first, third])
    with pytest.raises(ConfigError) as caught:
        check_names([first, third, second])

    assert "syncs/more.yml:4 name: the name `users` is that of syncs/users.yml too" == str(caught.value)
