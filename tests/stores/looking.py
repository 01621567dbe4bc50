"""Reads a store, and changes it behind the back of its users."""

from __future__ import annotations

import json
import math
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llm_connect.budget.accounting.bounds import NO_FACTS, PlainDemand
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMStoreError
from llm_connect.stores.opening import new_session
from llm_connect.stores.redis.session import ServerSession
from llm_connect.stores.session import StoreSession
from llm_connect.stores.sqlite.session import FileSession


def session_of(budget: BudgetTracker) -> Any:
    session = budget.gate.session  # type: ignore[attr-defined]
    assert isinstance(session, StoreSession)
    return session


def second(budget: BudgetTracker) -> BudgetTracker:
    """Open the same budget once more, as another process would."""
    session = session_of(budget)
    return new_session(session.terms).tracker(session.root)  # type: ignore[no-any-return]


@contextmanager
def alone(session: Any) -> Iterator[None]:
    """Keep the lock of a budget, without a transaction."""
    session.gate._lock.wait()
    try:
        yield
    finally:
        session.gate._lock.release()


def end_leases(budget: BudgetTracker) -> None:
    """Make all leases expire."""
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
    """The time at which the last lease in the store ends, by the store's clock."""
    session = session_of(budget)
    with alone(session):
        if isinstance(session, FileSession):
            return float(session.connection.execute("SELECT max(expires_at) FROM leases").fetchone()[0])
        return float(session.fetch("ZRANGE", "leases", -1, -1, "WITHSCORES")[1]) / 1000


def told(budget: BudgetTracker) -> list[tuple[int]]:
    """The tokens of the waiting callers in the store, in order of arrival."""
    session = session_of(budget)
    if isinstance(session, FileSession):
        return session.read_rows("SELECT tokens FROM waiters ORDER BY arrived_at", ())  # type: ignore[no-any-return]
    budget.snapshot()
    with alone(session):
        rows = [json.loads(text.decode().split(" ", 1)[1]) for text in session.fetch("HVALS", "waiters")]
    return [(tokens,) for _, _, tokens, *_ in sorted(rows, key=lambda row: row[1])]


def stop(process: subprocess.Popen[str], budget: BudgetTracker) -> None:
    """Stop a process while it does not have the store to itself."""
    while True:
        process.send_signal(signal.SIGSTOP)
        try:
            budget.snapshot()
            return
        except LLMStoreError:
            process.send_signal(signal.SIGCONT)


def let_wait(budget: BudgetTracker, tokens: int, seconds: float) -> None:
    """Add a waiting caller of a process that no longer exists."""
    session = session_of(budget)
    waiter = Waiter(budget, PlainDemand(tokens, 1), NO_FACTS, arrival=0, deadline=math.inf, own=())

    def tell() -> None:
        session.waiters._write(None, waiter, seconds)
        if isinstance(session, ServerSession):
            (caller,) = session.changes._said.pop("told")
            session.changes.say("told", ("nobody.1", *caller[1:]))

    session.gate.run(tell)


def stored(budget: BudgetTracker, what: str) -> int:
    """The number of holds or leases in the store."""
    session = session_of(budget)
    with alone(session):
        if isinstance(session, FileSession):
            return int(session.connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0])
        return int(session.fetch({"holds": "HLEN", "leases": "ZCARD"}[what], what))
