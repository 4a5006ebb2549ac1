"""BigQuery as a hosted service. Nobody has tried it against a live account."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from adbc_driver_manager import Error
from sqlalchemy.engine import URL

from retl.address import shown
from retl.errors import ConfigError
from retl.lazy import lazy_module
from retl.warehouse.hosted import Service
from retl.warehouse.query import Grammar

if TYPE_CHECKING:
    import adbc_driver_bigquery
else:
    adbc_driver_bigquery = lazy_module("adbc_driver_bigquery", "bigquery")

_OPTION = "adbc.bigquery.sql."

_SETTINGS = ("credentials_path", "location")


def options(url: URL) -> dict[str, str]:
    """The driver's options for `bigquery://project/dataset?credentials_path=…&location=…`.

    Without `credentials_path` Google's default credentials of the machine are taken. A setting that begins
    with `adbc.` is passed on as it is.

    Raises:
        ConfigError: there is no project, or a setting that is not known.
    """
    if not url.host:
        raise ConfigError(
            "the warehouse's URL names no project",
            where=shown(url),
            hint="Write bigquery://project/dataset?credentials_path=/path/to/key.json.",
        )
    found = {f"{_OPTION}project_id": url.host, f"{_OPTION}dataset_id": url.database or ""}
    for name, value in url.query.items():
        text = str(value)
        if name.startswith("adbc."):
            found[name] = text
        elif name == "location":
            found[f"{_OPTION}location"] = text
        elif name == "credentials_path":
            found[f"{_OPTION}auth_type"] = f"{_OPTION}auth_type.json_credential_file"
            found[f"{_OPTION}auth_credentials"] = text
        else:
            raise ConfigError(
                f"the warehouse's URL has a setting `{name}` that is not known here",
                where=shown(url),
                hint=f"Known are {', '.join(_SETTINGS)}, and the ADBC driver's own options by their names.",
            )
    return {name: value for name, value in found.items() if value}


def _connect(found: Mapping[str, str]) -> Any:
    return adbc_driver_bigquery.connect(dict(found))


def _quoted(name: str) -> str:
    return f"`{name}`"


def _type_name(field: pa.Field) -> str:
    """BigQuery's name for a type that Arrow does not have."""
    noted = field.metadata or {}
    name: bytes = noted.get(b"Type", noted.get(b"ARROW:extension:name", b""))
    return name.decode().removeprefix("google:sqlType:").upper()


_REASON = re.compile(r', (?P<answer>\w+)$|Reason: "?(?P<job>\w+)')
"""The reason at the end of an answer, or in what is said of a job, or of several errors."""

_AROUND = re.compile(r"^\w+: \[\w+\] (googleapi: Error \d+: )?|, \w+$")
"""Words that the driver and its library put around BigQuery's sentence."""


def reason(error: Error) -> str:
    """BigQuery's reason for an error, which its driver has in the text alone; empty where there is none."""
    found = _REASON.search(str(error))
    return (found["answer"] or found["job"]) if found else ""


def said(error: Error) -> str:
    """BigQuery's own sentence about an error."""
    return _AROUND.sub("", str(error)) if reason(error) else str(error)


def _is_models(error: Error) -> bool:
    return reason(error) in ("invalid", "invalidQuery", "notFound")


_DESCRIBED = (
    "SELECT * EXCEPT (retl_one) FROM (SELECT 1 AS retl_one) AS one"
    " LEFT JOIN (SELECT *, 1 AS retl_one FROM {} WHERE FALSE) AS model USING (retl_one)"
)
"""A row of NULLs, as the driver says nothing of the columns of a result without rows; no table is scanned."""

SERVICE = Service(
    options=options,
    connect=_connect,
    quoted=_quoted,
    # What other databases are asked there may write.
    grammar=Grammar("bigquery", writing_functions=re.compile("external_query", re.IGNORECASE)),
    type_name=_type_name,
    json_types=frozenset({"JSON"}),
    counts_rows=True,
    described=_DESCRIBED,
    is_models=_is_models,
    said=said,
)
