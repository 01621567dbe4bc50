"""Any sequence of budget operations on a budget in a file, against the same model as in memory."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, precondition, rule

from llm_connect.core.budget import BudgetTracker
from llm_connect.core.periods import Period
from llm_connect.core.units import Amount
from llm_connect.stores.opening import open_budget
from llm_connect.stores.sqlite.gate import SqliteGate
from tests.core.conftest import fast_folder
from tests.core.test_budget_machine import PICK, BudgetMachine, Node


class SqliteBudgetMachine(BudgetMachine):
    """Whatever happens in whatever order, tracker and model agree in a file, too (STORE-1)."""

    def open(self, total: int, **details: Any) -> BudgetTracker:
        self.folder = tempfile.mkdtemp(prefix="llm-connect-", dir=fast_folder())
        return open_budget(f"sqlite:///{self.folder}/budget.db", total=total, **details)

    def teardown(self) -> None:
        super().teardown()
        self.root.gate.shut()  # type: ignore[attr-defined]
        shutil.rmtree(self.folder)


SqliteBudgetMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSqliteBudgetMachine = pytest.mark.timeout(300)(SqliteBudgetMachine.TestCase)


@dataclass(eq=False)
class SharedNode:
    """The model of a tracker that two processes use by turns."""

    first: BudgetTracker
    parent: Any
    limits: list[int | None]
    other: SqliteGate
    closed_itself: bool = False
    slice: bool = False
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
    """Takes each node as one that two processes use."""

    def __init__(self, machine: TwoProcessesMachine) -> None:
        super().__init__()
        self._machine = machine

    def append(self, node: Node) -> None:
        first, other = node.tracker, self._machine.other
        if first.gate is other:
            with other.lock:
                other.trackers.number_of(first)
            mine = self._machine.root.gate
            assert isinstance(mine, SqliteGate)
            first = mine.tracker(first.number)
        super().append(SharedNode(first, node.parent, node.limits, other, node.closed_itself, node.slice, node.period))


class TwoProcessesMachine(SqliteBudgetMachine):
    """Two processes that use one budget by turns see the same, and what the model says (STORE-1)."""

    wait = take = abandon = None  # Across processes the order of those who wait is best effort.

    def open(self, total: int, **details: Any) -> BudgetTracker:
        self.root = root = super().open(total, **details)
        gate = root.gate
        assert isinstance(gate, SqliteGate)
        self.other = SqliteGate(gate.terms, gate.budget, gate.on_unknown, gate.root)
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
        """The figures that each of them knew last may be old: what the file says is compared above."""

    @invariant()
    def both_agree(self) -> None:
        for node in self.model.nodes:
            assert node.tracker.snapshot() == node.tracker.snapshot()

    def teardown(self) -> None:
        # Each process returns its own slices.
        self.other.tracker(self.other.root).close()
        super().teardown()
        self.other.shut()


TwoProcessesMachine.TestCase.settings = SqliteBudgetMachine.TestCase.settings
TestTwoProcessesMachine = pytest.mark.timeout(300)(TwoProcessesMachine.TestCase)
