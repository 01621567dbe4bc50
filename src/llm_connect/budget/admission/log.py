"""Events of calls and budgets: the observers that are told of them, and the log lines in the logger `llm_connect`.

Without an observer, an event costs one look at an empty list. A log line is about one event, which writes numbers as
errors do (`9,039 tokens`). Its fields are attributes of the log record whose names begin with `llm_`. They never
contain text of a prompt, an answer, a provider or a header. If no handler listens at its level, an event costs nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from llm_connect.errors import LLMBudgetExceededError


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent:
    """One event in the life of a call. A field that the event does not have is None.

    path: the path of the tracker. provider, model, labels: those of the ledger entry.
    tokens, usd: the bound; once the hold has ended, the amount that is booked. held_tokens, held_usd: the bound then.
    outcome: "settled" or "released". entry: the id of the ledger entry, unless a store writes it later.
    seconds: the length of the wait, of the pause before a retry, or of the outage that is over.
    max_tokens, asked: the output limit of the request, and the larger one that the call asked for.
    attempt, error, status: the number of the attempt that failed, the name of its error, and its HTTP status.
    refusal: the error that the call raises. store: the URL of the store, without its password.
    """

    path: str | None = None
    provider: str | None = None
    model: str | None = None
    labels: Mapping[str, str] | None = None
    tokens: int | None = None
    usd: Decimal | None = None
    held_tokens: int | None = None
    held_usd: Decimal | None = None
    outcome: Literal["settled", "released"] | None = None
    entry: int | None = None
    request_id: str | None = None
    seconds: float | None = None
    max_tokens: int | None = None
    asked: int | None = None
    attempt: int | None = None
    error: str | None = None
    status: int | None = None
    refusal: LLMBudgetExceededError | None = None
    store: str | None = None


class Observer(Protocol):
    """Methods that are called when something happens to a call; a subclass defines the ones that it needs.

        class Waits(Observer):
            def wait(self, event: CallEvent) -> None:
                print(f"a call waits for budget {event.path}")

        add_observer(Waits())

    They run in the thread and context of the call, outside of locks, and should be quick, because the call waits for
    them. If one raises, that is logged, and the call goes on. A SystemExit or KeyboardInterrupt is raised by the next
    call of the budget. An event has no text of a prompt or an answer.
    """

    def reserve(self, event: CallEvent) -> None:
        """A call, or a user's reservation, asks for budget."""
        return

    def wait(self, event: CallEvent) -> None:
        """The budget does not fit yet: the wait begins."""
        return

    def grant(self, event: CallEvent) -> None:
        """The call has its hold, after `seconds`."""
        return

    def refuse(self, event: CallEvent) -> None:
        """The call is refused; `refusal` says why."""
        return

    def clamp(self, event: CallEvent) -> None:
        """The call gets a smaller output limit than it asked for, because no more is free."""
        return

    def dispatch(self, event: CallEvent) -> None:
        """The request is about to be sent."""
        return

    def retry(self, event: CallEvent) -> None:
        """An attempt has failed, and another one follows."""
        return

    def settle(self, event: CallEvent) -> None:
        """The hold has ended with a known outcome: settled or released."""
        return

    def presume(self, event: CallEvent) -> None:
        """The hold has ended with an unknown outcome: its bound is booked."""
        return

    def overrun(self, event: CallEvent) -> None:
        """The call used more than its hold; comes after `settle`."""
        return

    def outage(self, event: CallEvent) -> None:
        """A store cannot be used, or can be used again; then `seconds` is the length of the outage."""
        return


#: Those that are told of every event, besides the log.
observers: list[Observer] = []


def add_observer(observer: Observer) -> None:
    """Tell `observer` of the events of all calls and budgets of this process from now on."""
    observers.append(observer)


def remove_observer(observer: Observer) -> None:
    """Stop telling `observer`; nothing happens if it is not told."""
    if observer in observers:
        observers.remove(observer)


