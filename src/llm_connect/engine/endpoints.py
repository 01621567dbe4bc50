"""Endpoints: the address to which requests go, and if it is the provider's own, in any spelling."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

_PORTS = {"https": 443, "http": 80}


def base_url_from(base_url: str | None, *variables: str) -> str | None:
    """The given address, else the first environment variable that is set. Blank counts as not set."""
    for candidate in (base_url, *map(os.environ.get, variables)):
        if candidate is not None and candidate.strip():
            return candidate.strip()
    return None


def same_endpoint(address: str, own: str) -> bool:
    """True if both lead to the same place, regardless of case, default port, and a final dot or slashes."""
    place = _place(address)
    return place is not None and place == _place(own)


def host_of(address: str) -> str:
    """The host name as it is looked up; empty unless this is an https address at the usual port."""
    place = _place(address)
    return place[1] if place is not None and place[0] == "https" and place[2] == _PORTS["https"] else ""


def _place(address: str) -> tuple[str, str, int, str] | None:
    try:
        parts = urlsplit(address.strip())
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        return None
    path = "/".join(filter(None, parts.path.split("/")))
    return parts.scheme, parts.hostname.rstrip("."), port or _PORTS[parts.scheme], path
