"""The one call path, without I/O: a generator that yields the steps it waits for.

    take a slot -> render request -> bound its cost -> reserve -> dispatch -> send -> parse -> settle -> LLMResponse

Each attempt has one hold. However the generator ends, by an exception thrown into it or by garbage collection too,
the hold of the attempt has ended by then.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from math import inf
from typing import TYPE_CHECKING, Any

from llm_connect._flows import Step
from llm_connect._validation import check_prompt
from llm_connect.budget.accounting.accounts import limits_usd
from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.acquire import Operation, acquire
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.log import CLAMPED, CUT, RETRIED, Owed, raise_stray, stray, tell
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
from llm_connect.interface.config import RunConfig
from llm_connect.interface.reservation import declared_price, log_cut, terms, tracker_of
from llm_connect.protocols.wire import Answer, Failure, Reply
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
        #: The amount that the attempts so far have added to the budget.
        self.booked: Amount = NOTHING
        #: The hold of the last attempt.
        self.hold: Hold | None = None
        #: The bound of the last attempt.
        self.bound: Bound | None = None
        self._counted = False
        self._count: Reply | None = None
        #: The last concurrency slot; None before the first one.
        self._place: Place | None = None
        #: Facts about the last exchange that are known before its reply is complete.
        self._head = Head()
        self._arrival = None if self.tracker is None else self.tracker.gate.arrive()
        #: True if its holds may be in a store, so that it waits for I/O.
        self._stored = self.tracker is not None and self.tracker.gate.worker is not None

    @property
    def text(self) -> str:
        """The text that a stream has passed on so far; empty for other calls."""
        return ""

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
                self._tell_of_a_cut(outcome)
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
            if self.tracker is not None:
                return (yield from self._held_attempt(self.tracker))
            return (yield from self._exchange(self.adapter.render(self.prompt, self.config, self.config.max_tokens)))
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
        self._place = place
        if place.waited:
            self.deadline = Deadline(self.deadline.at + place.waited)
        return None

    def _give_place_back(self) -> None:
        if self._place is not None:
            self._place.give_back()

    def _held_attempt(self, tracker: BudgetTracker) -> Generator[Step, Any, Outcome | None]:
        if not self._counted:
            self._counted = True
            self._count = yield from ask_for_count(self.adapter, self.prompt, self.config, self.deadline)
        hold = yield from self._reserve(tracker)
        self.hold, self._head = hold, Head()
        try:
            outcome = yield from self._exchange_under(hold)
            if outcome is not None:
                self._end(hold, outcome)
                if self._stored:
                    yield Operation(hold.keeper, hold.keeper.flush)
        finally:
            if not hold.ended:
                self._end_open(hold)
            self.booked = self.booked.plus(hold.amount)
        return outcome

    def _exchange_under(self, hold: Hold) -> Generator[Step, Any, Outcome | None]:
        """Make the exchange that a hold covers. The call gave its slot to others if it had to wait for budget."""
        request = self._request(hold)
        if self._place is not None and not self._place.held:
            failure = yield from self._take_place()
            if failure is not None:
                return failure
        return (yield from self._exchange(request, hold))

    def _reserve(self, tracker: BudgetTracker) -> Generator[Step, Any, Hold]:
        self.bound = self._bound()
        asked = terms(self.adapter, tracker, self.config, self.bound, time.monotonic(), self.deadline.at)
        assert self._place is not None
        place = {"arrival": self._arrival, "before_waiting": self._place.give_back, **asked.queueing}
        hold = yield from acquire(tracker, asked.demand, asked.facts, **place)
        if hold.max_tokens is not None and hold.max_tokens < self.bound.max_tokens:
            facts = {"path": tracker.path, "provider": hold.facts.adapter, "model": hold.model}
            tell(CLAMPED, self.owed, max_tokens=hold.max_tokens, asked=self.bound.max_tokens, **facts)
        return hold

    def _request(self, hold: Hold) -> Request:
        """Render the request that the hold covers: everything the hold assumes is sent."""
        request = self.adapter.render(self.prompt, self.config, hold.max_tokens)
        price = hold.facts.price
        return (
            request if price is None or not limits_usd(hold.tracker.accounts) else self.adapter.priced(request, price)
        )

    def _bound(self) -> Bound:
        bound = self.adapter.bound(self.prompt, self.config)
        counting = self.adapter.counting
        if self._count is None or counting is None:
            return bound
        return counting.bound(bound, self._count, self.model)

    def _exchange(self, request: Request, hold: Hold | None = None) -> Generator[Step, Any, Outcome | None]:
        if hold is not None:
            dispatched = (yield Operation(hold.keeper, hold.try_dispatch)) if self._stored else hold.try_dispatch()
            if not dispatched:
                return None
        if self.deadline.passed:
            return timed_out("it was over before anything was sent", maybe_billed=False)
        self.attempts += 1
        return (yield from self._send(request))

    def _send(self, request: Request) -> Generator[Any, Any, Outcome]:
        self._head = Head(sent=not self.adapter.marks_sent)
        reply = yield Send(self.adapter, request, self.deadline, self._head)
        return reply if isinstance(reply, Failure) else outcome_of(lambda: read(self.adapter, reply))

    def _pause_after(self, failure: Failure) -> float | None:
        """Seconds before the next attempt; None if there will be no other."""
        return pause_before_retry(failure, self.attempts, self.config.max_retries, self.deadline)

    def _end(self, hold: Hold, outcome: Outcome) -> None:
        """End the hold of an attempt by its outcome. A failure that may be billed leaves the outcome open."""
        self._name(hold, outcome.request_id)
        if isinstance(outcome, Failure) and outcome.maybe_billed:
            self._head.sent = True
        if isinstance(outcome, Answer) and not hold.ended:
            log_cut(hold, self.config, outcome.finish_reason)
        end_attempt(hold, outcome)

    def _end_open(self, hold: Hold) -> None:
        """End the hold of an attempt without an outcome: it was cancelled, or something outside of it failed."""
        if not self._head.sent:
            hold.release()
            return
        self._name(hold, self._head.request_id)
        hold.end_unsettled()

    def _tell_of_a_retry(self, failure: Failure, pause: float) -> None:
        tell(
            RETRIED,
            self.owed,
            provider=self.adapter.provider,
            model=self.model,
            attempt=self.attempts,
            error=failure.kind.__name__,
            status=failure.details.get("status_code"),
            seconds=pause,
        )

    def _tell_of_a_cut(self, answer: Answer) -> None:
        limit = None if self.hold is None else self.hold.max_tokens
        if answer.finish_reason == "length" and limit is not None and limit != self.config.max_tokens:
            tell(CUT, self.owed, provider=self.adapter.provider, model=self.model, max_tokens=limit)

    def _name(self, hold: Hold, request_id: str | None) -> None:
        """Record the request id in the ledger, so that one can ask the provider about the request later."""
        hold.request_id = hold.request_id or self.adapter.scrubber.name(request_id)


def call(adapter: Exchange, prompt: Prompt, config: RunConfig) -> Generator[Step, Any, LLMResponse]:
    """Return the flow of one call, for a driver."""
    return Call(adapter, prompt, config).run()
