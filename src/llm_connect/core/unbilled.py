"""Exceptions that say that a request was not billed, of any SDK: it was refused, or it was never sent.

They are told by their shape, because the core imports no SDK: openai, anthropic and google-genai carry the reply of
httpx, as do httpx itself and requests; aiohttp and urllib carry its status.
"""

from __future__ import annotations

from typing import Any

from llm_connect.core.exceptions import LLMError

#: Raised by httpx, by what is built like it, and by aiohttp before the first byte of a request is written.
_BEFORE_SENDING = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ClientConnectorError"}
)
_CARRIERS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp"})
#: By which openai and anthropic say in each request how often they have sent it before.
_RETRIES = "x-stainless-retry-count"


def not_billed(error: BaseException | None) -> bool:
    """Whether `error` proves that the one request of a hold costs nothing: a reply of 3xx or 4xx, or no connection.

    An SDK that has tried more than once says nothing of the tries before the last one.
    """
    if error is None:
        return False
    if isinstance(error, LLMError):
        return not error.maybe_billed and error.response is None
    if _sent_before(error):
        return False
    return 300 <= _status(error) < 500 or _never_sent(error)


def _status(error: BaseException) -> int:
    """The status of the reply that `error` is about; 0 where it carries none."""
    reply = getattr(error, "response", None)
    if reply is None and hasattr(error, "headers"):
        reply = error
    for name in ("status_code", "status", "code"):
        status = getattr(reply, name, None)
        if type(status) is int:
            return status
    return 0


def _never_sent(error: BaseException) -> bool:
    """Whether no connection was made; SDKs raise an error of their own from that of their HTTP client."""
    if isinstance(error, ConnectionRefusedError):
        return True
    if type(error).__module__.partition(".")[0] in _CARRIERS:
        return any(kind.__name__ in _BEFORE_SENDING for kind in type(error).__mro__)
    cause = error.__cause__
    return cause is not None and hasattr(error, "request") and _retries(error) == "0" and _never_sent(cause)


def _sent_before(error: BaseException) -> bool:
    return _retries(error) not in (None, "0")


def _retries(error: Any) -> str | None:
    for holder in (getattr(error, "response", None), error):
        headers = getattr(_attribute(holder, "request"), "headers", None)
        if headers is not None:
            told = headers.get(_RETRIES)
            return told if isinstance(told, str) else None
    return None


def _attribute(holder: Any, name: str) -> Any:
    """httpx raises where an error or a reply has no request."""
    try:
        return getattr(holder, name, None)
    except RuntimeError:
        return None
