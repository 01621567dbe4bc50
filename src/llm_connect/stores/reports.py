"""Reports on the budgets of a store, as plain data. Money is text, which keeps every digit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.ledger import By, Total
from llm_connect.budget.accounting.windows import Window, describe_period
from llm_connect.stores.serialization import Row, labels_of
from llm_connect.types.amounts import Amount, usd_of

_BY: tuple[By, ...] = ("adapter", "model", "label")


class Report(ABC):
    """A report on a store, read without changing anything."""

    def budgets(self) -> list[dict[str, Any]]:
        """All budgets of the store, each with the number of its open holds and of the stale ones among them."""
        found = []
        for name in self._names():
            # Its path is the shortest, so the root comes first.
            (_, figures), *_ = self._trackers(name)
            holds = self._holds(name)
            stale = sum(hold["stale"] for hold in holds)
            found.append({"name": name, **figures, "holds": len(holds), "stale_holds": stale})
        return found

    def budget(self, name: str) -> dict[str, Any]:
        """One budget: its trackers, its open holds, and its spend by adapter, model and label."""
        self.number(name)
        trackers = [
            {"path": path, "closed": bool(closed), "allotment": lease is not None, **figures}
            for (path, closed, lease), figures in self._trackers(name)
        ]
        spent_by = {by: {what: sum_data(*total) for what, total in self._totals(name, by).items()} for by in _BY}
        return {"name": name, "trackers": trackers, "holds": self._holds(name), "spent_by": spent_by}

    @abstractmethod
    def entries(self, name: str, last: int) -> list[dict[str, Any]]:
        """The last entries of the ledger, oldest first."""

    @abstractmethod
    def number(self, name: str) -> int:
        """Return the number of a budget. Raises LLMConfigurationError if the store has none of that name."""

    @abstractmethod
    def _names(self) -> list[str]:
        """The names of all budgets."""

    @abstractmethod
    def _trackers(self, name: str) -> list[tuple[Row, dict[str, Any]]]:
        """The trackers of a budget by path: path, closed flag and lease of each, and its figures."""

    @abstractmethod
    def _holds(self, name: str) -> list[dict[str, Any]]:
        """The open holds of a budget."""

    @abstractmethod
    def _totals(self, name: str, by: By) -> dict[str, Total]:
        """The sums of a budget's entries."""


def figures_data(figures: Sequence[int | None], window: Window | None) -> dict[str, Any]:
    """The present figures of a tracker, with its period if it has one."""
    return _units_data(figures) if window is None else _windowed_data(window, figures)


def _units_data(figures: Sequence[int | None]) -> dict[str, dict[str, Any]]:
    """The limit, spent, held, remaining, presumed and allotted amounts of each unit."""
    units = {}
    for place, unit in enumerate(("tokens", "calls", "usd")):
        limit, *used = figures[5 * place : 5 * place + 5]
        spent, held, presumed, allotted = (figure or 0 for figure in used)
        left = None if limit is None else max(0, limit - spent - held - allotted)
        named = {"limit": limit, "spent": spent, "held": held, "left": left, "presumed": presumed, "allotted": allotted}
        units[unit] = {name: _usd(value) for name, value in named.items()} if unit == "usd" else named
    return units


def _windowed_data(window: Window, figures: Sequence[int | None]) -> dict[str, Any]:
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
    return {"period": describe_period(window.period), "opens_at": opens_at, **_units_data(now)}


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
