"""The one call path, without I/O: a generator that yields the steps it waits for.

    take a slot -> render request -> bound its cost -> reserve -> dispatch -> send -> parse -> settle -> LLMResponse

Each attempt has one hold, from its reservation to its end in `interface/attempt.py`. The request is rendered once: each
attempt only sets the output limit that its hold assumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from math import inf
from typing import TYPE_CHECKING, Any

from llm_connect._flows import Flow, Step
from llm_connect._validation import check_prompt
from llm_connect.budget.accounting.accounts import limits_usd
from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.acquire import acquire
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.log import Owed, raise_stray, stray, tell
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine import price_lists
from llm_connect.engine.concurrency_limit import Place, Turn
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.effects import Pause, Send, TakeSlot, timed_out
from llm_connect.engine.response_headers import Head
from llm_connect.engine.retry import pause_before_retry
from llm_connect.engine.settlement import end_attempt, error_of, outcome_of, read, response_of
from llm_connect.engine.token_count import ask_for_count
from llm_connect.engine.warming import WarmUp
from llm_connect.errors import LLMBudgetExceededError
from llm_connect.interface.adapter import DEFAULT_MAX_TOKENS
from llm_connect.interface.attempt import attempt
from llm_connect.interface.config import RunConfig
from llm_connect.interface.reservation import declared_price, log_cut, terms, tracker_of
from llm_connect.protocols.wire import Answer, Failure
from llm_connect.types.amounts import NOTHING, Amount
from llm_connect.types.response import LLMResponse, Prompt

if TYPE_CHECKING:
    from llm_connect.engine.exchange import Exchange, Outcome, Request


class Call:
    """One call: the state that its attempts share, and their results so far."""

    def __init__(self, adapter: Exchange, prompt: Prompt, config: RunConfig) -> None:
        check_prompt(prompt)
        self.adapter = adapter
        self.prompt = prompt
        self.config = config
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
        #: The bound of the last attempt.
        self.bound: Bound | None = None
        #: The request, rendered once, and its output limit.
        self._request: Request | None = None
        self._limit: int | None = None
        #: The last concurrency slot; None before the first one.
        self._place: Place | None = None
        #: Facts about the last exchange that are known before its reply is complete.
        self._head = Head()
        self._arrival = None if self.tracker is None else self.tracker.gate.arrive()
        #: Takes a slot again, if the call has given way to others while it waited for budget.
        self.come_back: Callable[[], Flow[Outcome | None]] | None = None

    @property
    def text(self) -> str:
        """The text that a stream has passed on so far; empty for other calls."""
        return ""

    @property
    def booked(self) -> Amount:
        """The amount that the attempts so far have added to the budget."""
        return self._booked if self.hold is None else self._booked.plus(self.hold.amount)

    @property
    def owed(self) -> Owed | None:
        """What log handlers have raised to end the program; None without a budget."""
        return None if self.tracker is None else self.tracker.gate.owed

    @property
    def price(self) -> Price | None:
        """The price of the last attempt's tokens."""
        return declared_price(self.adapter, None, self.config) if self.hold is None else self.hold.facts.price

    def run(self) -> Generator[Step, Any, LLMResponse]:
        """Make attempts until one succeeds, a failure is final, or the deadline passes."""
        if stray:
            raise_stray()
        if self.adapter.cold or (self.tracker is not None and not price_lists.loaded()):
            yield from self._warm_up()
        failure: Failure | None = None
        while True:
            try:
                outcome = yield from self._attempt()
            except LLMBudgetExceededError:
                if failure is None:
                    raise
                raise error_of(self, failure) from None
            if outcome is None:
                continue
            if isinstance(outcome, Answer):
                return response_of(self, outcome)
            failure = outcome
            pause = self._pause_after(failure)
            if pause is None:
                raise error_of(self, failure)
            self._tell_of_a_retry(failure, pause)
            yield Pause(pause)

    def _warm_up(self) -> Generator[Step, Any, None]:
        priced = not price_lists.loaded() and self._priced_by_list()
        if priced or self.adapter.cold:
            failure = yield WarmUp(self.adapter, self.deadline, priced)
            if failure is not None:
                raise error_of(self, failure)

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
                return (yield from self.exchange())
            return (yield from attempt(self))
        finally:
            self._give_place_back()

    def _take_place(self) -> Generator[Step, Any, Failure | None]:
        """Wait for a concurrency slot on a clock of its own. Calls that have begun go first."""
        most = self.config.max_queue_seconds
        until = inf if most is None else time.monotonic() + most
        turn = Turn(self.deadline.remaining(), until, first=self._place is not None)
        place = yield TakeSlot(self.adapter.slots, turn)
        if isinstance(place, Failure):
            return place
        self._place, self.come_back = place, None
        if place.waited:
            self.deadline = Deadline(self.deadline.at + place.waited)
        return None

    def _give_place_back(self) -> None:
        if self._place is not None:
            self._place.give_back()

    def reserve(self) -> Generator[Step, Any, Hold]:
        """Take a hold that covers the bound of the request. The call gives its slot to others while it waits for it."""
        tracker = self.tracker
        assert tracker is not None
        bound = self.bound or (yield from self._bound())
        asked = terms(self.adapter, tracker, self.config, bound, time.monotonic(), self.deadline.at)
        hold = yield from acquire(
            tracker,
            asked.demand,
            asked.facts,
            deadline=asked.wait_until,
            arrival=self._arrival,
            replaces=asked.replaces,
            before_waiting=self._give_way,
        )
        if self.hold is not None:
            self._booked = self._booked.plus(self.hold.amount)
        self.hold, self._head = hold, Head()
        return hold

    def _give_way(self) -> None:
        self._give_place_back()
        self.come_back = self._take_place

    def _bound(self) -> Generator[Step, Any, Bound]:
        """Render the request, and bound it: by the provider's count, if `count_tokens` wants that."""
        adapter, config = self.adapter, self.config
        limit = self._limit = config.max_tokens or DEFAULT_MAX_TOKENS
        request = self._request = adapter.render(self.prompt, config, limit)
        counting = adapter.counting
        count = None if counting is None else (yield from ask_for_count(adapter, counting, request, self.deadline))
        bound = adapter._bound_rendered(self.prompt, config, request, limit)
        counting = adapter.counting
        if count is not None and counting is not None:
            bound = counting.bound(bound, count, self.model)
        self.bound = bound
        return bound

    def exchange(self, hold: Hold | None = None) -> Generator[Any, Any, Outcome]:
        """Send the request, and read its reply."""
        request = self._begin(hold)
        if request is None:
            return TOO_LATE
        reply = yield Send(self.adapter, request, self.deadline, self._head)
        return reply if isinstance(reply, Failure) else outcome_of(lambda: read(self.adapter, reply))

    def _begin(self, hold: Hold | None) -> Request | None:
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
        if self.deadline.passed:
            return None
        self.attempts += 1
        self._head = Head(sent=not adapter.marks_sent)
        return request

    def _pause_after(self, failure: Failure) -> float | None:
        """Seconds before the next attempt; None if there will be no other."""
        return pause_before_retry(failure, self.attempts, self.config.max_retries, self.deadline)

    def end(self, hold: Hold, outcome: Outcome) -> None:
        """End the hold of an attempt by its outcome. A failure that may be billed leaves the outcome open."""
        self._name(hold, outcome.request_id)
        if isinstance(outcome, Failure) and outcome.maybe_billed:
            self._head.sent = True
        if isinstance(outcome, Answer) and not hold.ended:
            log_cut(hold, self.config, outcome.finish_reason)
        end_attempt(hold, outcome)

    def end_open(self, hold: Hold) -> None:
        """End the hold of an attempt without an outcome: it was cancelled, or something outside of it failed."""
        if not self._head.sent:
            hold.release()
            return
        self._name(hold, self._head.request_id)
        hold.end_unsettled()

    def _tell_of_a_retry(self, failure: Failure, pause: float) -> None:
        tell(
            "retry",
            self.owed,
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


def call(adapter: Exchange, prompt: Prompt, config: RunConfig) -> Generator[Step, Any, LLMResponse]:
    """Return the flow of one call, for a driver."""
    return Call(adapter, prompt, config).run()


TOO_LATE = timed_out("it was over before anything was sent", maybe_billed=False)
