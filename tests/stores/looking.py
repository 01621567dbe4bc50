"""What stands in a store, and changing it behind the back of those who use it."""

from __future__ import annotations

from typing import Any

from llm_connect.core.budget import BudgetTracker
from llm_connect.stores.gate import StoreGate
from llm_connect.stores.redis.gate import RedisGate
from llm_connect.stores.sqlite.gate import SqliteGate


def gate_of(budget: BudgetTracker) -> Any:
    assert isinstance(budget.gate, StoreGate)
    return budget.gate


def second(budget: BudgetTracker) -> BudgetTracker:
    """The same budget as another process has it, seen from here."""
    gate = gate_of(budget)
    return gate.terms.gate().tracker(gate.root)  # type: ignore[no-any-return]


def end_leases(budget: BudgetTracker) -> None:
    """Let all leases be over."""
    gate = gate_of(budget)
    with gate.lock.no_transaction():
        if isinstance(gate, SqliteGate):
            gate.connection.execute("UPDATE leases SET expires_at = 0")
            gate.leases._next_look = 0.0
        else:
            assert isinstance(gate, RedisGate)
            for lease in gate.fetch("ZRANGE", "leases", 0, -1):
                gate.fetch("ZADD", "leases", "XX", 0, lease)


def stored(budget: BudgetTracker, what: str) -> int:
    """How many holds or leases stand in the store."""
    gate = gate_of(budget)
    with gate.lock.no_transaction():
        if isinstance(gate, SqliteGate):
            return int(gate.connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0])
        return int(gate.fetch({"holds": "HLEN", "leases": "ZCARD"}[what], what))
