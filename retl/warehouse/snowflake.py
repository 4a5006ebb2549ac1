"""Snowflake as a hosted service. Nobody has tried it against a live account."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from sqlalchemy.engine import URL

from retl.address import shown
from retl.errors import ConfigError
from retl.lazy import lazy_module
from retl.warehouse.hosted import Service
from retl.warehouse.query import Grammar

if TYPE_CHECKING:
    import adbc_driver_snowflake
else:
    adbc_driver_snowflake = lazy_module("adbc_driver_snowflake", "snowflake")

_OPTION = "adbc.snowflake.sql."

_SETTINGS = {
    "warehouse": "warehouse",
    "role": "role",
    "region": "region",
    "authenticator": "auth_type",
    "token": "client_option.auth_token",
    "private_key_file": "client_option.jwt_private_key",
    "application": "client_option.app_name",
    "login_timeout": "client_option.login_timeout",
    "request_timeout": "client_option.request_timeout",
}
"""The driver's names for settings that a URL for Snowflake's own connector has."""

_AUTHENTICATORS = {
    "snowflake": "auth_snowflake",
    "oauth": "auth_oauth",
    "externalbrowser": "auth_ext_browser",
    "snowflake_jwt": "auth_jwt",
    "username_password_mfa": "auth_mfa",
    "programmatic_access_token": "auth_pat",
}

_EXACT = {
    f"{_OPTION}client_option.use_high_precision": "true",
    # Nanoseconds since 1970, the driver's default, end in the year 2262.
    f"{_OPTION}client_option.max_timestamp_precision": "microseconds",
}


def options(url: URL) -> dict[str, str]:
    """The driver's options for `snowflake://user:password@account/database/schema?warehouse=…&role=…`.

    A setting that begins with `adbc.` is passed on as it is.

    Raises:
        ConfigError: there is no account, or a setting that is not known.
    """
    if not url.host:
        raise ConfigError(
            "the warehouse's URL names no account",
            where=shown(url),
            hint="Write snowflake://user:password@organization-account/database/schema?warehouse=…&role=….",
        )
    account, _, region = url.host.removesuffix(".snowflakecomputing.com").partition(".")
    database, _, schema = (url.database or "").partition("/")
    found = {
        **_EXACT,
        "username": url.username or "",
        "password": str(url.password or ""),
        f"{_OPTION}account": account,
        f"{_OPTION}region": region,
        f"{_OPTION}db": database,
        f"{_OPTION}schema": schema,
        f"{_OPTION}client_option.app_name": "retl",
    }
    for name, value in url.query.items():
        text = str(value)
        if name.startswith("adbc."):
            found[name] = text
        elif name in _SETTINGS:
            is_way = name == "authenticator"
            found[_OPTION + _SETTINGS[name]] = _AUTHENTICATORS.get(text.lower(), text) if is_way else text
        else:
            raise ConfigError(
                f"the warehouse's URL has a setting `{name}` that is not known here",
                where=shown(url),
                hint=f"Known are {', '.join(_SETTINGS)}, and the ADBC driver's own options by their names.",
            )
    if "private_key_file" in url.query:
        found.setdefault(f"{_OPTION}auth_type", "auth_jwt")
    return {name: value for name, value in found.items() if value}


def _connect(found: Mapping[str, str]) -> Any:
    return adbc_driver_snowflake.connect(db_kwargs=dict(found))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _type_name(field: pa.Field) -> str:
    """Snowflake's name for a type, which is noted in one place or the other."""
    noted = field.metadata or {}
    name: bytes = noted.get(b"logicalType", noted.get(b"SNOWFLAKE_TYPE", b""))
    return name.decode().upper()


SERVICE = Service(
    options=options,
    connect=_connect,
    quoted=_quoted,
    # SYSTEM$… functions cancel queries, abort transactions, and more.
    grammar=Grammar("snowflake", writing_functions=re.compile(r"nextval|system\$\w*", re.IGNORECASE)),
    type_name=_type_name,
    json_types=frozenset({"VARIANT", "OBJECT", "ARRAY", "MAP", "GEOGRAPHY", "GEOMETRY"}),
    cuts_leading_comments=True,
)
