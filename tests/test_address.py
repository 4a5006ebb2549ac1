"""A URL's secrets are shown nowhere, by whatever name it holds them, nor in the words of drivers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from retl.address import read_address, shown, without_secrets


@pytest.mark.rule("W9")
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://bob:hu%2Fsh@db:5432/shop?options=hush", "postgresql://db:5432/shop"),
        ("postgresql://bob:hu/sh?@db/shop#hush", "postgresql://db/shop"),
        ("postgresql://hush@[::1]:5432/shop", "postgresql://[::1]:5432/shop"),
        ("postgresql://db/shop&password=hush", "postgresql://db/shop"),
        ("postgresql://u:hush@/shop?host=/run", "postgresql:///shop"),
        ("bigquery://project/data?credentials_base64=hush", "bigquery://project/data"),
        ("mssql+pyodbc:///?odbc_connect=Driver%3Dx%3BPWD%3Dhush", "mssql+pyodbc:///"),
        ("duckdb:///data/shop.duckdb?motherduck_token=hush", "duckdb:///data/shop.duckdb"),
        ("duckdb://", "duckdb://"),
        (
            "https://hush:hush@api.example.com:8443/v1/batch?key=hush#hush",
            "https://api.example.com:8443/v1/batch",
        ),
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("sc://spark:15002/;user_id=me@example.com;token=hush", "sc://spark:15002"),
        ("sc://[::1]/;token=a@hush:1/hush?hush", "sc://[::1]"),
        ("sc://spark/path;token=hush", "sc://spark/path"),
        ("sc://me:hush@spark", "sc://…"),
        ("postgresql://u:hu/sh@host:hush/db", "postgresql://…"),
        ("hush", "…"),
    ],
)
def test_shown(url: str, expected: str) -> None:
    """Only scheme, host, port and path of a URL are shown."""
    assert expected == shown(url)


@pytest.mark.rule("W9")
@pytest.mark.parametrize(
    "said",
    [
        "cannot connect to postgresql://bob:hu%2Fsh%26%271@db/shop?auth=hush%2B&x=Driver%3Dy%3BPwd%3D%7Bhush2%7D",
        "user=bob password=hu/sh&'1 host=db",
        "user=bob password=hu%2fsh%26%271",
        "{'password': \"hu/sh&'1\"}",
        r"{'password': 'hu/sh&\'1'}",
        "auth = hush+ is wrong",
        "auth=hush%2B",
        "Driver=y;Pwd={hush2};",
        "Login failed: hush2",
        "GET https://files/a.csv?signature=hush failed",
        "proxy http://me:hush@proxy:80 refused",
    ],
)
def test_words_of_drivers(said: str) -> None:
    """The password and the settings of a URL are taken out of a text, in whatever spelling."""
    url = make_url("postgresql://bob:hu%2Fsh%26%271@db/shop?auth=hush%2B&x=Driver%3Dy%3BPwd%3D%7Bhush2%7D")
    found = without_secrets(said, url)

    assert "hu" not in found
    assert found.count("***") + found.count("?…") + found.count("http://proxy") + found.count("db/shop") >= 1


@pytest.mark.rule("W9")
def test_words_of_a_client_of_sparks() -> None:
    """The settings of a URL of Spark Connect are taken out of a text, however they are spelled."""
    url = read_address("sc://spark:15002/;user_id=me@hush.org;token=hu%2Fsh==")
    said = "Parameter 'token=hu%2Fsh%3D%3D' of me@hush.org: Bearer hu/sh=="

    assert {"user_id": "me@hush.org", "token": "hu/sh=="} == url.query
    assert "Parameter 'token=***' of ***: Bearer ***" == without_secrets(said, url)


def test_words_that_are_no_secret() -> None:
    """Where a server is may be said, and a short setting takes nothing out of words that hold it."""
    url = make_url("postgresql://bob:p@/shop?host=/run/pg&port=5432&sslmode=require&n=1")

    said = 'connection to "/run/pg/.s.PGSQL.5432" failed: 1 certificate is required'
    assert said == without_secrets(said, url)


@given(st.text("ab:/?@[]+%2F&=#; é.1", max_size=40))
def test_parts_are_those_of_sqlalchemy(rest: str) -> None:
    """A URL is taken apart and spelled as SQLAlchemy does it, and refused where that refuses it."""
    url = f"duckdb://{rest}"
    try:
        expected = make_url(url)
    except (ArgumentError, ValueError):
        with pytest.raises(ValueError, match=r"not a URL|invalid literal"):
            read_address(url)
        return
    found = read_address(url)

    assert expected.get_backend_name() == found.backend
    for part in ("drivername", "username", "password", "host", "port", "database", "query"):
        assert getattr(expected, part) == getattr(found, part), part
    for hide_password in (True, False):
        assert expected.render_as_string(hide_password) == found.render_as_string(hide_password)
