"""The budgets in a file: made by the first who opens one, joined by the others."""

from __future__ import annotations

import sqlite3
import threading
import time
import weakref
from contextlib import closing
from typing import TYPE_CHECKING, Any

from llm_connect.core.budget import BudgetTracker
from llm_connect.core.checks import check_name
from llm_connect.core.exceptions import LLMConfigurationError, LLMStoreError
from llm_connect.core.periods import period_said
from llm_connect.core.units import UNITS, shown
from llm_connect.core.windows import Window
from llm_connect.stores.sqlite.gate import SqliteGate
from llm_connect.stores.sqlite.rows import FIND_BUDGET, NEW_BUDGET, NEW_ROOT
from llm_connect.stores.sqlite.schema import begin, connect, store_error, url_of
from llm_connect.stores.sqlite.terms import Terms
from llm_connect.stores.sqlite.windows import write_window

if TYPE_CHECKING:
    from llm_connect.core.admission import OnUnknown
    from llm_connect.core.demand import CallFacts
    from llm_connect.core.limits import Limits
    from llm_connect.core.periods import Period

_NO_LIMITS = (None, None, None)
#: The gates of this process, by file and name: callers of one process wait in one line.
_open: weakref.WeakValueDictionary[tuple[str, str], SqliteGate] = weakref.WeakValueDictionary()
_opening = threading.RLock()


def open_root(
    terms: Terms, limits: Limits, period: Period | None, on_unknown: OnUnknown, *, change_limits: bool
) -> BudgetTracker:
    """The budget that these terms name. Raises LLMConfigurationError when its limits, or their period, are others."""
    check_name(terms.name)
    with _opening:
        made = _make(terms, limits, period, on_unknown)
        gate = _gate(terms)
        root = gate.tracker(gate.root)
    if gate.terms != terms:
        raise LLMConfigurationError(f"Budget {terms.name!r} is open in this process already, on other terms.")
    found: Limits = tuple(account.limit for account in root.own_accounts)  # type: ignore[assignment]
    same_period = period == root.period
    if made or (limits == found and same_period) or (limits == _NO_LIMITS and (same_period or period is None)):
        return root
    if not change_limits or not same_period:
        raise LLMConfigurationError(
            f"Budget {terms.name!r} of {url_of(terms.path)} has {_said(found, root.period)}, not "
            f"{_said(limits, period)}: open it with the same limits or with none, or change them for all with "
            "change_limits=True. Its period stays."
        )
    root.gate.change_limits(root, dict(zip(root.own_accounts, limits, strict=True)))
    return root


def reopen(terms: Terms, number: int) -> BudgetTracker:
    """The tracker of this number: what a pickled one becomes."""
    with _opening:
        return _gate(terms).tracker(number)


def forget_spending(path: str, name: str, facts: CallFacts) -> None:
    """Take what a budget has spent off its books, by entries with these facts."""
    with _opening:
        gate = _gate(Terms(path=path, name=name, prices={}))
    gate.reset(facts)


def _gate(terms: Terms) -> SqliteGate:
    """The gate of this process for a budget that has been made."""
    gate = _open.get((terms.path, terms.name))
    if gate is None or gate.closed:
        budget, on_unknown, root = _read(terms)
        gate = SqliteGate(terms, budget, on_unknown, root)
        _open[terms.path, terms.name] = gate
    return gate


def _read(terms: Terms) -> tuple[int, OnUnknown, int]:
    """The number of a budget, what it does with unknown outcomes, and the number of its root."""
    with closing(connect(terms.path, terms.busy_seconds)) as connection:
        row = _found(connection, terms.name)
    if row is None:
        raise LLMStoreError(f"{url_of(terms.path)} has no budget {terms.name!r}: open_budget makes it.")
    return int(row[0]), row[1], int(row[2])


def _make(terms: Terms, limits: Limits, period: Period | None, on_unknown: OnUnknown) -> bool:
    """Make the budget; False when it is there."""
    try:
        with closing(connect(terms.path, terms.busy_seconds)) as connection:
            if _found(connection, terms.name) is not None:
                return False
            begin(connection, terms.busy_seconds)
            if _found(connection, terms.name) is not None:
                return False
            values = (terms.name, on_unknown, time.time())
            budget = connection.execute(NEW_BUDGET, values).lastrowid
            root = connection.execute(NEW_ROOT, (budget, terms.name, terms.name, *limits)).lastrowid
            assert root is not None
            write_window(connection, root, None if period is None else Window(period))
            connection.execute("COMMIT")
            return True
    except sqlite3.Error as error:
        raise store_error(terms.path, error) from None


def _found(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(FIND_BUDGET, (name,)).fetchone()


def _said(limits: Limits, period: Period | None) -> str:
    """Limits as a person reads them."""
    said = [shown(unit, limit) for unit, limit in zip(UNITS, limits, strict=True) if limit is not None]
    text = " and ".join(said) or "no limit"
    return text if period is None else f"{text} {period_said(period)}"
