"""Finding and creating budgets in a server."""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import TYPE_CHECKING

from llm_connect.budget.accounting.windows import Window
from llm_connect.budget.admission.controller import Gate
from llm_connect.budget.admission.log import EVICTION_UNKNOWN, log_event
from llm_connect.errors import LLMConfigurationError, LLMStoreError
from llm_connect.stores.redis.clock import clock_of
from llm_connect.stores.redis.keys import SCHEMA, Keys
from llm_connect.stores.redis.packing import STATE_SIZE, new_state, packed_state
from llm_connect.stores.redis.server import Server, script
from llm_connect.stores.redis.session import ServerSession
from llm_connect.stores.redis.terms import ServerTerms
from llm_connect.stores.redis.windows import window_text

if TYPE_CHECKING:
    from llm_connect.budget.accounting.arguments import Limits
    from llm_connect.budget.accounting.periods import Period
    from llm_connect.budget.admission.controller import OnUnknown

#: Servers that do not tell their eviction policy; the log names each of them once.
_warned: set[str] = set()
#: The number of the root in every budget.
ROOT = 1


def session_of(terms: ServerTerms) -> ServerSession:
    """A session of an existing budget."""
    keys = Keys(terms.name)
    with closing(Server(terms.url, terms.busy_seconds)) as server:
        fields = ("schema", "on_unknown", "born", "allotments")
        schema, on_unknown, born, listed = server.call("HMGET", keys.of("meta"), *fields)
        if schema is None:
            raise LLMStoreError(
                f"{terms.shown} has no budget {terms.name!r}: create it with open_budget.", store=terms.shown
            )
        check_schema(terms, schema.decode())
        if listed is None:
            names = [keys.of(part) for part in ("meta", "trackers", "places", "allotments")]
            server.call("EVAL", script("list_allotments"), 4, *names, STATE_SIZE)
    session = ServerSession(terms, ROOT, born or b"")
    Gate(terms.keep_entries, on_unknown.decode(), terms.sink, session.clock, session)
    return session


def make(terms: ServerTerms, limits: Limits, period: Period | None, on_unknown: OnUnknown) -> bool:
    """Create the budget; return False if it exists."""
    keys = Keys(terms.name)
    names = [keys.of(part) for part in ("meta", "trackers", "changed", "windows")]
    with closing(Server(terms.url, terms.busy_seconds)) as server:
        window = "" if period is None else window_text(Window(period, clock_of(server)))
        state = packed_state(new_state(ROOT, closed=False, limits=limits, window=bool(window)))
        _check_eviction(server, terms)
        born = secrets.token_hex(8)
        how = (SCHEMA, on_unknown, terms.name, state, window, born)
        made = server.call("EVAL", script("make"), 4, *names, *how).decode()
    if made != "made":
        check_schema(terms, made)
    return bool(made == "made")


def _check_eviction(server: Server, terms: ServerTerms) -> None:
    """Refuse a server that evicts budgets when it is full. Log once if it answers, and does not tell."""
    if terms.allow_eviction:
        return
    try:
        _, policy = server.call("CONFIG", "GET", "maxmemory-policy")
    except LLMStoreError as error:
        if not server.connected:
            raise
        if terms.shown not in _warned:
            _warned.add(terms.shown)
            log_event(EVICTION_UNKNOWN, store=terms.shown, error=str(error))
        return
    if policy != b"noeviction":
        raise LLMConfigurationError(
            f"{terms.shown} evicts keys when it is full (maxmemory-policy {policy.decode()}), and budgets would lose "
            "their spend: set maxmemory-policy noeviction, or accept the loss with allow_eviction=True."
        )


def check_schema(terms: ServerTerms, schema: str) -> None:
    """Raise LLMStoreError for a budget that another version has created."""
    if schema != SCHEMA:
        raise LLMStoreError(
            f"Budget {terms.name!r} of {terms.shown} was created by another version of llm-connect: use that version.",
            store=terms.shown,
        )
