"""Random sequences of operations on a budget in a store, compared with the model of a budget in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, precondition, rule

from llm_connect.budget.accounting.windows import Period
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.opening import new_session, open_budget
from llm_connect.stores.session import StoreSession
from llm_connect.types.amounts import Amount
from tests.budget.budget_model import Node
from tests.budget.stores import new_url, temporary_folder
from tests.budget.test_budget_machine import PICK, BudgetMachine
from tests.stores.read_back import assert_written

pytestmark = pytest.mark.slow


class StoreBudgetMachine(BudgetMachine):
    """After any sequence of operations, the tracker in a store agrees with the model (STORE-1)."""

    store: str

    def open(self, total: int, **details: Any) -> BudgetTracker:
        self.folder = temporary_folder()
        self.url = new_url(self.store, Path(self.folder.name))
        return open_budget(self.url, total=total, **details)

    @rule()
    def read_back(self) -> None:
        assert_written(self.url, self.root, [node.tracker for node in self.model.nodes])

    def teardown(self) -> None:
        self.read_back()
        super().teardown()
        self.root.gate.session.shut()  # type: ignore[attr-defined]
        self.folder.cleanup()


@dataclass(eq=False)
class SharedNode:
    """The model of a tracker that two processes use in turn."""

    first: BudgetTracker
    parent: Any
    limits: list[int | None]
    other: StoreSession
    closed_itself: bool = False
    allotment: bool = False
    period: Period | None = None
    turn: bool = False

    above = Node.above
    path = Node.path
    closed = Node.closed
    needs = Node.needs
    counts_until = Node.counts_until

    @property
    def tracker(self) -> BudgetTracker:
        self.turn = not self.turn
        return self.other.tracker(self.first.number) if self.turn and self.first.number else self.first


class Nodes(list[Any]):
    """Wraps each node as one that two processes use."""

    def __init__(self, machine: TwoProcessesMachine) -> None:
        super().__init__()
        self._machine = machine

    def append(self, node: Node) -> None:
        first, other = node.tracker, self._machine.other
        if first.gate.session is other:
            other.handle(first)
            mine = self._machine.root.gate.session  # type: ignore[attr-defined]
            assert isinstance(mine, StoreSession)
            first = mine.tracker(first.number)
        super().append(
            SharedNode(first, node.parent, node.limits, other, node.closed_itself, node.allotment, node.period)
        )


class TwoProcessesMachine(StoreBudgetMachine):
    """Two processes that use one budget in turn see the same figures as the model (STORE-1)."""

    wait = take = abandon = None  # Across processes, the order of waiting callers is best effort.

    def open(self, total: int, **details: Any) -> BudgetTracker:
        self.root = root = super().open(total, **details)
        session = root.gate.session  # type: ignore[attr-defined]
        assert isinstance(session, StoreSession)
        self.other = new_session(session.terms)
        self.model.nodes = Nodes(self)
        return root

    @rule(pick=PICK)
    @precondition(BudgetMachine.has_hold)
    def lose(self, pick: int) -> None:
        kept = self.some(pick)
        assert kept.hold is not None
        tracker, kept.hold = kept.hold.tracker, None
        tracker.snapshot()
        if kept.dispatched:
            last = list(self.root.ledger)[-1]
            self.model.presumptions[last.id] = (kept.node, kept.bound, self.model.now)
        self.model.end(kept, kept.bound if kept.dispatched else Amount())

    @invariant()
    def limits_are_kept(self) -> None:
        """Skip this check: each process may have old figures, and the file was compared above."""

    @invariant()
    def both_agree(self) -> None:
        for node in self.model.nodes:
            assert node.tracker.snapshot() == node.tracker.snapshot()

    def teardown(self) -> None:
        # Each process returns its own allotments.
        self.other.tracker(self.other.root).close()
        super().teardown()
        self.other.shut()


def case(machine: type[StoreBudgetMachine], of_store: str) -> Any:
    """Make the test case of a machine with one kind of store."""
    of_each = type(
        f"{machine.__name__}Of{of_store.title()}",
        (machine,),
        {"store": of_store, "__doc__": machine.__doc__},
    )
    of_each.TestCase.settings = settings(
        max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    return pytest.mark.timeout(900)(of_each.TestCase)


TestSqliteBudgetMachine = case(StoreBudgetMachine, "sqlite")
TestRedisBudgetMachine = case(StoreBudgetMachine, "redis")
TestTwoSqliteProcesses = case(TwoProcessesMachine, "sqlite")
TestTwoRedisProcesses = case(TwoProcessesMachine, "redis")
