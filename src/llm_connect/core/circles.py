"""Callers that keep budget themselves while they wait for more: those that no other call's end can help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from llm_connect.core.accounts import Account
from llm_connect.core.waiters import Waiter
from llm_connect.core.windows import doomed


def stuck(waiters: list[Waiter]) -> list[Waiter]:
    """Those of `waiters` that would not fit even when only the own holds of these very callers were left."""
    while True:
        kept = _kept_by(waiters)
        own = kept.__getitem__
        left = [waiter for waiter in waiters if doomed(waiter, own)]
        if len(left) == len(waiters):
            return left
        waiters = left


def _kept_by(waiters: Iterable[Waiter]) -> Counter[Account]:
    kept: Counter[Account] = Counter()
    for hold in {hold for waiter in waiters for hold in waiter.own if not hold.ended}:
        for level in hold.tracker.accounts.levels:
            for account, figure in zip(level, hold.bound, strict=True):
                kept[account] += figure
    return kept
