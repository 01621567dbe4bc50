"""Log lines about calls and budgets, in the logger `llm_connect`.

Each event is one line. Its fields are attributes of the log record whose names begin with `llm_`. They never contain
text of a prompt, an answer, a provider or a header. If no handler listens at its level, an event costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeAlias

from llm_connect.errors import LLMBudgetExceededError

_log = logging.getLogger("llm_connect")
#: Exceptions that end the program; the next call raises them before it holds or sends anything.
Owed: TypeAlias = "deque[SystemExit | KeyboardInterrupt]"
#: Such exceptions of handlers whose lines were about no budget.
stray: Owed = deque()
#: Shorter waits are not logged.
_LONG_SECONDS = 1.0


class Event(NamedTuple):
    """A kind of event: its name for `llm_event`, its level, and its line, which refers to fields by name."""

    name: str
    level: int
    line: str


RETRIED = Event(
    "retried",
    logging.INFO,
    "%(provider)s %(model)r: attempt %(attempt)d failed (%(error)s); the next one starts in %(seconds).1f s.",
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
    "A call under budget %(path)r gets an output limit of %(max_tokens)d tokens instead of %(asked)d: no more is free.",
)
CUT = Event(
    "cut",
    logging.INFO,
    "%(provider)s %(model)r: the answer was cut off at an output limit of %(max_tokens)d tokens, set by the budget.",
)
PRESUMED = Event(
    "presumed",
    logging.WARNING,
    "The outcome of a call under budget %(path)r is unknown: its bound of %(tokens)d tokens is booked.",
)
OVERRUN = Event(
    "overrun",
    logging.WARNING,
    "A call under budget %(path)r used %(tokens)d tokens, and %(held_tokens)d were held.",
)
IMPLAUSIBLE = Event(
    "implausible",
    logging.WARNING,
    "A call under budget %(path)r reported a figure above %(most)s, which is not plausible: its bound is presumed.",
)
STORE_LOST = Event(
    "store_lost",
    logging.WARNING,
    "The store %(store)s cannot be reached: its budgets refuse every call until it is back.",
)
STORE_BACK = Event("store_back", logging.INFO, "The store %(store)s can be reached again, after %(seconds).1f s.")
CALLBACK_LATE = Event(
    "callback_late",
    logging.WARNING,
    "The callback %(callback)s of a budget has not returned after %(seconds).1f s: calls go on without waiting for it.",
)


def write(level: int, line: str, *args: object, owed: Owed | None = None, **details: Any) -> None:
    """Log a line. A handler or filter that fails affects no call: the line may be about an answer that is paid for.

    If it raises SystemExit or KeyboardInterrupt, the exception goes into `owed`, for the next call under that budget,
    unless one is there already.
    """
    try:
        _log.log(level, line, *args, **details)
    except BaseException as error:
        owed = stray if owed is None else owed
        if isinstance(error, SystemExit | KeyboardInterrupt) and not owed:
            owed.append(error)


def raise_stray() -> None:
    """Raise an exception of a handler whose line was about no budget."""
    with suppress(IndexError):
        raise stray.popleft()


def tell(event: Event, owed: Owed | None = None, **fields: Any) -> None:
    """Log `event` with its fields."""
    if _log.isEnabledFor(event.level):
        extra = {"llm_event": event.name, **{f"llm_{name}": value for name, value in fields.items()}}
        write(event.level, event.line, fields, owed=owed, extra=extra, stacklevel=3)


def tell_of_refusal(error: LLMBudgetExceededError, owed: Owed | None = None) -> None:
    """Log that a budget has refused a call."""
    names = ("path", "reason", "unit", "requested", "missing", "total", "spent", "held", "provider", "model")
    tell(REFUSED, owed, **{name: getattr(error, name) for name in names})


@contextmanager
def told_of_a_wait(path: str, owed: Owed) -> Iterator[None]:
    """Log a long wait for budget, and a refusal at its end."""
    began = time.monotonic()
    try:
        yield
    except LLMBudgetExceededError as error:
        tell_of_refusal(error, owed)
        raise
    if (seconds := time.monotonic() - began) > _LONG_SECONDS:
        tell(WAITED, owed, path=path, seconds=seconds)
