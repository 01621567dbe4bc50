"""Free auxiliary requests, such as token counting.

They take a concurrency slot of the adapter and obey a deadline like any request, but have no hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from llm_connect._flows import Flow
from llm_connect.engine.concurrency_limit import TakeSlot, Turn
from llm_connect.engine.deadline import Deadline, Head
from llm_connect.engine.exchange import Counting, Exchange, Patience, Pause, Request, Send, pause_before_retry
from llm_connect.protocols.wire import Failure, Reply

T = TypeVar("T")

#: The longest that a call waits for the token count of its prompt, in seconds and as a part of its time left.
_LONGEST_COUNT_SECONDS = 30.0
_COUNT_PART_OF_TIMEOUT = 0.25


def ask(adapter: Exchange, request: Request, deadline: Deadline) -> Flow[Reply | Failure]:
    """Send one request and return its reply, good or bad."""
    place = yield TakeSlot(adapter.slots, Turn(deadline.remaining(), deadline.at), "timeout_seconds")
    if isinstance(place, Failure):
        return place
    try:
        return (yield from _ask(adapter, request, deadline))
    finally:
        place.give_back()


def _ask(adapter: Exchange, request: Request, deadline: Deadline) -> Flow[Reply | Failure]:
    head = Head()
    head.sent = not adapter.marks_sent
    reply: Reply | Failure = yield Send(adapter, Patience(deadline), head, request)
    return reply


def ask_for_count(adapter: Exchange, counting: Counting, request: Request, deadline: Deadline) -> Flow[Reply | None]:
    """Ask the provider for the token count of a request; None if it does not tell.

    The question uses the slot of the call. The call must not fail because of it, so it waits for a short time only.
    """
    longest = min(_LONGEST_COUNT_SECONDS, _COUNT_PART_OF_TIMEOUT * deadline.remaining())
    reply = yield from _ask(adapter, counting.request(request), Deadline.after(longest))
    return None if isinstance(reply, Failure) else reply


def ask_until_answered(
    adapter: Exchange,
    request: Request,
    parse: Callable[[Reply], T | Failure],
    *,
    deadline: Deadline,
    max_retries: int,
) -> Flow[T]:
    """Ask, and parse the reply; ask again after a temporary failure. Raises LLMError."""
    attempts = 0
    while True:
        attempts += 1
        reply = yield from ask(adapter, request, deadline)
        said = reply if isinstance(reply, Failure) else parse(reply)
        if not isinstance(said, Failure):
            return said
        pause = pause_before_retry(said, attempts, max_retries, deadline)
        if pause is None:
            raise adapter._error_for(said, model=request.model, attempts=attempts, maybe_billed=False)
        yield Pause(pause)
