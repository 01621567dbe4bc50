"""Reports on the budgets of a store, as plain data. Money is text, which keeps every digit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.periods import describe_period
from llm_connect.budget.accounting.windows import Window
from llm_connect.stores.serialization import labels_of
from llm_connect.types.amounts import Amount, usd_of


class Report(Protocol):
    """A report on a store, read without changing anything."""

    def budgets(self) -> list[dict[str, Any]]:
        """All budgets of the store, each with the number of its open holds and of the stale ones among them."""
        ...

    def budget(self, name: str) -> dict[str, Any]:
        """One budget: its trackers, its open holds, and its spend by adapter, model and label."""
        ...

    def entries(self, name: str, last: int) -> list[dict[str, Any]]:
        """The last entries of the ledger, oldest first."""
        ...

    def number(self, name: str) -> int:
        """Return the number of a budget. Raises LLMConfigurationError if the store has none of that name."""
        ...


def figures_data(figures: Sequence[int | None]) -> dict[str, dict[str, Any]]:
    """The limit, spent, held, remaining, presumed and allotted amounts of each unit."""
    units = {}
    for place, unit in enumerate(("tokens", "calls", "usd")):
        limit, *used = figures[5 * place : 5 * place + 5]
        spent, held, presumed, allotted = (figure or 0 for figure in used)
        left = None if limit is None else max(0, limit - spent - held - allotted)
        named = {"limit": limit, "spent": spent, "held": held, "left": left, "presumed": presumed, "allotted": allotted}
        units[unit] = {name: _usd(value) for name, value in named.items()} if unit == "usd" else named
    return units


def windowed_data(window: Window, figures: Sequence[int | None]) -> dict[str, Any]:
    """The present figures of a tracker with a window. The store may not yet have booked the spend that has left it."""
    now = list(figures)
    spent, presumed = Amount(*figures[1::5]), Amount(*figures[3::5])  # type: ignore[arg-type]
    plan = Plan()
    gone = window.move(plan, window.clock(), spent, presumed, lambda: 0)
    plan.carry_out()
    for part in gone:
        now[1::5] = Amount(*now[1::5]).minus(part.spent)  # type: ignore[arg-type]
        now[3::5] = Amount(*now[3::5]).minus(part.presumed)  # type: ignore[arg-type]
    opens_at = datetime.fromtimestamp(window.opens_at, UTC).isoformat()
    return {"period": describe_period(window.period), "opens_at": opens_at, **figures_data(now)}


def hold_data(now: float, path: str, state: str, tokens: int, calls: int, nano_usd: int, *rest: Any) -> dict[str, Any]:
    """An open hold; it is stale if the lease of its process has ended."""
    adapter, model, labels, reserved_at, host, pid, expires_at = rest
    return {
        "tracker": path,
        "state": state,
        "tokens": tokens,
        "calls": calls,
        "usd": _usd(nano_usd),
        "adapter": adapter,
        "model": model,
        "labels": labels_of(labels),
        "host": host,
        "pid": pid,
        "age_seconds": round(now - reserved_at, 1),
        "stale": expires_at is None or expires_at <= now,
    }


def sum_data(entries: int, amount: Amount) -> dict[str, Any]:
    """The number and the sum of some ledger entries."""
    return {"entries": entries, "tokens": amount.tokens, "calls": amount.calls, "usd": _usd(amount.nano_usd)}


def _usd(nano_usd: int | None) -> str | None:
    return None if nano_usd is None else f"{usd_of(nano_usd):f}"
