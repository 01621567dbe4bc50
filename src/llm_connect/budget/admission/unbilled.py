"""Exceptions that prove that the request of a hold is not billed: a provider has refused it, or it was never sent.

Anything may fail in the block of a hold after the provider has answered: saving the answer, a tool, another budget. An
exception of those is of another request, whatever its status is, and so is every `LLMError`, because the adapters have
holds of their own. So only what the SDK of a provider raises is believed, and what an HTTP client raises right under
it. All are told by the names of their modules, because the core imports no SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from traceback import walk_tb
from types import FrameType
from typing import Any

_SDKS = ("openai.", "anthropic.", "google.genai.")
_CLIENTS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp"})
#: Raised by these clients before the first byte of a request is written.
_BEFORE_SENDING = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ClientConnectorError"}
)
#: By which openai and anthropic say in each request how often they have sent it before.
_RETRIES = "x-stainless-retry-count"


def not_billed(error: BaseException | None) -> bool:
    """Whether `error` proves that the one request of a hold costs nothing: a reply of 3xx or 4xx, or no connection.

    An SDK that has tried more than once says nothing of the tries before the last one.
    """
    if error is None or _tried_before(error):
        return False
    if _is_sdk(type(error).__module__):
        return _refused(error) or (_retries(error) == "0" and _never_sent(error.__cause__))
    return _never_sent(error) and _is_sdk(_caller_of_client(error))


def _is_sdk(module: str) -> bool:
    return f"{module}.".startswith(_SDKS)


def _refused(error: BaseException) -> bool:
    """Whether the SDK's exception carries a reply of 3xx or 4xx."""
    reply = getattr(error, "response", None)
    status = getattr(reply, "status_code", getattr(reply, "status", None))
    return type(status) is int and 300 <= status < 500


def _never_sent(error: BaseException | None) -> bool:
    """Whether an HTTP client has made no connection."""
    return _is_of_client(error) and any(kind.__name__ in _BEFORE_SENDING for kind in type(error).__mro__)


def _is_of_client(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] in _CLIENTS


def _caller_of_client(error: BaseException) -> str:
    """The module that has called the HTTP client which raised `error`."""
    modules = (module for module, _ in _frames(error))
    return ["", *takewhile(lambda module: module.partition(".")[0] not in _CLIENTS, modules)][-1]


def _tried_before(error: BaseException) -> bool:
    """Whether the request may have been sent before: the SDK, or tenacity for it, counts its tries, or has caught one.

    google-genai tries again inside the handler of what its HTTP client has raised.
    """
    if _retries(error) not in (None, "0"):
        return True
    tries = (frame.f_locals.get("retry_state") for module, frame in _frames(error) if module.startswith("tenacity"))
    if any(getattr(state, "attempt_number", 1) > 1 for state in tries):
        return True
    return any(_is_of_client(caught) and not _never_sent(caught) and not _refused(caught) for caught in _caught(error))


def _caught(error: BaseException) -> Iterator[BaseException]:
    """What an SDK had caught when it raised `error`."""
    caught = error.__context__
    while caught is not None:
        if _is_sdk(next((module for module, _ in _frames(caught)), "")):
            yield caught
        caught = caught.__context__


def _frames(error: BaseException) -> Iterator[tuple[str, FrameType]]:
    """The frames that `error` has passed, outermost first, each with its module."""
    for frame, _ in walk_tb(error.__traceback__):
        yield str(frame.f_globals.get("__name__")), frame


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
