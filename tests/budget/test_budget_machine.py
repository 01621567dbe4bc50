"""Random sequences of budget operations, compared with a model that is slow and obviously right."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llm_connect.budget import tracker
from llm_connect.budget.accounting.bounds import Bound, BoundDemand, CallFacts, PlainDemand
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.accounting.windows import Period
from llm_connect.budget.admission import acquire, booking, wait_queue
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.types.amounts import Amount
from tests.budget.budget_helpers import leave, taken
from tests.budget.budget_model import UNITS, Caller, Kept, Model, Node, limits_of

pytestmark = pytest.mark.slow

#: The seconds that a caller may wait: long enough for some windows to open, or for all. The windows' clock is a fake.
FAR, NEAR = 1_000_000, 1_800.5
#: The monotonic clock of windows stands still and is ahead, so a caller that must not wait never has time left.
MONOTONIC = time.monotonic() + 1_000_000
PERIODS: st.SearchStrategy[Period | None] = st.sampled_from([None, "hour", timedelta(hours=1), timedelta(minutes=1)])

AMOUNTS = st.builds(Amount, st.integers(0, 12), st.integers(0, 2), st.integers(0, 3))
LIMITS = st.tuples(st.none() | st.integers(1, 30), st.none() | st.integers(1, 8), st.none() | st.integers(1, 10))
PICK = st.integers(0, 1_000)


def usd(nano_usd: int) -> Decimal:
    return Decimal(nano_usd).scaleb(-9)


class BudgetMachine(RuleBasedStateMachine):
    """After any sequence of operations, tracker and model agree. (BUDGET-1, BUDGET-2, BUDGET-3, BUDGET-4, BUDGET-50,
    BUDGET-54)
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.clock = pytest.MonkeyPatch()
        self.clock.setattr(booking, "now", lambda: self.model.now)
        for module in (tracker, acquire, wait_queue):
            self.clock.setattr(module, "time", SimpleNamespace(monotonic=lambda: MONOTONIC))
        self.callers: list[Caller] = []
        self.over: dict[tuple[Node, int], int] = {}

    @initialize(period=PERIODS)
    def open_root(self, period: Period | None) -> None:
        root = self.open(25, total_calls=8, total_usd=usd(9), keep_entries=4, period=period)
        self.model.nodes.append(Node(root, None, [25, 8, 9], period=period))
        self.root = root

    def open(self, total: int, **details: Any) -> BudgetTracker:
        return BudgetTracker(total, **details)

    def node(self, pick: int) -> Node:
        return self.model.nodes[pick % len(self.model.nodes)]

    def some(self, pick: int) -> Kept:
        """An open hold that has been taken."""
        holds = [kept for kept in self.model.holds if kept.hold is not None]
        return holds[pick % len(holds)]

    def has_hold(self) -> bool:
        return any(kept.hold is not None for kept in self.model.holds)

    @rule(seconds=st.sampled_from([0.5, 1, 31, 59, 61, 600, 1_800, 3_600, 3_700]))
    def pass_time(self, seconds: float) -> None:
        self.model.now += seconds
        self.root.snapshot()
        self.model.scan()

    @rule(pick=PICK, limits=LIMITS, period=PERIODS)
    @precondition(lambda self: len(self.model.nodes) < 7)
    def child(self, pick: int, limits: tuple[int | None, int | None, int | None], period: Period | None) -> None:
        node = self.node(pick)
        tokens, calls, nano_usd = limits
        name = f"c{len(self.model.nodes)}"
        money = None if nano_usd is None else usd(nano_usd)
        tracker = node.tracker.child(name, tokens, total_calls=calls, total_usd=money, period=period)
        self.model.nodes.append(Node(tracker, node, list(limits), period=period))

    @rule(pick=PICK, limits=LIMITS.filter(any))
    @precondition(lambda self: len(self.model.nodes) < 7)
    def open_allotment(self, pick: int, limits: tuple[int | None, int | None, int | None]) -> None:
        parent = self.node(pick)
        tokens, calls, nano_usd = limits
        money = None if nano_usd is None else usd(nano_usd)
        name = f"s{len(self.model.nodes)}"
        allotment = parent.tracker.allot(name, tokens, total_calls=calls, total_usd=money)
        opened: list[BudgetTracker] = []
        size = Amount(*(limit or 0 for limit in limits))
        caller = Caller(parent, {0: size}, [], arrival=self.root.gate.arrive())
        reason = self.outcome(lambda: opened.append(contextvars.Context().run(allotment.__enter__)))
        self.model.join(caller, may_wait=False)
        assert reason == caller.error
        if caller.kept is not None:
            self.model.nodes.append(Node(opened.pop(), parent, list(limits), allotment=True))
            self.model.end(caller.kept, None)

    @rule(pick=PICK)
    @precondition(lambda self: len(self.model.nodes) > 3)
    def close(self, pick: int) -> None:
        node = self.model.nodes[1 + pick % (len(self.model.nodes) - 1)]
        node.tracker.close()
        node.closed_itself = True
        for at in self.model.nodes:
            at.allotment = at.allotment and not at.closed
        self.model.scan()

    @rule(pick=PICK, limits=LIMITS)
    def set_limits(self, pick: int, limits: tuple[int | None, int | None, int | None]) -> None:
        node = self.node(pick)
        tracker = node.tracker
        if node.allotment:
            return
        tokens, calls, nano_usd = limits
        money = None if nano_usd is None else usd(nano_usd)
        tracker.set_limits(total=tokens, total_calls=calls, total_usd=money)
        node.limits = list(limits)
        self.over.clear()
        self.model.scan()

    @rule(pick=PICK, amount=AMOUNTS)
    def record(self, pick: int, amount: Amount) -> None:
        node = self.node(pick)
        node.tracker.record(amount.tokens, calls=amount.calls, usd=amount.usd)
        self.model.bookings.append((node, amount, self.model.now))
        self.over.clear()
        self.model.scan()

    @rule(pick=PICK, tokens=st.integers(0, 12))
    def consume(self, pick: int, tokens: int) -> None:
        node = self.node(pick)
        caller = Caller(node, {0: Amount(tokens)}, [], arrival=self.root.gate.arrive())
        reason = self.outcome(lambda: node.tracker.consume(tokens))
        self.model.join(caller, may_wait=False)
        assert reason == caller.error
        if caller.kept is not None:
            self.model.end(caller.kept, Amount(tokens))

    @rule(pick=PICK, amount=AMOUNTS)
    def reserve(self, pick: int, amount: Amount) -> None:
        node = self.node(pick)
        caller = Caller(node, {0: amount}, [], arrival=self.root.gate.arrive())
        holds: list[Hold] = []

        def reserve() -> None:
            holds.append(node.tracker.reserve(amount.tokens, calls=amount.calls, usd=amount.usd))

        reason = self.outcome(lambda: contextvars.Context().run(reserve))
        self.model.join(caller, may_wait=False)
        assert reason == caller.error
        if caller.kept is not None:
            caller.kept.hold = holds.pop()

    @rule(
        pick=PICK,
        amount=AMOUNTS,
        elastic=st.none() | st.tuples(st.integers(1, 6), st.integers(0, 6)),
        own=st.lists(PICK, max_size=2, unique=True),
        late=st.booleans(),
        patience=st.sampled_from([FAR, NEAR]),
    )
    @precondition(lambda self: len(self.callers) < 8)
    def wait(
        self,
        pick: int,
        amount: Amount,
        elastic: tuple[int, int] | None,
        own: list[int],
        late: bool,
        patience: float,
    ) -> None:
        node = self.node(pick)
        owned = list({id(kept): kept for kept in map(self.some, own)}.values()) if self.has_hold() else []
        amounts, demand = {0: amount}, PlainDemand(*amount)
        if elastic is not None:
            least, more = elastic
            price = Price(prompt=0, completion=0, call=usd(amount.nano_usd))
            bound = Bound(prompt_tokens=amount.tokens, max_tokens=least + more, calls=1)
            amounts = {limit: bound.amount_at(limit, price) for limit in range(least, least + more + 1)}
            demand = BoundDemand(bound, least, price)
        arrival = self.root.gate.arrive()
        if late and self.callers:
            # Like a retry, this call has an old arrival number.
            arrival = min(caller.arrival for caller in self.callers) - 1
        holds = tuple(kept.hold for kept in owned if kept.hold is not None)
        deadline = MONOTONIC + patience
        waiter = Waiter(node.tracker, demand, CallFacts(), arrival=arrival, deadline=deadline, own=holds)
        caller = Caller(node, amounts, owned, arrival, patience, waiter)
        self.callers.append(caller)
        self.root.gate.queue(waiter, may_wait=True)
        self.model.join(caller, may_wait=True)

    @rule(pick=PICK)
    @precondition(lambda self: self.callers)
    def take(self, pick: int) -> None:
        caller = self.callers.pop(pick % len(self.callers))
        waiter = caller.waiter
        assert waiter is not None
        if caller in self.model.queue:
            self.model.leave(caller, "self_wait" if self.model.waits_for_itself(caller) else "wait_expired")
        holds: list[Hold] = []
        reason = self.outcome(lambda: holds.append(taken(self.root, waiter)))
        assert reason == caller.error
        if caller.kept is not None:
            caller.kept.hold = holds.pop()
            assert caller.kept.hold.bound == caller.kept.bound
            assert caller.amounts[caller.kept.hold.max_tokens or 0] == caller.kept.bound

    @rule(pick=PICK)
    @precondition(lambda self: self.callers)
    def abandon(self, pick: int) -> None:
        caller = self.callers.pop(pick % len(self.callers))
        assert caller.waiter is not None
        leave(self.root, caller.waiter)
        if caller in self.model.queue:
            self.model.leave(caller, "gone")
        elif caller.kept is not None:
            self.model.end(caller.kept, None)

    @rule(pick=PICK)
    @precondition(has_hold)
    def dispatch(self, pick: int) -> None:
        kept = self.some(pick)
        assert kept.hold is not None
        breached = any(self.model.breached(at, unit) for at in kept.node.path() for unit in UNITS)
        if breached and not kept.dispatched:
            assert not kept.hold.try_dispatch()
            self.model.end(kept, Amount())
        else:
            kept.hold.dispatch()
            kept.dispatched = True

    @rule(pick=PICK, actual=AMOUNTS, how=st.sampled_from(["below", "at", "any"]), again=st.booleans())
    @precondition(has_hold)
    def settle(self, pick: int, actual: Amount, how: str, again: bool) -> None:
        kept = self.some(pick)
        assert kept.hold is not None
        if how == "below":
            actual = Amount(*map(min, actual, kept.bound))
        elif how == "at":
            actual = kept.bound
        else:
            self.over.clear()
        for _ in range(1 + again):
            kept.hold.settle(actual.tokens, calls=actual.calls, usd=actual.usd)
        self.model.end(kept, actual)

    @rule(pick=PICK)
    @precondition(has_hold)
    def release(self, pick: int) -> None:
        kept = self.some(pick)
        assert kept.hold is not None
        kept.hold.release()
        kept.hold.presume()
        self.model.end(kept, Amount())

    @rule(pick=PICK)
    @precondition(has_hold)
    def presume(self, pick: int) -> None:
        kept = self.some(pick)
        assert kept.hold is not None
        kept.hold.presume()
        kept.hold.release()
        assert kept.hold.entry is not None
        self.model.presumptions[kept.hold.entry.id] = (kept.node, kept.bound, self.model.now)
        self.model.end(kept, kept.bound)

    @rule(pick=PICK)
    @precondition(has_hold)
    def lose(self, pick: int) -> None:
        kept = self.some(pick)
        if any(kept in caller.own for caller in self.callers):
            return
        kept.hold = None
        self.root.snapshot()
        if kept.dispatched:
            last = list(self.root.ledger)[-1]
            self.model.presumptions[last.id] = (kept.node, kept.bound, self.model.now)
        self.model.end(kept, kept.bound if kept.dispatched else Amount())

    @rule(pick=PICK, actual=AMOUNTS)
    @precondition(lambda self: self.model.presumptions)
    def correct(self, pick: int, actual: Amount) -> None:
        entry_id = sorted(self.model.presumptions)[pick % len(self.model.presumptions)]
        node, presumed, when = self.model.presumptions.pop(entry_id)
        self.root.correct(entry_id, actual.tokens, calls=actual.calls, usd=actual.usd)
        self.model.correct(node, actual.minus(presumed), when)
        self.over.clear()
        self.model.scan()
        try:
            self.root.correct(entry_id, 0)
        except LLMConfigurationError:
            return
        raise AssertionError("an entry was corrected twice")

    @staticmethod
    def outcome(call: Callable[[], object]) -> str | None:
        try:
            call()
        except LLMBudgetExceededError as error:
            return error.reason
        return None

    @invariant()
    def figures_agree(self) -> None:
        for node in self.model.nodes:
            snapshot = node.tracker.snapshot()
            for name in ("spent", "held", "presumed", "allotted"):
                expected = tuple(getattr(self.model, name)(node, unit) for unit in UNITS)
                assert tuple(getattr(snapshot, name)) == expected, (name, node.tracker.path)
            assert limits_of(snapshot) == node.limits
            assert snapshot.period == node.period
            assert snapshot.closed == node.closed
            assert snapshot.breached == any(self.model.breached(node, unit) for unit in UNITS)
            assert snapshot.waiting == sum(node in caller.node.path() for caller in self.model.queue)

    @invariant()
    def callers_agree(self) -> None:
        for caller in self.callers:
            waiter = caller.waiter
            assert waiter is not None
            assert waiter.waiting == (caller in self.model.queue)
            assert (waiter.error and waiter.error.reason) == caller.error
            assert (waiter.hold and waiter.hold.bound) == (caller.kept and caller.kept.bound)

    @invariant()
    def limits_are_kept(self) -> None:
        """Beyond a limit only by an overrun, a record, a correction or a lowered limit, and never further."""
        for node in self.model.nodes:
            for unit, limit in enumerate(node.limits):
                if limit is not None:
                    account = node.tracker.own_accounts[unit]
                    over = max(0, account.spent + account.held + account.allotted - limit)
                    assert over <= self.over.get((node, unit), over)
                    self.over[node, unit] = over

    @invariant()
    def entries_add_up(self) -> None:
        ledger = self.root.ledger
        total = ledger.earlier
        for entry in ledger:
            total = total.plus(entry.amount)
        assert total == self.root.snapshot().spent

    def teardown(self) -> None:
        for caller in self.callers:
            assert caller.waiter is not None
            leave(self.root, caller.waiter)
        for kept in self.model.holds:
            if kept.hold is not None:
                kept.hold.release()
        self.root.close()
        left = self.root.snapshot()
        self.clock.undo()
        assert (left.held, left.allotted, left.waiting) == (Amount(), Amount(), 0)


BudgetMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
#: The model adds all bookings up at every step, which may be slow on a busy machine.
TestBudgetMachine = pytest.mark.timeout(900)(BudgetMachine.TestCase)
