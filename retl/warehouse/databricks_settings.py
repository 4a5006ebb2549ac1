"""A URL of Databricks' as the settings of its connector."""

from collections.abc import Callable, Mapping
from typing import Any

from retl.address import Address, shown
from retl.errors import ConfigError
from retl.version import __version__
from retl.warehouse.databricks_oauth import ServicePrincipal

PORT = 443

TOKEN_USER = "token"
"""The user of a URL whose password is an access token; any other is a service principal."""

_EXAMPLE = "databricks://token:${DATABRICKS_TOKEN}@host?http_path=/sql/1.0/warehouses/…"


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_SETTINGS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "http_path": ("http_path", str),
    "catalog": ("catalog", str),
    "schema": ("schema", str),
    "use_cloud_fetch": ("use_cloud_fetch", _truth),
    "tls_trusted_ca_file": ("_tls_trusted_ca_file", str),
    "socket_timeout": ("_socket_timeout", float),
    "retry_seconds": ("_retry_stop_after_attempts_duration", float),
}
"""The connector's names for settings of a URL, and what their values are made of."""

_ALWAYS = {
    "user_agent_entry": f"retl/{__version__}",
    "enable_telemetry": False,
    "max_download_threads": 4,  # each has a file of the result in memory, of some 20 MB
}


def settings(address: Address) -> dict[str, Any]:
    """The connector's settings for `databricks://token:…@host?http_path=…&catalog=…&schema=…`.

    Raises:
        ConfigError: something is missing in the URL, or has a name or a value that is not known.
    """
    given = {name: str(value) for name, value in address.query.items()}
    if not address.host:
        raise _unusable(address, "it names no host")
    if not given.get("http_path"):
        raise _unusable(address, "it has no `http_path`, which the SQL warehouse's connection details show")
    if not address.username or not address.password:
        raise _unusable(address, "it has no access token")
    found: dict[str, Any] = {"server_hostname": address.host, "_port": address.port or PORT, **_ALWAYS}
    for name, value in given.items():
        if name not in _SETTINGS:
            known = ", ".join(_SETTINGS)
            raise _unusable(
                address, f"it has a setting `{name}` that is not known here", f"Known are {known}."
            )
        theirs, made = _SETTINGS[name]
        try:
            found[theirs] = made(value)
        except (KeyError, ValueError):
            raise _unusable(address, f"`{name}` has a value that it cannot have") from None
    if address.username == TOKEN_USER:
        return {**found, "access_token": address.password}
    principal = ServicePrincipal(
        f"https://{address.host}:{address.port or PORT}",
        address.username,
        address.password,
        found.get("_tls_trusted_ca_file"),
    )
    return {**found, "credentials_provider": lambda: principal.headers}


def _unusable(address: Address, what: str, hint: str = f"Write {_EXAMPLE}.") -> ConfigError:
    return ConfigError(f"the warehouse's URL cannot be used: {what}", where=shown(address), hint=hint)
