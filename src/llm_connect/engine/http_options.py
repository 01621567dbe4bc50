"""The connection options and reply limits of HTTP adapters. Imports no HTTP library."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from llm_connect import _forks
from llm_connect._validation import check_count
from llm_connect.errors import LLMConfigurationError

if TYPE_CHECKING:
    import httpx2

Verify: TypeAlias = bool | str | os.PathLike[str] | ssl.SSLContext

#: The most of an error that is read.
MOST_ERROR_BYTES = 1 << 20
#: The events of a stream may be this many times larger than one reply: each text has hundreds of bytes around it.
STREAM_FACTOR = 4
DEFAULT_REPLY_BYTES = 16 << 20
DEFAULT_STRUCTURE = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """The options for the clients of an adapter.

    max_reply_bytes, max_reply_structure: the limits of a reply, checked while it arrives: bytes after decoding, and
        brackets and commas.
    """

    verify: Verify = True
    proxy: str | None = None
    http_client: httpx2.Client | None = None
    async_http_client: httpx2.AsyncClient | None = None
    max_reply_bytes: int = DEFAULT_REPLY_BYTES
    max_reply_structure: int = DEFAULT_STRUCTURE
    #: No content of so few bytes can be over any limit.
    short: int = field(init=False, compare=False)
    #: The process in which the adapter got its own clients.
    made_in: int = field(default_factory=lambda: _forks.generation, compare=False, repr=False)

    def __post_init__(self) -> None:
        own = self.http_client is not None or self.async_http_client is not None
        if own and (self.verify is not True or self.proxy is not None):
            raise LLMConfigurationError("Set verify= and proxy= on your own HTTP client, not on the adapter.")
        _check_verify(self.verify)
        _check_proxy(self.proxy)
        check_count("max_reply_bytes", self.max_reply_bytes, least=1)
        check_count("max_reply_structure", self.max_reply_structure, least=1)
        object.__setattr__(self, "short", min(self.max_reply_bytes, self.max_reply_structure // 2, MOST_ERROR_BYTES))

    @property
    def connects_otherwise(self) -> bool:
        """True if any option other than the limits differs from its default."""
        return self != HttpOptions(max_reply_bytes=self.max_reply_bytes, max_reply_structure=self.max_reply_structure)


def _check_verify(verify: object) -> None:
    if isinstance(verify, str | os.PathLike):
        if not os.path.exists(verify):
            raise LLMConfigurationError("verify= does not name a file or directory of certificates.")
    elif not isinstance(verify, bool | ssl.SSLContext):
        raise LLMConfigurationError("verify= must be True, False, a path of certificates or an ssl.SSLContext.")


def _check_proxy(proxy: object) -> None:
    if proxy is None:
        return
    # The address may hold a password, so it is not shown.
    if not isinstance(proxy, str) or urlsplit(proxy).scheme not in ("http", "https", "socks5", "socks5h"):
        raise LLMConfigurationError("proxy= must be an address such as http://proxy.example:3128.")


DEFAULT_OPTIONS = HttpOptions()
