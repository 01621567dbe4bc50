"""What stands in a store, and changing it behind the back of those who use it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llm_connect.budget.accounting.demands import NO_FACTS, PlainDemand
from llm_connect.budget.admission.waiters import Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.budgets import new_gate
from llm_connect.stores.gate import StoreGate
from llm_connect.stores.redis.gate import RedisGate
from llm_connect.stores.sqlite.gate import SqliteGate


def gate_of(budget: BudgetTracker) -> Any:
    assert isinstance(budget.gate, StoreGate)
    return budget.gate


def second(budget: BudgetTracker) -> BudgetTracker:
    """The same budget as another process has it, seen from here."""
    gate = gate_of(budget)
    return new_gate(gate.terms).tracker(gate.root)  # type: ignore[no-any-return]


@contextmanager
def alone(gate: Any) -> Iterator[None]:
    """The lock of a gate, without a transaction."""
    gate._lock.wait()
    try:
        yield
    finally:
        gate._lock.release()


def end_leases(budget: BudgetTracker) -> None:
    """Let all leases be over."""
    gate = gate_of(budget)
    with alone(gate):
        if isinstance(gate, SqliteGate):
            gate.connection.execute("UPDATE leases SET expires_at = 0")
            gate.leases._next_look = 0.0
        else:
            assert isinstance(gate, RedisGate)
            for lease in gate.fetch("ZRANGE", "leases", 0, -1):
                gate.fetch("ZADD", "leases", "XX", 0, lease)


def leases_end(budget: BudgetTracker) -> float:
    """When the last lease that stands there is over, by the clock of the store."""
    gate = gate_of(budget)
    with alone(gate):
        if isinstance(gate, SqliteGate):
            return float(gate.connection.execute("SELECT max(expires_at) FROM leases").fetchone()[0])
        return float(gate.fetch("ZRANGE", "leases", -1, -1, "WITHSCORES")[1]) / 1000


def told(budget: BudgetTracker) -> list[tuple[int]]:
    """The tokens for which callers wait, as the processes have told each other, in order of arrival."""
    gate = gate_of(budget)
    if isinstance(gate, SqliteGate):
        return gate.read_rows("SELECT tokens FROM waiters ORDER BY arrived_at", ())  # type: ignore[no-any-return]
    budget.snapshot()
    with alone(gate):
        rows = [json.loads(text.decode().split(" ", 1)[1]) for text in gate.fetch("HVALS", "waiters")]
    return [(tokens,) for _, _, tokens, *_ in sorted(rows, key=lambda row: row[1])]


def let_wait(budget: BudgetTracker, tokens: int, seconds: float) -> None:
    """Let it look as if a process that nobody hears of again had told of a caller."""
    gate = gate_of(budget)
    waiter = Waiter(budget, PlainDemand(tokens, 1), NO_FACTS, arrival=0, deadline=math.inf, own=())

    def tell() -> None:
        gate.waiters._write(None, waiter, seconds)
        if isinstance(gate, RedisGate):
            (caller,) = gate.changes._further.pop("told")
            gate.changes.tell("nobody.1", *caller[1:])

    gate._run(tell)


def stored(budget: BudgetTracker, what: str) -> int:
    """How many holds or leases stand in the store."""
    gate = gate_of(budget)
    with alone(gate):
        if isinstance(gate, SqliteGate):
            return int(gate.connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0])
        return int(gate.fetch({"holds": "HLEN", "leases": "ZCARD"}[what], what))
