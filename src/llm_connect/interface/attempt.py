"""One attempt under a budget, as a flow: the only place where the hold of a call begins, is dispatched, and ends.

    reserve -> dispatch -> exchange -> settle, release or presume

Calls and streams of the built-in adapters run it, and so do the metered methods of foreign ones.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

from llm_connect._flows import Flow
from llm_connect.budget.admission.acquire import Operation, clear_left_frames
from llm_connect.budget.admission.holds import Hold, tell_of_hold
from llm_connect.budget.admission.log import observers

T = TypeVar("T")


class Attempting(Protocol[T]):
    """The part of a call that its attempts use; `T` is the outcome of an exchange."""

    #: Set if the call gave up its concurrency slot while it waited for budget: the flow that waits for a slot again.
    come_back: Callable[[], Flow[T | None]] | None

    def reserve(self) -> Flow[Hold]:
        """Reserve a hold; wait for it if necessary."""
        ...

    def exchange(self, hold: Hold) -> Generator[Any, Any, T]:
        """Send the request that `hold` covers, and read its reply."""
        ...

    def end(self, hold: Hold, outcome: T) -> None:
        """End `hold` by the outcome of the exchange; leave it open if the outcome does not determine its end."""
        ...

    def end_open(self, hold: Hold) -> None:
        """End a hold that is still open, for example after a cancelled exchange."""
        ...


def attempt(call: Attempting[T]) -> Generator[Any, Any, T | None]:
    """Make one attempt; None if its hold was revoked before anything was sent, so that the call must reserve again.

    When the flow ends, even by an exception thrown into it or by garbage collection, the hold has ended.
    """
    try:
        hold = yield from call.reserve()
    except BaseException as error:
        clear_left_frames(error)
        raise
    keeper, limit = hold.keeper, hold.max_tokens
    # The terms of a call make a BoundDemand.
    demand: Any = hold.demand
    try:
        if limit is not None and limit < demand.bound.max_tokens:
            tell_of_hold("clamp", hold, max_tokens=limit, asked=demand.bound.max_tokens)
        outcome = None if call.come_back is None else (yield from call.come_back())
        if outcome is None:
            stored = keeper.worker is not None
            if (yield Operation(keeper, keeper.dispatch, hold)) if stored else keeper.dispatch(hold):
                if observers:
                    tell_of_hold("dispatch", hold)
                outcome = yield from call.exchange(hold)
        if outcome is not None:
            call.end(hold, outcome)
            if keeper.worker is not None:
                # The caller gets the outcome once the store has the entry.
                yield Operation(keeper, keeper.flush)
    finally:
        if not hold.ended:
            call.end_open(hold)
    return outcome
