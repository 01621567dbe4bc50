"""Log lines about calls and budgets, in the logger `llm_connect`.

Each event is one line, which writes numbers as errors do (`9,039 tokens`). Its fields are attributes of the log record
whose names begin with `llm_`. They never contain text of a prompt, an answer, a provider or a header. If no handler
listens at its level, an event costs nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from llm_connect.budget.admission.observing import CallEvent, Observer, observers
from llm_connect.errors import LLMBudgetExceededError

_log = logging.getLogger("llm_connect")
#: Exceptions that end the program; the next call raises them before it holds or sends anything.
Owed: TypeAlias = "deque[SystemExit | KeyboardInterrupt]"
#: Such exceptions of handlers whose lines were about no budget.
stray: Owed = deque()
#: Shorter waits are not logged.
_LONG_SECONDS = 1.0


class Event(NamedTuple):
    """A kind of event: its name for `llm_event`, its level, and its line, which refers to fields by name.

    In a line `call` is the provider and the model, if they are known, and `in_entry` the id of the ledger entry.
    """

    name: str
    level: int
    line: str
    #: True if the traceback of the present exception follows the line.
    traced: bool = False


RETRIED = Event(
    "retried",
    logging.INFO,
    "%(provider)s %(model)r: attempt %(attempt)s failed (%(error)s); the next one starts in %(seconds).1f s.",
)
WAITED = Event("waited", logging.INFO, "A call waited %(seconds).1f s for budget %(path)r.")
REFUSED = Event(
    "refused",
    logging.INFO,
    "Budget %(path)r refused a call (%(reason)s): it needs %(requested)s %(unit)s, and %(missing)s are missing.",
)
CLAMPED = Event(
    "clamped",
    logging.INFO,
    "A call under budget %(path)r gets an output limit of %(max_tokens)s tokens instead of %(asked)s: no more is free.",
)
CUT = Event("cut", logging.WARNING, "%(hint)s")
PRESUMED = Event(
    "presumed",
    logging.WARNING,
    "The outcome of %(call)s under budget %(path)r is unknown: its bound of %(tokens)s tokens is booked%(in_entry)s.",
)
OVERRUN = Event(
    "overrun",
    logging.WARNING,
    "Under budget %(path)r %(call)s used %(tokens)s tokens, and %(held_tokens)s were held%(in_entry)s.",
)
IMPLAUSIBLE = Event(
    "implausible",
    logging.WARNING,
    "A call under budget %(path)r reported a figure above %(most)s, which is not plausible: its bound is presumed.",
)
STORE_LOST = Event(
    "store_lost",
    logging.WARNING,
    "The store %(store)s cannot be used: its budgets refuse every call until it is back; if it was deleted or "
    "replaced, until open_budget opens it again.",
)
UNLIMITED = Event(
    "unlimited",
    logging.WARNING,
    "Budget %(path)r did not exist in %(store)s. It was created without limits, so it refuses no call: check the name, "
    "or create it with limits first.",
)
STORE_BACK = Event("store_back", logging.INFO, "The store %(store)s can be used again, after %(seconds).1f s.")
CALLBACK_LATE = Event(
    "callback_late",
    logging.WARNING,
    "The callback %(callback)s of a budget has not returned after %(seconds).1f s: calls go on without waiting for it.",
)
CALLBACK_FAILED = Event(
    "callback_failed",
    logging.ERROR,
    "A callback of a budget failed; the call that it was about is not affected.",
    traced=True,
)
OBSERVER_FAILED = Event("observer_failed", logging.ERROR, "An observer failed; the call is not affected.", traced=True)
NAME_SHARED = Event(
    "name_shared",
    logging.WARNING,
    "Budget %(path)r already has an open child %(child)r, and each call of child() makes a new one with limits of its "
    "own. Share one with child(..., join=True), or close it with a with block.",
)
UNREADABLE = Event(
    "unreadable", logging.WARNING, "The %(figure)s of a reply is invalid (%(error)s): an estimate replaces it."
)
BOOKED_LATER = Event(
    "booked_later",
    logging.WARNING,
    "The outcome of a call will be booked when the store can be reached again: %(error)s",
)
NOT_BOOKED = Event(
    "not_booked", logging.ERROR, "The usage of a call cannot be booked, so its bound is presumed: %(error)s"
)
DONE_LATER = Event(
    "done_later", logging.WARNING, "Pending work will be done when the store can be reached again: %(error)s"
)
WORKER_FAILED = Event(
    "worker_failed",
    logging.ERROR,
    "The worker of a budget store failed at a pending operation; it continues with the next one.",
    traced=True,
)
EVICTION_UNKNOWN = Event(
    "eviction_unknown", logging.WARNING, "Cannot tell if %(store)s evicts budgets when it is full: %(error)s"
)
POLLED = Event("polled", logging.DEBUG, "The server sends no messages, so waiting callers poll it: %(error)s")


def log_event(event: Event, owed: Owed | None = None, **fields: Any) -> None:
    """Log `event` with its fields; no observer is told.

    A handler or filter that fails affects no call: the line may be about an answer that is paid for. If it raises
    SystemExit or KeyboardInterrupt, the exception goes into `owed`, for the next call under that budget, unless one is
    there already.
    """
    try:
        if _log.isEnabledFor(event.level):
            extra = {"llm_event": event.name, **{f"llm_{name}": value for name, value in fields.items()}}
            _log.log(
                event.level,
                event.line,
                *filter(None, (fields and _said(**fields),)),
                exc_info=event.traced,
                extra=extra,
            )
    except BaseException as error:
        owe(error, owed)


def owe(error: BaseException, owed: Owed | None) -> None:
    """Keep an exception that ends the program for the next call, unless one is there already."""
    owed = stray if owed is None else owed
    if isinstance(error, SystemExit | KeyboardInterrupt) and not owed:
        owed.append(error)


def raise_stray() -> None:
    """Raise an exception of a handler whose line was about no budget."""
    with suppress(IndexError):
        raise stray.popleft()


def tells_of_wait(seconds: float) -> bool:
    """True if somebody is told of a wait of this length."""
    return bool(observers) or (seconds > _LONG_SECONDS and _log.isEnabledFor(WAITED.level))


def tell(name: str, owed: Owed | None = None, **fields: Any) -> None:
    """Tell the log and all observers of an event: `name` is the method of `Observer`, `fields` are those of the event.

    An observer that fails affects no call, as in `write`.
    """
    if not (observers or _log.isEnabledFor(logging.WARNING)):
        return
    event = CallEvent(**fields)
    getattr(LogObserver(owed), name)(event)
    for observer in tuple(observers):
        try:
            getattr(observer, name)(event)
        except BaseException as error:
            log_event(OBSERVER_FAILED, owed)
            owe(error, owed)


class LogObserver(Observer):
    """Writes the log lines about the events that are rare."""

    def __init__(self, owed: Owed | None) -> None:
        self._owed = owed

    def grant(self, event: CallEvent) -> None:
        if event.seconds is not None and event.seconds > _LONG_SECONDS:
            self._write(WAITED, event, "path", "seconds")

    def refuse(self, event: CallEvent) -> None:
        fields = ("path", "reason", "unit", "requested", "missing", "total", "spent", "held", "provider", "model")
        self._write(REFUSED, event.refusal, *fields)

    def clamp(self, event: CallEvent) -> None:
        self._write(CLAMPED, event, "path", "max_tokens", "asked", *_CALL)

    def retry(self, event: CallEvent) -> None:
        self._write(RETRIED, event, "attempt", "error", "status", "seconds", *_CALL)

    def presume(self, event: CallEvent) -> None:
        self._write(PRESUMED, event, *_ENDED)

    def overrun(self, event: CallEvent) -> None:
        self._write(OVERRUN, event, *_ENDED)

    def outage(self, event: CallEvent) -> None:
        if event.seconds is None:
            self._write(STORE_LOST, event, "store")
        else:
            self._write(STORE_BACK, event, "store", "seconds")

    def _write(self, line: Event, event: object, *names: str) -> None:
        log_event(line, self._owed, **{name: getattr(event, name) for name in names})


_CALL = ("provider", "model")
_ENDED = ("path", *_CALL, "entry", "request_id", "tokens", "usd", "held_tokens", "held_usd")


def _said(provider: str | None = None, model: str | None = None, entry: int | None = None, **fields: Any) -> Any:
    """The fields as the line of an event writes them."""
    named = [provider or "", "" if model is None else repr(model)]
    numbers = {name: f"{value:,}" if type(value) is int else value for name, value in fields.items()}
    call = " ".join(filter(None, ["a call of", *named])) if any(named) else "a call"
    in_entry = "" if entry is None else f" (entry {entry})"
    return {**numbers, "provider": provider, "model": model, "call": call, "in_entry": in_entry}


def tell_of_refusal(error: LLMBudgetExceededError, owed: Owed | None = None) -> None:
    """Tell that a budget has refused a call."""
    tell("refuse", owed, path=error.path, provider=error.provider, model=error.model, refusal=error)
