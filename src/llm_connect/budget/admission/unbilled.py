"""Exceptions that prove that the request of a hold is not billed: a provider refused it, or it was never sent.

Anything may fail in the block of a hold after the provider has answered: saving the answer, a tool, another budget. The
exceptions of such code are about other requests, whatever their status, and so is every `LLMError`, because adapters
have their own holds. So only two kinds of exception count as proof: those of a provider's SDK, and those of an HTTP
client that the SDK has called. Their modules' names identify them, because the core imports no SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from traceback import walk_tb
from types import FrameType
from typing import Any

_SDKS = ("openai.", "anthropic.", "google.genai.")
_CLIENTS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp"})
#: Exceptions that these clients raise before they write the first byte of a request.
_BEFORE_SENDING = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ClientConnectorError"}
)
#: The header by which openai and anthropic state in each request how often they have sent it before.
_RETRIES = "x-stainless-retry-count"


def not_billed(error: BaseException | None) -> bool:
    """True if `error` proves that the one request of a hold costs nothing: a reply of 3xx or 4xx, or no connection.

    If an SDK has tried more than once, its error is no proof, because it only describes the last try.
    """
    if error is None or _tried_before(error):
        return False
    if _is_sdk(type(error).__module__):
        return _refused(error) or (_retries(error) == "0" and _never_sent(error.__cause__))
    return _never_sent(error) and _is_sdk(_caller_of_client(error))


def _is_sdk(module: str) -> bool:
    return f"{module}.".startswith(_SDKS)


def _refused(error: BaseException) -> bool:
    """True if the SDK's exception carries a reply of 3xx or 4xx."""
    reply = getattr(error, "response", None)
    status = getattr(reply, "status_code", getattr(reply, "status", None))
    return type(status) is int and 300 <= status < 500


def _never_sent(error: BaseException | None) -> bool:
    """True if `error` shows that an HTTP client made no connection."""
    return _is_of_client(error) and any(kind.__name__ in _BEFORE_SENDING for kind in type(error).__mro__)


def _is_of_client(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] in _CLIENTS


def _caller_of_client(error: BaseException) -> str:
    """The module that called the HTTP client that raised `error`."""
    modules = (module for module, _ in _frames(error))
    return ["", *takewhile(lambda module: module.partition(".")[0] not in _CLIENTS, modules)][-1]


def _tried_before(error: BaseException) -> bool:
    """True if the request may have been sent before: the SDK or its tenacity has counted a try, or caught an error.

    google-genai retries inside the handler for the exception of its HTTP client.
    """
    if _retries(error) not in (None, "0"):
        return True
    tries = (frame.f_locals.get("retry_state") for module, frame in _frames(error) if module.startswith("tenacity"))
    if any(getattr(state, "attempt_number", 1) > 1 for state in tries):
        return True
    return any(_is_of_client(caught) and not _never_sent(caught) and not _refused(caught) for caught in _caught(error))


def _caught(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that an SDK was handling when it raised `error`."""
    caught = error.__context__
    while caught is not None:
        if _is_sdk(next((module for module, _ in _frames(caught)), "")):
            yield caught
        caught = caught.__context__


def _frames(error: BaseException) -> Iterator[tuple[str, FrameType]]:
    """The frames of the traceback of `error`, outermost first, each with the name of its module."""
    for frame, _ in walk_tb(error.__traceback__):
        yield str(frame.f_globals.get("__name__")), frame


def _retries(error: Any) -> str | None:
    for holder in (getattr(error, "response", None), error):
        headers = getattr(_attribute(holder, "request"), "headers", None)
        if headers is not None:
            count = headers.get(_RETRIES)
            return count if isinstance(count, str) else None
    return None


def _attribute(holder: Any, name: str) -> Any:
    """An attribute, or None; httpx raises RuntimeError if an error or a reply has no request."""
    try:
        return getattr(holder, name, None)
    except RuntimeError:
        return None
