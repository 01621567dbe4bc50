"""The floor of a tracker that keeps every promise: the library's work for a call, written as three functions.

It checks its figures, notices _forks, closed budgets, waiting callers, lost holds, learned factors and overruns, knows
the owner of each hold, ends a lost hold, and books limits, totals and entry, for every level of its path. It leaves out
the reactions (a refusal, a wait, a callback): no measured call needs them.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import weakref
from collections import deque
from contextvars import ContextVar
from typing import Any, NoReturn

from llm_connect import _forks
from llm_connect.budget.accounting.accounts import Path, accounts_of
from llm_connect.budget.accounting.bounds import NO_FACTS, CallFacts
from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.admission.holds import NO_ENDING, Ending
from llm_connect.types.amounts import NANO, Amount

_tuple, _now = tuple.__new__, time.time
_running_loop, _thread = asyncio._get_running_loop, threading.get_ident


def _rare() -> NoReturn:
    raise NotImplementedError("The calls that are measured do not need it.")


class _Own:
    __slots__ = ("caller", "refs")

    def __init__(self, caller: int) -> None:
        self.caller = caller
        self.refs: list[weakref.ref[InlinedHold]] = []


_own: ContextVar[_Own | None] = ContextVar("own", default=None)


class InlinedTracker:
    """Make a tracker with `depth` levels, each with this limit."""

    def __init__(self, total: int, depth: int = 1) -> None:
        self.path = "budget"
        self.lock = TreeLock()
        self.generation = _forks.generation
        self.lineage = (self,) * depth
        self.closed = self.busy = self.surprised = False
        self.notes: deque[Any] = deque()
        self.ready: deque[Any] = deque()
        self.calls: deque[Any] = deque()
        self.untaken: list[Any] = []
        self.thresholds: list[Any] = []
        self.learned: dict[Any, Any] = {}
        self.sink = None
        self.ids = itertools.count(1)
        self.lines: deque[InlinedHold] = deque(maxlen=1_000)
        self.kinds: dict[tuple[str, str | None, str | None], list[int]] = {}
        above: Path | None = None
        for _ in range(depth):
            above = Path(accounts_of("", (total, None, None)), above)
        assert above is not None
        self.accounts = above

    def reserve(
        self,
        tokens: int = 0,
        *,
        calls: int = 1,
        usd: Any = 0,
        max_wait_seconds: float = 0,
        adapter: str | None = None,
        model: str | None = None,
        labels: Any = None,
    ) -> InlinedHold:
        if not (type(tokens) is int and type(calls) is int and tokens >= 0 and calls >= 0 and type(usd) is int):
            _rare()
        if not (adapter is model is labels is None) or max_wait_seconds or self.generation != _forks.generation:
            _rare()
        amount = _tuple(Amount, (tokens, calls, usd * NANO))
        nano_usd = amount[2]
        self.lock.take(True)
        try:
            if self.notes or self.untaken or self.learned or self.busy:
                _rare()
            for tracker in self.lineage:
                if tracker.closed:
                    _rare()
            path = self.accounts
            if path.in_allotment:
                _rare()
            for level in path.levels:
                a, b, c, spent_tokens, spent_calls, spent_usd, terms, step = level.record
                if tokens > a or calls > b or nano_usd > c:
                    _rare()
                level.record = (
                    a - tokens,
                    b - calls,
                    c - nano_usd,
                    spent_tokens,
                    spent_calls,
                    spent_usd,
                    terms,
                    step,
                )
            hold = InlinedHold(self, amount)
        finally:
            self.lock.release()
        if self.ready or self.calls:
            _rare()
        own = _own.get()
        caller = _thread() if _running_loop() is None else _rare()
        if own is None or own.caller != caller:
            own = _Own(caller)
            _own.set(own)
        if len(own.refs) >= 8:
            own.refs = [ref for ref in own.refs if (held := ref()) is not None and not held.ended]
        own.refs.append(weakref.ref(hold))
        return hold


class InlinedHold:
    __slots__ = (
        "__weakref__",
        "bound",
        "demand",
        "dispatched",
        "ended",
        "ended_at",
        "ending",
        "entry_id",
        "facts",
        "max_tokens",
        "request_id",
        "reserved_at",
        "tracker",
    )

    def __init__(self, tracker: InlinedTracker, bound: Amount) -> None:
        self.tracker = tracker
        self.bound = self.demand = bound
        self.facts: CallFacts = NO_FACTS
        self.max_tokens = self.request_id = None
        self.dispatched = self.ended = False
        self.entry_id = 0
        self.ending = NO_ENDING
        self.ended_at = 0.0
        self.reserved_at = _now()

    def dispatch(self) -> None:
        tracker = self.tracker
        if tracker.generation != _forks.generation or tracker.surprised or self.ended:
            _rare()
        self.dispatched = True

    def settle(
        self,
        tokens: int | None = None,
        *,
        calls: int | None = None,
        usd: Any = None,
        usage: Any = None,
        cost_source: str | None = None,
        model: str | None = None,
    ) -> None:
        if type(tokens) is not int or tokens < 0 or calls is not None or usd is not None:
            _rare()
        bound, tracker = self.bound, self.tracker
        actual = _tuple(Amount, (tokens, bound[1], bound[2]))
        ending = _tuple(Ending, ("settled", actual, usage, None, cost_source, model))
        if tracker.generation != _forks.generation or tracker.lock.owned():
            _rare()
        tracker.lock.take(True)
        try:
            if tracker.notes or tracker.untaken or self.ended or ending[0] == "presumed":
                _rare()
            self.ended = True
            self.ending = ending
            self.entry_id = next(tracker.ids)
            self.ended_at = _now()
            held_tokens, held_calls, held_usd = bound
            used_tokens, used_calls, used_usd = actual
            if used_tokens > held_tokens or used_calls > held_calls or used_usd > held_usd:
                tracker.surprised = True
            path = tracker.accounts
            if path.in_allotment:
                _rare()
            for level in path.levels:
                a, b, c, spent_tokens, spent_calls, spent_usd, terms, step = level.record
                level.record = (
                    a + held_tokens - used_tokens,
                    b + held_calls - used_calls,
                    c + held_usd - used_usd,
                    spent_tokens + used_tokens,
                    spent_calls + used_calls,
                    spent_usd + used_usd,
                    terms,
                    step,
                )
            facts = self.facts
            tracker.lines.append(self)
            kind = (tracker.path, facts.adapter, model or facts.model)
            sums = tracker.kinds.get(kind)
            if sums is None:
                sums = tracker.kinds[kind] = [0, 0, 0, 0]
            sums[0] += 1
            sums[1] += used_tokens
            sums[2] += used_calls
            sums[3] += used_usd
            if facts.labels or tracker.sink is not None or tracker.thresholds or usage is not None or tracker.busy:
                _rare()
        finally:
            tracker.lock.release()
        if tracker.ready or tracker.calls:
            _rare()

    def __del__(self) -> None:
        if not self.ended:
            _rare()
