"""The one call path, without I/O: a generator that yields the steps it waits for.

    take a slot -> render request -> bound its cost -> reserve -> dispatch -> send -> parse -> settle -> LLMResponse

Each attempt has one hold, from its reservation to its end in `interface/attempt.py`. The request is rendered once: each
attempt only sets the output limit that its hold assumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from decimal import Decimal
from math import inf
from typing import Any, Protocol

from llm_connect._flows import Flow, Step
from llm_connect.budget.accounting.accounts import limits_usd
from llm_connect.budget.accounting.bounds import Bound, utf8_bytes
from llm_connect.budget.accounting.prices import cost_of
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.log import Owed, raise_owed, stray, tell
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine import price_lists
from llm_connect.engine.concurrency_limit import TakeSlot, Turn
from llm_connect.engine.deadline import Deadline, Head, timed_out
from llm_connect.engine.exchange import Exchange, Outcome, Patience, Pause, Request, Send, pause_before_retry
from llm_connect.engine.token_count import ask_for_count
from llm_connect.engine.warming import WarmUp
from llm_connect.errors import LLMBudgetExceededError, LLMError, LLMResponseError
from llm_connect.interface.adapter import DEFAULT_MAX_TOKENS
from llm_connect.interface.attempt import (
    NO_USAGE,
    attempt,
    check_prompt,
    cut_by,
    declared_price,
    end_hold,
    log_cut,
    log_unreadable,
    terms,
    tracker_of,
)
from llm_connect.interface.config import RunConfig
from llm_connect.protocols.wire import Answer, Failure, Reply
from llm_connect.types.amounts import NOTHING, Amount
from llm_connect.types.response import LLMResponse, Prompt
from llm_connect.types.usage import Usage


class Delivery(Protocol):
    """How a call reads its answer and passes it on. Otherwise calls and streams are the same."""

    @property
    def texts(self) -> Sequence[str]:
        """The texts that were passed on so far; after the first one, no other attempt follows."""
        ...

    def exchange(self, call: Call, hold: Hold | None) -> Generator[Any, Any, Outcome]:
        """Send the request that `hold` covers, and read its reply."""
        ...

    def end_cut(self, call: Call, hold: Hold) -> None:
        """End the hold of an exchange that was cut after its request was sent."""
        ...


class Whole:
    """Reads the whole reply, and passes nothing on before its end."""

    texts: Sequence[str] = ()

    def exchange(self, call: Call, hold: Hold | None) -> Generator[Any, Any, Outcome]:
        request = call.begin(hold)
        if request is None:
            return TOO_LATE
        reply = yield Send(call.adapter, Patience(call.deadline), call.head, request)
        return reply if isinstance(reply, Failure) else read(call.adapter, lambda: reply)

    def end_cut(self, call: Call, hold: Hold) -> None:
        hold.end_unsettled()


_WHOLE = Whole()


class Call:
    """One call: the state that its attempts share, and their results so far."""

    def __init__(self, adapter: Exchange, prompt: Prompt, config: RunConfig, delivery: Delivery = _WHOLE) -> None:
        check_prompt(prompt)
        self.adapter = adapter
        self.prompt = prompt
        self.config = config
        self.delivery: Delivery = delivery
        self.tracker: BudgetTracker | None = tracker_of(adapter, config)
        self.started: float = time.monotonic()
        self.deadline: Deadline = Deadline(self.started + config.timeout_seconds)
        self.model: str = config.model_name or adapter.model
        #: Requests sent so far.
        self.attempts: int = 0
        #: The amount that the attempts before the last one have added to the budget.
        self._booked: Amount = NOTHING
        #: The hold of the last attempt.
        self.hold: Hold | None = None
        self._bound: Bound | None = None
        #: The request, rendered once, and its output limit.
        self._request: Request | None = None
        self._limit: int | None = None
        #: The last concurrency slot; None before the first one.
        self._place: Turn | None = None
        #: Facts about the last exchange that are known before its reply is complete.
        self.head: Head = Head()
        self._arrival = None if self.tracker is None else self.tracker.gate.arrive()
        #: Takes a slot again, if the call has given way to others while it waited for budget.
        self.come_back: Callable[[], Flow[Outcome | None]] | None = None

    @property
    def _owed(self) -> Owed | None:
        """What log handlers have raised to end the program; None without a budget."""
        return None if self.tracker is None else self.tracker.gate.owed

    def run(self) -> Generator[Step, Any, LLMResponse]:
        """Make attempts until one succeeds, a failure is final, or the deadline passes."""
        if stray:
            raise_owed(stray)
        failure: Failure | None = None
        priced = not price_lists.Snapshot.loaded and self._priced_by_list()
        if priced or self.adapter._cold:
            failure = yield WarmUp(self.adapter, self.deadline, priced)
            if failure is not None:
                raise self._error_of(failure)
        while True:
            try:
                outcome = yield from self._attempt()
            except LLMBudgetExceededError:
                if failure is None:
                    raise
                raise self._error_of(failure) from None
            if outcome is None:
                continue
            if isinstance(outcome, Answer):
                return self.response_of(outcome)
            failure = outcome
            pause = self._pause_after(failure)
            if pause is None:
                raise self._error_of(failure)
            self._tell_of_a_retry(failure, pause)
            yield Pause(pause)

    def _priced_by_list(self) -> bool:
        tracker, adapter = self.tracker, self.adapter
        if tracker is None or not limits_usd(tracker.accounts) or adapter.price_list is None:
            return False
        return declared_price(adapter, tracker, self.config) is None

    def _attempt(self) -> Generator[Step, Any, Outcome | None]:
        """Make one attempt in its own concurrency slot; None if its hold was revoked before anything was sent."""
        failure = yield from self._take_place()
        try:
            if failure is not None:
                return failure
            if self.tracker is None:
                return (yield from self.delivery.exchange(self, None))
            return (yield from attempt(self))
        finally:
            if self._place is not None:
                self._place.give_back()

    def _take_place(self) -> Generator[Step, Any, Failure | None]:
        """Wait for a concurrency slot on a clock of its own. Calls that have begun go first."""
        most, now = self.config.max_queue_seconds, time.monotonic()
        turn = Turn(self.deadline.at - now, now + (inf if most is None else most), first=self._place is not None)
        place = yield TakeSlot(self.adapter.slots, turn)
        if isinstance(place, Failure):
            return place
        self._place, self.come_back = place, None
        if place.waited:
            self.deadline = Deadline(self.deadline.at + place.waited)
        return None

    def reserve(self) -> Generator[Step, Any, Hold]:
        """Take a hold that covers the bound of the request. The call gives its slot to others while it waits for it."""
        tracker = self.tracker
        assert tracker is not None
        bound = self._bound = self._bound or (yield from self._make_bound())
        asked = terms(self.adapter, tracker, self.config, bound, time.monotonic(), self.deadline.at)
        hold = yield from asked.acquire(arrival=self._arrival, before_waiting=self._give_way)
        if self.hold is not None:
            self._booked = self._booked.plus(self.hold.amount)
        self.hold, self.head = hold, Head()
        return hold

    def _give_way(self) -> None:
        assert self._place is not None
        self._place.give_back()
        self.come_back = self._take_place

    def _make_bound(self) -> Generator[Step, Any, Bound]:
        """Render the request, and bound it: by the provider's count, if `count_tokens` wants that."""
        adapter, config = self.adapter, self.config
        limit = self._limit = config.max_tokens or DEFAULT_MAX_TOKENS
        request = self._request = adapter.render(self.prompt, config, limit)
        counting = adapter.counting
        count = None if counting is None else (yield from ask_for_count(adapter, counting, request, self.deadline))
        bound = adapter._bound_rendered(self.prompt, config, request, limit)
        if count is not None and (counting := adapter.counting) is not None:
            bound = counting.bound(bound, count, self.model)
        return bound

    def exchange(self, hold: Hold, /) -> Generator[Any, Any, Outcome]:
        """Send the request, and read its reply."""
        return self.delivery.exchange(self, hold)

    def begin(self, hold: Hold | None) -> Request | None:
        """The request that `hold` covers: everything the hold assumes is sent. None if it is too late to send it."""
        adapter, limit = self.adapter, self.config.max_tokens if hold is None else hold.max_tokens
        request = self._request
        if request is None:
            request = adapter.render(self.prompt, self.config, limit)
        elif limit != self._limit:
            request = adapter.limited(request, limit)
        self._request, self._limit = request, limit
        if hold is not None and hold.facts.price is not None and limits_usd(hold.tracker.accounts):
            request = adapter.priced(request, hold.facts.price)
        if time.monotonic() >= self.deadline.at:
            return None
        self.attempts += 1
        self.head = Head()
        self.head.sent = not adapter.marks_sent
        return request

    def _pause_after(self, failure: Failure) -> float | None:
        """Seconds before the next attempt; None if there will be no other."""
        if self.delivery.texts:
            return None
        return pause_before_retry(failure, self.attempts, self.config.max_retries, self.deadline)

    def end(self, hold: Hold, outcome: Outcome) -> None:
        """End the hold of an attempt by its outcome. A failure that may be billed leaves the outcome open."""
        self._name(hold, outcome.request_id)
        if isinstance(outcome, Failure) and outcome.maybe_billed:
            self.head.sent = True
        if hold.ended:
            return
        if isinstance(outcome, Answer):
            log_cut(hold, self.config, outcome.finish_reason)
        end_hold(hold, outcome)

    def end_open(self, hold: Hold) -> None:
        """End the hold of an attempt without an outcome: it was cancelled, or something outside of it failed."""
        if not self.head.sent:
            hold.release()
            return
        self._name(hold, self.head.request_id)
        self.delivery.end_cut(self, hold)

    def _tell_of_a_retry(self, failure: Failure, pause: float) -> None:
        tell(
            "retry",
            self._owed,
            provider=self.adapter.provider,
            model=self.model,
            attempt=self.attempts,
            error=failure.kind.__name__,
            status=failure.details.get("status_code"),
            seconds=pause,
        )

    def _name(self, hold: Hold, request_id: str | None) -> None:
        """Record the request id in the ledger, so that one can ask the provider about the request later."""
        hold.request_id = hold.request_id or self.adapter.scrubber.name(request_id)

    def response_of(self, answer: Answer) -> LLMResponse:
        """The response for an answer."""
        cost, source = self._cost_told(answer)
        metadata: dict[str, Any] = {
            "provider": self.adapter.provider,
            "latency_seconds": time.monotonic() - self.started,
            "attempts": self.attempts,
        }
        if answer.request_id is not None:
            metadata["request_id"] = answer.request_id
        cut = None if self.hold is None else cut_by(self.hold, self.config, answer.finish_reason)
        if answer.hint is not None or cut is not None:
            metadata["hint"] = " ".join(filter(None, (answer.hint, cut)))
        if self.hold is not None:
            metadata["ledger_entry"] = self.hold.entry_id
        return LLMResponse(
            content=answer.content,
            model=answer.model or self.model,
            usage=answer.usage or self._estimate(answer),
            finish_reason=answer.finish_reason,
            cost=cost,
            cost_source=source,
            metadata=metadata,
        )

    def _cost_told(self, answer: Answer) -> tuple[Decimal | None, str | None]:
        """The cost for the response, and its source; None for both if it cannot be computed."""
        try:
            price = declared_price(self.adapter, None, self.config) if self.hold is None else self.hold.facts.price
            return cost_of(answer.cost, answer.cost_source, answer.usage, price, answer.service_tier)
        except Exception as error:
            log_unreadable("cost", error, self._owed)
            return None, None

    def _estimate(self, answer: Answer) -> Usage:
        least = answer.used_at_least or NO_USAGE
        return Usage(
            prompt_tokens=max(self._prompt_bound(), least.prompt_tokens),
            completion_tokens=max(utf8_bytes(answer.content), least.completion_tokens),
            estimated=True,
        )

    def _prompt_bound(self) -> int:
        adapter = self.adapter
        try:
            bound = self._bound or adapter.bound_of(adapter.render(self.prompt, self.config, None), 0)
        except Exception as error:
            log_unreadable("bound", error, self._owed)
            return utf8_bytes(self.prompt)
        return bound.prompt_tokens

    def _error_of(self, failure: Failure) -> LLMError:
        """The error for a failure, with all that the attempts have added to the budget."""
        hold = self.hold
        return self.adapter._error_for(
            failure,
            model=self.model,
            prompts=(self.prompt, self.config.system_prompt),
            attempts=self.attempts,
            maybe_billed=failure.maybe_billed,
            booked=None if self.tracker is None else self._booked.plus(NOTHING if hold is None else hold.amount),
            ledger_entry=None if hold is None else hold.entry_id or None,
            response=self._cut_response(failure),
        )

    def _cut_response(self, failure: Failure) -> LLMResponse | None:
        """The text that had arrived, as a response, because it was paid for; None if there was none."""
        content = "".join(self.delivery.texts) or failure.content
        if not content:
            return None
        name = self.adapter.scrubber.name
        cut = Answer(
            content=content,
            model=name(failure.model),
            usage=failure.usage,
            used_at_least=failure.used_at_least,
            finish_reason="unknown",
            cost=failure.cost,
            cost_source=failure.cost_source,
            service_tier=failure.service_tier,
            request_id=name(failure.request_id),
        )
        return self.response_of(cut)


def read(adapter: Exchange, reply: Callable[[], Reply]) -> Outcome:
    """Parse a reply; shorten the names in it, and keep keys out of them. A reply that cannot be read is a failure."""
    try:
        outcome = adapter.parse(reply())
        request_id, model = adapter.scrubber.name(outcome.request_id), adapter.scrubber.name(outcome.model)
        if (request_id, model) == (outcome.request_id, outcome.model):
            return outcome
        return replace(outcome, request_id=request_id, model=model)
    except Exception as error:
        return not_read(error)


def not_read(error: Exception) -> Failure:
    """The failure for an unreadable reply, which may have been billed."""
    return Failure(
        kind=LLMResponseError,
        message=f"The reply cannot be read ({type(error).__name__}): check that base_url names the provider's API.",
    )


TOO_LATE = timed_out("it was over before anything was sent", maybe_billed=False)
