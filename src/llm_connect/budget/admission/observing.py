"""Observers: objects that are told what happens to calls, holds and stores.

Without an observer, an event costs one look at an empty list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol

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
