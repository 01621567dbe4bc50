"""URLs of stores: the file or server that a URL names, and a suggestion for an invalid or ambiguous one."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from llm_connect.errors import LLMConfigurationError

_SQLITE = "sqlite:///"
#: The URL schemes of a Redis server.
SCHEMES = ("redis", "rediss", "unix")
#: The beginning of an invalid URL that means a budget file.
_OTHER_SPELLINGS = re.compile(r"(sqlite[0-9]*|file)(\+\w+)?:(//)?", re.IGNORECASE)
_SCHEME = re.compile(r"^file:(//)?", re.IGNORECASE)
#: The start of options or of a fragment.
_OPTIONS = re.compile(r"[?#]|[;&](?=\w+=)")
_DRIVE = re.compile(r"^/?[a-z]:(?=[/\\])", re.IGNORECASE)
#: The endings of the files that SQLite keeps beside a database.
_BESIDE = re.compile(r"-(wal|shm|journal)$")
_FORMS = "The URL of a store is sqlite:/// and the path of a file, or redis://host:port/db"


def is_server(url: object) -> bool:
    """True if a URL names a server. Raises LLMConfigurationError for characters that a URL cannot contain."""
    if not isinstance(url, str):
        raise LLMConfigurationError(f"{_FORMS}; not of type {type(url).__name__}.")
    clean = "".join(character for character in url if character.isprintable()).strip()
    if clean != url:
        raise LLMConfigurationError(f"{_FORMS}, without white space around it and line breaks in it: {meant(clean)}")
    return url.partition("://")[0] in SCHEMES and _is_address(url)


def _is_address(url: str) -> bool:
    try:
        return bool(urlsplit(url).scheme)
    except ValueError:
        raise LLMConfigurationError(f"{_FORMS}; an IPv6 address stands in brackets: redis://[::1]:6379/0.") from None


def path_of(url: str) -> str:
    """The absolute path of the file that a URL names. Raises LLMConfigurationError for any other URL."""
    path = url.removeprefix(_SQLITE)
    if path == url or path != _plain(path) or not path:
        raise LLMConfigurationError(f"{_FORMS}; not {_begin(url)!r}: {meant(url)}")
    return os.path.abspath(path)


def meant(url: str) -> str:
    """Suggest a valid URL for an invalid one."""
    if any(url.lower().startswith(f"{scheme}:") for scheme in SCHEMES):
        scheme, _, rest = url.partition(":")
        return f"did you mean {scheme.lower()}://{_after_secrets(rest.lstrip('/'))}?"
    other = _OTHER_SPELLINGS.match(url)
    if other is None and "://" in url:
        return "no other store is known."
    path = url[other.end() :] if other else url
    if other and other[3] and other[1].lower() != "file":
        # The slash after the host is not part of the path.
        path = path.removeprefix("/")
    path = _plain(path)
    if not path:
        return "a budget in memory is BudgetTracker(total=...)."
    return f"did you mean {_SQLITE}{path}?"


def _plain(path: str) -> str:
    """Clean up a path that was written for another program; return "" for a budget in memory.

    Removes a scheme, quotes, options, the drive on a system without drives, and the ending of a file that SQLite keeps
    beside a database. Expands escapes, the home directory and environment variables.
    """
    path = unquote(path).strip(" '\"<>")
    path = _OPTIONS.split(_SCHEME.sub("", path), maxsplit=1)[0].strip()
    if path.strip("/").lower() == ":memory:":
        return ""
    if os.sep == "/":
        path = _DRIVE.sub("", path).replace("\\", "/")
    return os.path.expandvars(os.path.expanduser(_BESIDE.sub("", path)))


def _begin(url: str) -> str:
    """A URL without its credentials."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{_after_secrets(rest)}" if mark else url


def _after_secrets(rest: str) -> str:
    return rest.rpartition("@")[2]
