"""Databricks without a server: its URL, its SQL, and the names of its types."""

import sys
from pathlib import Path
from typing import Any

import pytest
from warehouses import model

from retl.address import read_address
from retl.errors import ConfigError, ModelError, RetlError
from retl.warehouse import open_warehouse, open_workspace
from retl.warehouse.databricks_settings import settings
from retl.warehouse.query import one_query
from retl.warehouse.spark_grammar import DATABRICKS
from retl.warehouse.spark_message import condition_in, state_in
from retl.warehouse.spark_types import is_spelled, stored

HERE = "databricks://token:dapi%2Fhush@adb-1.2.azuredatabricks.net?http_path=/sql/1.0/warehouses/ab"


@pytest.mark.parametrize(
    ("more", "given"),
    [
        ("", {}),
        ("&catalog=main&schema=crm", {"catalog": "main", "schema": "crm"}),
        ("&use_cloud_fetch=false", {"use_cloud_fetch": False}),
        ("&tls_trusted_ca_file=/ca.pem", {"_tls_trusted_ca_file": "/ca.pem"}),
        ("&socket_timeout=60", {"_socket_timeout": 60.0}),
        ("&retry_seconds=30", {"_retry_stop_after_attempts_duration": 30.0}),
    ],
)
def test_settings_of_databricks(more: str, given: dict[str, Any]) -> None:
    """What a URL says is what the connector is given; it reports to nobody how it is used."""
    found = settings(read_address(HERE + more))
    always = {
        "user_agent_entry": found["user_agent_entry"],
        "enable_telemetry": False,
        "max_download_threads": 4,
    }
    assert found == {
        "server_hostname": "adb-1.2.azuredatabricks.net",
        "_port": 443,
        "http_path": "/sql/1.0/warehouses/ab",
        "access_token": "dapi/hush",
        **always,
        **given,
    }


def test_a_service_principal_has_no_access_token() -> None:
    """Any user but `token` is a service principal, which gets its token by OAuth."""
    found = settings(read_address(HERE.replace("token:", "6b2e4f5a:")))
    assert "access_token" not in found
    assert callable(found["credentials_provider"])


@pytest.mark.rule("W9")
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("databricks://token:hush-hush@host", "it has no `http_path`"),
        ("databricks://token:hush-hush@?http_path=/sql", "it names no host"),
        ("databricks://host?http_path=/sql", "it has no access token"),
        ("databricks://token:hush-hush@host?http_path=/sql&catalogue=a", "`catalogue` that is not known"),
        ("databricks://token:hush-hush@host?http_path=/sql&socket_timeout=x", "`socket_timeout` has a value"),
        (
            "databricks://token:hush-hush@host?http_path=/sql&use_cloud_fetch=x",
            "`use_cloud_fetch` has a value",
        ),
    ],
)
def test_a_url_of_databricks_that_cannot_be_used(url: str, message: str) -> None:
    """What is missing or not known is the configuration's fault, and the token is not shown."""
    with pytest.raises(ConfigError, match=message) as error:
        settings(read_address(url))

    assert "hush" not in f"{error.value}{error.value.hint}"


@pytest.mark.parametrize("opened", [open_warehouse, open_workspace])
def test_databricks_without_its_connector_says_how_to_install_it(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is named, and nothing of the URL that may be secret."""
    for name in [one for one in sys.modules if one.startswith("retl.warehouse.databricks")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "databricks.sql", None)
    with pytest.raises(RetlError, match="databricks") as error:
        opened(HERE, Path(), *(["retl"] if opened is open_workspace else []))

    assert "retl[databricks]" in str(error.value.hint)
    assert "hush" not in f"{error.value}{error.value.hint}"


def test_a_model_of_databricks_runs_no_program() -> None:
    """Databricks reads SQL as Spark does, and runs programs by it."""
    with pytest.raises(ModelError, match="a program that USING names"):
        one_query(model("SELECT TRANSFORM (a) USING 'cat' AS (b) FROM t"), DATABRICKS)


@pytest.mark.parametrize(
    ("kind", "spelled"),
    [
        ("decimal(38,18)", True),
        ("string collate UTF8_LCASE", True),
        ("struct<interval:int,variant:array<map<string,timestamp_ntz>>>", True),
        ("struct<a:int,... 15 more fields>", True),
        ("interval day to second", False),
        ("array<struct<a:interval day>>", False),
        ("map<string,variant>", False),
        ("geography(4326)", False),
    ],
)
def test_names_of_types_that_are_spelled(kind: str, spelled: bool) -> None:
    """A type is known by the names in it, and a field's name is not taken for one."""
    assert spelled == is_spelled(kind)


@pytest.mark.parametrize(
    ("kind", "looked_at"),
    [("array<int>", False), ("array<date>", True), ("struct<a:int,... 2 more fields>", True)],
)
def test_what_a_cut_name_may_hide_is_looked_at(kind: str, looked_at: bool) -> None:
    """A value that may hold a date out of range is read, whatever of its type's name is left out."""
    assert looked_at == (stored("a", kind).at_fault == "{} IS NOT NULL")


def test_the_parts_of_a_message() -> None:
    """What is wrong and its SQLSTATE are found in a message, where they are."""
    text = "[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column `a` … [`b`]. SQLSTATE: 42703; line 2 pos 1"
    assert ("UNRESOLVED_COLUMN.WITH_SUGGESTION", "42703") == (condition_in(text), state_in(text))
    assert (None, None) == (condition_in("[12] no SQLSTATE"), state_in("[12] no SQLSTATE"))
