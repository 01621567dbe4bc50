"""One attempt under a budget, as a flow: the only place where the hold of a call begins, is dispatched, and ends.

    reserve -> dispatch -> exchange -> settle, release or presume

Calls and streams of our adapters run it, and the metered methods of others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

from llm_connect._flows import Flow
from llm_connect.budget.admission.acquire import Operation
from llm_connect.budget.admission.holds import Hold

T = TypeVar("T")


class Attempting(Protocol[T]):
    """What an attempt asks of the call that makes it; `T` is what an exchange comes to."""

    #: If it let others go first while it waited for budget: how to wait for its turn again. Else None.
    come_back: Callable[[], Flow[T | None]] | None

    def reserve(self) -> Flow[Hold]:
        """Take a hold, waiting for it if need be."""
        ...

    def exchange(self, hold: Hold) -> Generator[Any, Any, T]:
        """Send the request that `hold` covers, and read its reply."""
        ...

    def end(self, hold: Hold, outcome: T) -> None:
        """End `hold` by what the exchange came to, as far as that says how."""
        ...

    def end_open(self, hold: Hold) -> None:
        """End `hold` without an outcome: the exchange was cancelled, or failed outside of itself."""
        ...


def attempt(call: Attempting[T]) -> Generator[Any, Any, T | None]:
    """Make one attempt; None if its hold was given back before anything was sent, so that it is reserved anew.

    However the flow ends, by an exception thrown into it or by garbage collection too, the hold has ended by then.
    """
    hold = yield from call.reserve()
    keeper = hold.keeper
    try:
        outcome = None if call.come_back is None else (yield from call.come_back())
        if outcome is None:
            may_be_sent = (
                keeper.dispatch(hold) if keeper.worker is None else (yield Operation(keeper, hold.try_dispatch))
            )
            if may_be_sent:
                outcome = yield from call.exchange(hold)
        if outcome is not None:
            call.end(hold, outcome)
            if keeper.worker is not None:
                # Its entry is there when the caller has the outcome.
                yield Operation(keeper, keeper.flush)
    finally:
        if not hold.ended:
            call.end_open(hold)
    return outcome
