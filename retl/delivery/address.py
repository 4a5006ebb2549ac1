"""The address of a destination as people and states may see it: no secret can be read from it."""

import hashlib
import socket
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from retl.address import shown


def shown_address(endpoint: str, write_key: str) -> str:
    """An endpoint and a fingerprint of the write key: `https://api.segment.io, write key #1a2b3c4d`.

    The endpoint is shown without what may be secret in it: see `retl.address.shown`.
    """
    fingerprint = hashlib.sha256(f"fingerprint\n{write_key}".encode()).hexdigest()[:8]
    return f"{shown(endpoint)}, write key #{fingerprint}"


def is_local(address: str) -> bool:
    """Whether an endpoint, or an address as it is shown, is that of this very machine."""
    with suppress(ValueError):
        host = (urlsplit(address.partition(", ")[0]).hostname or "").rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        with suppress(OSError):
            host = socket.inet_ntoa(socket.inet_aton(host))  # short spellings such as 127.1
        number = ip_address(host)
        number = getattr(number, "ipv4_mapped", None) or number
        return number.is_loopback or number.is_unspecified
    return False
