"""The budgets that this process has open. The first process to open a budget creates it; the others join it."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, TypeAlias

from llm_connect._validation import check_name
from llm_connect.budget.accounting.periods import describe_period
from llm_connect.budget.admission.log import UNLIMITED, log_event
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.redis.terms import ServerTerms
from llm_connect.stores.session import StoreSession
from llm_connect.stores.sqlite.terms import FileTerms
from llm_connect.types.amounts import UNITS, shown

if TYPE_CHECKING:
    from llm_connect.budget.accounting.arguments import Limits
    from llm_connect.budget.accounting.demands import CallFacts
    from llm_connect.budget.accounting.periods import Period
    from llm_connect.budget.admission.controller import OnUnknown

#: The options of each kind of store.
StoreTerms: TypeAlias = FileTerms | ServerTerms
_NO_LIMITS = (None, None, None)
#: The sessions of this process, by store and name. All callers of a budget share one, and so one wait queue.
_open: weakref.WeakValueDictionary[tuple[str, str], StoreSession] = weakref.WeakValueDictionary()
_opening = threading.RLock()


def open_root(
    terms: StoreTerms, limits: Limits, period: Period | None, on_unknown: OnUnknown, *, change_limits: bool
) -> BudgetTracker:
    """Open the budget with these options. Raises LLMConfigurationError if its limits or its period differ."""
    check_name(terms.name)
    with _opening:
        made = _make(terms, limits, period, on_unknown)
        session = _session(terms)
        root = session.tracker(session.root)
    if session.terms != terms:
        raise LLMConfigurationError(f"Budget {terms.name!r} is already open in this process with other settings.")
    if made and limits == _NO_LIMITS:
        log_event(UNLIMITED, root.gate.owed, path=root.path, store=terms.shown)
    found: Limits = tuple(account.limit for account in root.own_accounts)  # type: ignore[assignment]
    same_period = period == root.period
    if made or (limits == found and same_period) or (limits == _NO_LIMITS and (same_period or period is None)):
        return root
    if not change_limits or not same_period:
        raise LLMConfigurationError(
            f"Budget {terms.name!r} of {terms.shown} has {_said(found, root.period)}, not {_said(limits, period)}: "
            "open it with the same limits or without any, or change them for all processes with change_limits=True. "
            "Its period cannot change."
        )
    root.gate.change_limits(root, dict(zip(root.own_accounts, limits, strict=True)))
    return root


def reopen(terms: StoreTerms, number: int) -> BudgetTracker:
    """The tracker with this number; a pickled tracker becomes this one."""
    with _opening:
        return _session(terms).tracker(number)


def forget_spending(terms: StoreTerms, facts: CallFacts) -> None:
    """Reset the spend of a budget to zero, by ledger entries with these facts."""
    with _opening:
        session = _session(terms)
    session.reset(facts)


def _session(terms: StoreTerms) -> StoreSession:
    """The session of this process for an existing budget."""
    key = (terms.shown, terms.name)
    session = _open.get(key)
    if session is None or session.closed or session.gone:
        session = _open[key] = new_session(terms)
    return session


def new_session(terms: StoreTerms) -> StoreSession:
    """A new session of a budget, like that in another process. Raises LLMStoreError if the budget does not exist."""
    session: StoreSession
    if isinstance(terms, ServerTerms):
        from llm_connect.stores.redis import budgets as servers  # without a server, no script is loaded

        session = servers.session_of(terms)
    else:
        from llm_connect.stores.sqlite import budgets as files

        session = files.session_of(terms)
    session.reopen = reopen
    return session


def _make(terms: StoreTerms, limits: Limits, period: Period | None, on_unknown: OnUnknown) -> bool:
    """Create the budget; return False if it exists."""
    if isinstance(terms, ServerTerms):
        from llm_connect.stores.redis import budgets as servers

        return servers.make(terms, limits, period, on_unknown)
    from llm_connect.stores.sqlite import budgets as files

    return files.make(terms, limits, period, on_unknown)


def _said(limits: Limits, period: Period | None) -> str:
    """The limits and their period, for an error text."""
    said = [shown(unit, limit) for unit, limit in zip(UNITS, limits, strict=True) if limit is not None]
    text = " and ".join(said) or "no limit"
    return text if period is None else f"{text} {describe_period(period)}"
