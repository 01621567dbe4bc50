"""`open_budget`: opens a budget that several processes share, by the URL of its store.

The first process to open a budget creates it; the others join it. All callers of a process share one session.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Never, TypedDict, Unpack

from llm_connect._validation import check_name, check_number
from llm_connect.budget.accounting.bounds import CallFacts
from llm_connect.budget.accounting.prices import Price, checked_prices
from llm_connect.budget.accounting.windows import Period, describe_period
from llm_connect.budget.admission.arguments import Limits, OnUnknown, check_options, checked_limits, checked_period
from llm_connect.budget.admission.booking import Sink
from llm_connect.budget.admission.log import UNLIMITED, log_event
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.redis.session import ServerTerms
from llm_connect.stores.session import StoreSession, Terms
from llm_connect.stores.sqlite.session import FileTerms
from llm_connect.stores.urls import is_server, path_of
from llm_connect.types.amounts import UNITS, shown

_NO_LIMITS = (None, None, None)
#: The sessions of this process, by store and name. All callers of a budget share one, and so one wait queue.
_open: weakref.WeakValueDictionary[tuple[str, str], StoreSession] = weakref.WeakValueDictionary()
_opening = threading.RLock()
#: The arguments of earlier versions that were removed.
_REMOVED = ("on_store_error", "slice_share")


def open_budget(
    url: str,
    *,
    name: str = "budget",
    total: int | None = None,
    total_usd: int | str | float | Decimal | None = None,
    total_calls: int | None = None,
    change_limits: bool = False,
    prices: Mapping[str, Price] | None = None,
    on_unknown: OnUnknown = "presume",
    strict: bool = False,
    keep_entries: int = 1000,
    sink: Sink | None = None,
    lease_seconds: float = 60.0,
    period: Period | None = None,
    allow_eviction: bool = False,
    **removed: Never,
) -> BudgetTracker:
    """Open the budget of this name in a store: one cap for all processes that open it.

        budget = open_budget("sqlite:////var/lib/agents/budget.db", name="nightly", total_usd="5.00")
        adapter.execute_prompt("Hello", RunConfig(budget_tracker=budget))

    url: `sqlite:///` and the path of a file, or `redis://host:port/db`. The file is created if it does not exist. As in
        SQLAlchemy, a relative path follows three slashes and an absolute path four. The file must be on a local disk,
        not on a network.
    name, and the limits `total`, `total_usd` and `total_calls` with their `period`: the first process creates the
        budget. Later ones pass the same limits, or none.
    change_limits: True sets the limits to these for all processes. The period cannot change.
    lease_seconds: a process that holds budget renews its lease three times in this interval. If it stops, its lease
        ends: its reserved holds are released, and its dispatched ones are presumed.
    allow_eviction: True accepts a Redis server that evicts keys when it is full. The spend of a budget is lost with its
        keys, so such a server is refused by default.
    The other arguments are those of `BudgetTracker`. They belong to this process, except for `on_unknown`, which the
    first process sets for all. A pickled tracker is the same budget elsewhere, without its `sink`.

    While the store cannot be reached, calls raise LLMStoreError, and nothing is sent.

    Closing the tracker (`close`, or its `with` block) ends its use by this process. It stays open for the others.

    Raises LLMConfigurationError for an invalid URL or limit, and for limits that differ from the budget's;
    LLMStoreError if the store cannot be used.
    """
    _refuse(removed)
    check_options(keep_entries, on_unknown, sink)
    check_number("lease_seconds", lease_seconds, above=0)
    terms = terms_of(
        url,
        name=name,
        prices=checked_prices(prices or {}),
        strict=strict,
        keep_entries=keep_entries,
        sink=sink,
        lease_seconds=lease_seconds,
        allow_eviction=allow_eviction,
    )
    limits = checked_limits(total, total_calls, total_usd, terms.most_limit)
    return _open_root(terms, limits, checked_period(period), on_unknown, change_limits=change_limits)


class BudgetOptions(TypedDict, total=False):
    """The options of `open_budget`; a test compares them with its signature."""

    name: str
    total: int | None
    total_usd: int | str | float | Decimal | None
    total_calls: int | None
    change_limits: bool
    prices: Mapping[str, Price] | None
    on_unknown: OnUnknown
    strict: bool
    keep_entries: int
    sink: Sink | None
    lease_seconds: float
    period: Period | None
    allow_eviction: bool


async def aopen_budget(url: str, **details: Unpack[BudgetOptions]) -> BudgetTracker:
    """Like `open_budget`, without blocking the event loop."""
    return await asyncio.to_thread(partial(open_budget, url, **details))


def _refuse(unknown: Mapping[str, object]) -> None:
    """Raise an error for unknown or removed arguments."""
    for name in unknown:
        if name in _REMOVED:
            raise LLMConfigurationError(
                f"open_budget no longer takes {name}: leave it out. While the store cannot be reached, every call "
                "raises LLMStoreError and nothing is sent, as with on_store_error='refuse'. To continue meanwhile, "
                "catch that error and use a BudgetTracker(total=...) of this process."
            )
        raise TypeError(f"open_budget() got an unexpected keyword argument {name!r}")


def terms_of(url: str, **details: Any) -> Terms:
    """The terms of a budget in the store at `url`. Raises LLMConfigurationError for an invalid URL."""
    if is_server(url):
        return ServerTerms(url=url, **details)
    named = path_of(url)
    return FileTerms(path=os.path.realpath(named), named=named, **details)


def _open_root(
    terms: Terms, limits: Limits, period: Period | None, on_unknown: OnUnknown, *, change_limits: bool
) -> BudgetTracker:
    """Open the budget with these options. Raises LLMConfigurationError if its limits or its period differ."""
    check_name(terms.name)
    with _opening:
        made = terms.make(limits, period, on_unknown)
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


def reopen(terms: Terms, number: int) -> BudgetTracker:
    """The tracker with this number; a pickled tracker becomes this one."""
    with _opening:
        return _session(terms).tracker(number)


def forget_spending(terms: Terms, facts: CallFacts) -> None:
    """Reset the spend of a budget to zero, by ledger entries with these facts."""
    with _opening:
        session = _session(terms)
    session.reset(facts)


def _session(terms: Terms) -> StoreSession:
    """The session of this process for an existing budget."""
    key = (terms.shown, terms.name)
    session = _open.get(key)
    if session is None or session.closed or session.gone:
        session = _open[key] = new_session(terms)
    return session


def new_session(terms: Terms) -> StoreSession:
    """A new session of a budget, like that in another process. Raises LLMStoreError if the budget does not exist."""
    session = terms.session()
    session.reopen = reopen
    return session


def _said(limits: Limits, period: Period | None) -> str:
    """The limits and their period, for an error text."""
    said = [shown(unit, limit) for unit, limit in zip(UNITS, limits, strict=True) if limit is not None]
    text = " and ".join(said) or "no limit"
    return text if period is None else f"{text} {describe_period(period)}"
