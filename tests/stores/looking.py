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
from llm_connect.stores.budgets import new_session
from llm_connect.stores.redis.session import ServerSession
from llm_connect.stores.session import StoreSession
from llm_connect.stores.sqlite.session import FileSession


def session_of(budget: BudgetTracker) -> Any:
    session = budget.gate.session  # type: ignore[attr-defined]
    assert isinstance(session, StoreSession)
    return session


def second(budget: BudgetTracker) -> BudgetTracker:
    """The same budget as another process has it, seen from here."""
    session = session_of(budget)
    return new_session(session.terms).tracker(session.root)  # type: ignore[no-any-return]


@contextmanager
def alone(session: Any) -> Iterator[None]:
    """The lock of a budget, without a transaction."""
    session.gate._lock.wait()
    try:
        yield
    finally:
        session.gate._lock.release()


def end_leases(budget: BudgetTracker) -> None:
    """Let all leases be over."""
    session = session_of(budget)
    with alone(session):
        if isinstance(session, FileSession):
            session.connection.execute("UPDATE leases SET expires_at = 0")
            session.leases._next_look = 0.0
        else:
            assert isinstance(session, ServerSession)
            for lease in session.fetch("ZRANGE", "leases", 0, -1):
                session.fetch("ZADD", "leases", "XX", 0, lease)


def leases_end(budget: BudgetTracker) -> float:
    """When the last lease that stands there is over, by the clock of the store."""
    session = session_of(budget)
    with alone(session):
        if isinstance(session, FileSession):
            return float(session.connection.execute("SELECT max(expires_at) FROM leases").fetchone()[0])
        return float(session.fetch("ZRANGE", "leases", -1, -1, "WITHSCORES")[1]) / 1000


def told(budget: BudgetTracker) -> list[tuple[int]]:
    """The tokens for which callers wait, as the processes have told each other, in order of arrival."""
    session = session_of(budget)
    if isinstance(session, FileSession):
        return session.read_rows("SELECT tokens FROM waiters ORDER BY arrived_at", ())  # type: ignore[no-any-return]
    budget.snapshot()
    with alone(session):
        rows = [json.loads(text.decode().split(" ", 1)[1]) for text in session.fetch("HVALS", "waiters")]
    return [(tokens,) for _, _, tokens, *_ in sorted(rows, key=lambda row: row[1])]


def let_wait(budget: BudgetTracker, tokens: int, seconds: float) -> None:
    """Let it look as if a process that nobody hears of again had told of a caller."""
    session = session_of(budget)
    waiter = Waiter(budget, PlainDemand(tokens, 1), NO_FACTS, arrival=0, deadline=math.inf, own=())

    def tell() -> None:
        session.waiters._write(None, waiter, seconds)
        if isinstance(session, ServerSession):
            (caller,) = session.changes._further.pop("told")
            session.changes.say("told", ("nobody.1", *caller[1:]))

    session.gate.run(tell)


def stored(budget: BudgetTracker, what: str) -> int:
    """How many holds or leases stand in the store."""
    session = session_of(budget)
    with alone(session):
        if isinstance(session, FileSession):
            return int(session.connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0])
        return int(session.fetch({"holds": "HLEN", "leases": "ZCARD"}[what], what))
