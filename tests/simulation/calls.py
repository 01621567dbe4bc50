"""One call in the simulation: what its caller does, and what the provider bills for it."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llm_connect.budget.admission.acquire import Wait, acquire
from llm_connect.budget.admission.arguments import asked
from llm_connect.budget.admission.holds import Hold, remember_own
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError

if TYPE_CHECKING:
    from tests.simulation.world import Process


class Call:
    """A call of one caller in a process. The label `call` of its hold and entries is its number."""

    def __init__(self, number: int, process: Process, tracker: BudgetTracker, tokens: int, cost: int) -> None:
        self.number = number
        self.process = process
        self.tracker: BudgetTracker | None = tracker
        self.tokens = tokens
        #: What the provider bills once the request was sent.
        self.cost = cost
        self.model: str | None = None
        self.hold: Hold | None = None
        self.sent = False
        #: True once its process has tried to dispatch it.
        self.tried = False
        #: True if its caller cannot know whether a booking or correction of it was written.
        self.doubtful = False
        #: The spend that the caller has told the budget; None before that.
        self.told: int | None = None
        #: True once the end was told and nothing of the process was left to write.
        self.written = False
        #: True once the caller is done with it.
        self.over = False
        #: Its place in the wait queue, once it has joined that.
        self._waiter: Waiter | None = None
        #: True once a step has granted its wait. Its caller may come too late for the grant, which is reclaimed then.
        self.granted = False
        self._error: BaseException | None = None
        self._refusal_seen = False
        #: What it waits for, and the time at which it looks again.
        self.waits: Wait | None = None
        self.looks_at = 0.0
        self._flow: Any = None
        # Each caller has a context of its own, as a thread has.
        self._context = contextvars.copy_context()

    @property
    def may_go_on(self) -> bool:
        """True if a waiting caller would wake up by now."""
        now = self.process.world.clock.now
        return self.waits is not None and (not self.waits.waiter.waiting or now >= self.looks_at)

    def note_grant(self) -> None:
        """Note that its wait has been granted, even if its caller has not woken up yet."""
        self.granted = self.granted or (self._waiter is not None and self._waiter.hold is not None)

    def new_refusal(self) -> LLMBudgetExceededError | None:
        """Return its refusal, the first time that there is one, even if the caller has not woken up yet."""
        error, self._error = self._error if self.waits is None else self.waits.waiter.error, None
        if not isinstance(error, LLMBudgetExceededError) or self._refusal_seen:
            return None
        self._refusal_seen = True
        return error

    def forget_frames(self) -> None:
        """Let go of the frames that its errors keep. In one thread, these are also frames of other processes."""
        for error in (self._error, self._waiter and self._waiter.error):
            if error is not None:
                error.__traceback__ = None

    def begin(self, seconds: float) -> None:
        """Ask for the hold, and wait for it at most `seconds`."""
        assert self.tracker is not None
        labels = {"call": str(self.number)}
        demand, facts = asked(
            self.tracker, self.tokens, None, None, 1, None, None, self.model and "simulated", self.model, None, labels
        )
        self._flow = acquire(self.tracker, demand, facts, deadline=self.process.world.clock.now + seconds)
        self._run(self._flow.send, None)

    def go_on(self) -> None:
        """Wake up after a wait."""
        self.waits = None
        self._run(self._flow.send, None)

    def give_up(self) -> None:
        """Cancel the wait."""
        self.waits, self.over = None, True
        self._context.run(self._flow.close)

    def _run(self, resume: Callable[[Any], Any], value: Any) -> None:
        try:
            self._context.run(self._drive, resume, value)
        except BaseException as error:
            self.over = True
            self._error = error
            raise

    def _drive(self, resume: Callable[[Any], Any], value: Any) -> None:
        """Run the flow as `drive` does, but return where it would block the thread."""
        try:
            step = resume(value)
            while True:
                try:
                    if isinstance(step, Wait):
                        # Like a timer, it does not go off before its time, even by a rounding error.
                        self.looks_at = self.process.world.clock.now + max(0.0, step.seconds()) + 1e-6
                        break
                    found = step.run()
                    if isinstance(found, Waiter):
                        self._waiter = found
                    step = self._flow.send(found)
                except StopIteration:
                    raise
                except BaseException as error:
                    if self._flow.gi_frame is None:
                        raise
                    step = self._flow.throw(error)
            self.waits = step
        except StopIteration as stop:
            self.hold, self._waiter = stop.value, None
            remember_own(stop.value)
