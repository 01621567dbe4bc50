"""The one call path, without I/O: a generator that yields what it waits for.

    render request -> bound its cost -> reserve -> dispatch -> send -> parse -> settle -> LLMResponse

One hold for each attempt. Whatever ends the generator, an exception thrown into it or its garbage collection
included, the hold of the attempt has ended by then.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeAlias

from llm_connect.calling.asking import ask_for_count
from llm_connect.calling.deadline import Deadline
from llm_connect.calling.drivers import Step
from llm_connect.calling.heads import Head
from llm_connect.calling.outcomes import end_hold, error_of, outcome_of, response_of
from llm_connect.calling.retry import pause_before_retry
from llm_connect.calling.steps import Booked, Dispatch, Pause, Reserve, Send, TakeSlot, timed_out
from llm_connect.core.bounds import Bound
from llm_connect.core.budget import BudgetTracker
from llm_connect.core.checks import check_prompt
from llm_connect.core.exceptions import LLMBudgetExceededError
from llm_connect.core.holds import Hold
from llm_connect.core.models import LLMResponse, Prompt, RunConfig
from llm_connect.core.price import Price
from llm_connect.core.refusals import limits_usd
from llm_connect.core.terms import declared_price, terms, tracker_of
from llm_connect.core.units import NOTHING, Amount
from llm_connect.protocols.wire import Answer, Failure, Reply

if TYPE_CHECKING:
    from llm_connect.calling.provider import ProviderAdapter, Request

Outcome: TypeAlias = Answer | Failure


class Call:
    """One call: what stays the same over its attempts, and what they came to."""

    def __init__(self, adapter: ProviderAdapter, prompt: Prompt, config: RunConfig) -> None:
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
        #: What the attempts so far have added to the budget.
        self.booked: Amount = NOTHING
        #: The hold of the last attempt.
        self.hold: Hold | None = None
        #: The bound of the last attempt.
        self.bound: Bound | None = None
        self._count: Reply | None = None
        #: What is known of the last exchange before its reply was whole.
        self._head = Head()
        self._arrival = None if self.tracker is None else self.tracker.gate.arrive()
        #: Whether its holds may stand in a store, which is waited for.
        self._stored = self.tracker is not None and self.tracker.gate.worker is not None

    @property
    def text(self) -> str:
        """The text that was given on so far, of a call whose answer is given on while it comes."""
        return ""

    @property
    def price(self) -> Price | None:
        """What the tokens of the last attempt cost."""
        return declared_price(self.adapter, None, self.config) if self.hold is None else self.hold.facts.price

    def run(self) -> Generator[Step, Any, LLMResponse]:
        """Attempts, until one succeeds, none can help any more, or the deadline has come."""
        failure: Failure | None = None
        if self.tracker is not None:
            self._count = yield from ask_for_count(self.adapter, self.prompt, self.config, self.deadline)
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
            yield Pause(pause)

    def _attempt(self) -> Generator[Step, Any, Outcome | None]:
        """One attempt; None when its hold was given back before anything was sent."""
        if self.tracker is not None:
            return self._held_attempt(self.tracker)
        return self._exchange(self.adapter.render(self.prompt, self.config, self.config.max_tokens))

    def _held_attempt(self, tracker: BudgetTracker) -> Generator[Step, Any, Outcome | None]:
        hold = yield from self._reserve(tracker)
        self.hold, self._head = hold, Head()
        try:
            request = self._request(hold)
            outcome = yield from self._exchange(request, hold)
            if outcome is not None:
                self._end(hold, outcome)
                if self._stored:
                    yield Booked(hold)
        finally:
            if not hold.ended:
                self._end_open(hold)
            self.booked = self.booked.plus(hold.amount)
        return outcome

    def _reserve(self, tracker: BudgetTracker) -> Generator[Step, Any, Hold]:
        self.bound = self._bound()
        asked = terms(self.adapter, tracker, self.config, self.bound, time.monotonic(), self.deadline.at)
        hold: Hold = yield Reserve(asked, self._arrival)
        return hold

    def _request(self, hold: Hold) -> Request:
        """The request that the hold covers: what it assumes is sent."""
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
        release = yield TakeSlot(self.adapter.slots, self.deadline)
        if release is None:
            return timed_out("no place came free among the adapter's concurrent requests", maybe_billed=False)
        try:
            if hold is not None:
                dispatched = (yield Dispatch(hold)) if self._stored else hold.try_dispatch()
                if not dispatched:
                    return None
            self.attempts += 1
            return (yield from self._send(request))
        finally:
            release()

    def _send(self, request: Request) -> Generator[Any, Any, Outcome]:
        self._head = Head(sent=not self.adapter.marks_sent)
        reply = yield Send(self.adapter, request, self.deadline, self._head)
        return reply if isinstance(reply, Failure) else outcome_of(lambda: self.adapter.read(reply))

    def _pause_after(self, failure: Failure) -> float | None:
        """Seconds before the next attempt; None when there is to be none."""
        return pause_before_retry(failure, self.attempts, self.config.max_retries, self.deadline)

    def _end(self, hold: Hold, outcome: Outcome) -> None:
        """End the hold of an attempt by its outcome; a failure that may be billed is ended as one without outcome."""
        self._name(hold, outcome.request_id)
        if isinstance(outcome, Failure) and outcome.maybe_billed:
            self._head.sent = True
        end_hold(hold, outcome)

    def _end_open(self, hold: Hold) -> None:
        """End the hold of an attempt that has no outcome: it was cancelled, or something failed beside it."""
        if not self._head.sent:
            hold.release()
            return
        self._name(hold, self._head.request_id)
        hold.end_unsettled()

    def _name(self, hold: Hold, request_id: str | None) -> None:
        """Let the ledger name the request, so that the provider can be asked later what became of it."""
        hold.request_id = hold.request_id or self.adapter.scrubber.name(request_id)


def call(adapter: ProviderAdapter, prompt: Prompt, config: RunConfig) -> Generator[Step, Any, LLMResponse]:
    """The flow of one call, for a driver."""
    return Call(adapter, prompt, config).run()
