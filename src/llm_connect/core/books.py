"""Booking: what a call came to goes to the accounts on its path and to the ledger, at once."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from llm_connect.core import accounts
from llm_connect.core.demand import CallFacts
from llm_connect.core.ledger import Ledger, LedgerEntry, Outcome
from llm_connect.core.limits import Limits
from llm_connect.core.units import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker


class Books:
    """Makes the entries of a tree of trackers; its caller holds the lock of the tree."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ids = itertools.count(1)
        self._presumed: dict[int, tuple[BudgetTracker, LedgerEntry]] = {}

    def book(
        self,
        tracker: BudgetTracker,
        outcome: Outcome,
        amount: Amount,
        *,
        facts: CallFacts,
        model: str | None = None,
        **figures: Any,
    ) -> LedgerEntry:
        """Count `amount` as spent, and say so in the ledger."""
        entry = LedgerEntry(
            id=next(self._ids),
            tracker=tracker.path,
            outcome=outcome,
            amount=amount,
            grade=facts.grade,
            adapter=facts.adapter,
            model=model or facts.model,
            labels=facts.labels,
            ended_at=time.time(),
            **figures,
        )
        accounts.book(tracker.accounts, amount)
        if outcome == "presumed":
            accounts.presume(tracker.accounts, amount)
            self._presumed[entry.id] = (tracker, entry)
        self._ledger.append(entry)
        return entry

    def take_presumption(self, entry_id: int) -> tuple[BudgetTracker, LedgerEntry] | None:
        """The presumed entry, once; None when it is no open presumption."""
        return self._presumed.pop(entry_id, None)

    def correct(self, tracker: BudgetTracker, presumed: LedgerEntry, figures: Limits) -> LedgerEntry:
        """Book the difference between what was presumed and what it really came to."""
        accounts.presume(tracker.accounts, NOTHING.minus(presumed.amount))
        facts = CallFacts(adapter=presumed.adapter, model=presumed.model, labels=presumed.labels, grade=presumed.grade)
        return self.book(
            tracker,
            "corrected",
            presumed.amount.but(*figures).minus(presumed.amount),
            facts=facts,
            bound=presumed.bound,
            reserved_at=presumed.reserved_at,
            corrects=presumed.id,
        )