_log = logging.getLogger("llm_connect")
#: Exceptions that end the program; the next call raises them before it holds or sends anything.
Owed: TypeAlias = "deque[SystemExit | KeyboardInterrupt]"
#: Such exceptions of handlers whose lines were about no budget.
stray: Owed = deque()
#: Shorter waits are not logged.
LONG_SECONDS = 1.0


class Event(NamedTuple):
    """A kind of event: its level, its name for `llm_event`, and its line, which refers to fields by name.

    In a line `call` is the provider and the model, if they are known, and `in_entry` the id of the ledger entry.
    """

    level: int
    name: str
    line: str
    #: True if the traceback of the present exception follows the line.
    traced: bool = False


_debug, _info, _warning, _error = (
    partial(Event, level) for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
)

RETRIED = _info(
    "retried", "%(provider)s %(model)r: attempt %(attempt)s failed (%(error)s); the next one starts in %(seconds).1f s."
)
WAITED = _info("waited", "A call waited %(seconds).1f s for budget %(path)r.")
REFUSED = _info(
    "refused",
    "Budget %(path)r refused a call (%(reason)s): it needs %(requested)s %(unit)s, and %(missing)s are missing.",
)
CLAMPED = _info(
    "clamped",
    "A call under budget %(path)r gets an output limit of %(max_tokens)s tokens instead of %(asked)s: no more is free.",
)
CUT = _warning("cut", "%(hint)s")
PRESUMED = _warning(
    "presumed",
    "The outcome of %(call)s under budget %(path)r is unknown: its bound of %(tokens)s tokens is booked%(in_entry)s.",
)
OVERRUN = _warning(
    "overrun", "Under budget %(path)r %(call)s used %(tokens)s tokens, and %(held_tokens)s were held%(in_entry)s."
)
IMPLAUSIBLE = _warning(
    "implausible",
    "A call under budget %(path)r reported a figure above %(most)s, which is not plausible: its bound is presumed.",
)
STORE_LOST = _warning(
    "store_lost",
    "The store %(store)s cannot be used: its budgets refuse every call until it is back; if it was deleted or "
    "replaced, until open_budget opens it again.",
)
UNLIMITED = _warning(
    "unlimited",
    "Budget %(path)r did not exist in %(store)s. It was created without limits, so it refuses no call: check the name, "
    "or create it with limits first.",
)
STORE_BACK = _info("store_back", "The store %(store)s can be used again, after %(seconds).1f s.")
CALLBACK_LATE = _warning(
    "callback_late",
    "The callback %(callback)s of a budget has not returned after %(seconds).1f s: calls go on without waiting for it.",
)
CALLBACK_FAILED = _error(
    "callback_failed", "A callback of a budget failed; the call that it was about is not affected.", traced=True
)
OBSERVER_FAILED = _error("observer_failed", "An observer failed; the call is not affected.", traced=True)
NAME_SHARED = _warning(
    "name_shared",
    "Budget %(path)r already has an open child %(child)r, and each call of child() makes a new one with limits of its "
    "own. Share one with child(..., join=True), or close it with a with block.",
)
UNREADABLE = _warning("unreadable", "The %(figure)s of a reply is invalid (%(error)s): an estimate replaces it.")
BOOKED_LATER = _warning(
    "booked_later", "The outcome of a call will be booked when the store can be reached again: %(error)s"
)
NOT_BOOKED = _error("not_booked", "The usage of a call cannot be booked, so its bound is presumed: %(error)s")
DONE_LATER = _warning("done_later", "Pending work will be done when the store can be reached again: %(error)s")
WORKER_FAILED = _error(
    "worker_failed",
    "The worker of a budget store failed at a pending operation; it continues with the next one.",
    traced=True,
)
EVICTION_UNKNOWN = _warning("eviction_unknown", "Cannot tell if %(store)s evicts budgets when it is full: %(error)s")
POLLED = _debug("polled", "The server sends no messages, so waiting callers poll it: %(error)s")


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


def raise_owed(owed: Owed) -> None:
    """Raise an exception that is kept for the next call, each once, before anything is held or sent."""
    with suppress(IndexError):
        raise owed.popleft()


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
        if event.seconds is not None and event.seconds > LONG_SECONDS:
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
