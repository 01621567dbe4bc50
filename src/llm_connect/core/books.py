"""Booking: what a call came to goes to the accounts on its path, to the ledger, and to whom it concerns."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from llm_connect.core import accounts
from llm_connect.core.demand import CallFacts
from llm_connect.core.holds import Ending, Hold
from llm_connect.core.learning import Learned, Used
from llm_connect.core.ledger import Ledger, LedgerEntry
from llm_connect.core.limits import Limits
from llm_connect.core.outbox import Outbox
from llm_connect.core.thresholds import Threshold
from llm_connect.core.units import NOTHING, Amount
from llm_connect.core.windows import follow

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker
    from llm_connect.core.figures import BudgetFigures

#: Takes every entry of the ledger, in order.
Sink: TypeAlias = Callable[[LedgerEntry], object]


class Books:
    """Makes the entries of a tree of trackers; its caller holds the lock of the tree."""

    def __init__(self, ledger: Ledger, outbox: Outbox, sink: Sink | None) -> None:
        self.learned: Learned = Learned()
        #: Whether anything was ever booked beyond a hold, or a limit changed: else no limit can be passed, and no bound
        #: was too low.
        self.surprised: bool = False
        self._ledger = ledger
        self._outbox = outbox
        self._sink = sink
        self._ids = itertools.count(1)
        self._presumed: dict[int, Hold] = {}
        #: Entries that were settled, are in the ledger, and were corrected.
        self._amended: set[int] = set()
        self._thresholds: list[Threshold] = []

    def end(self, hold: Hold, ending: Ending) -> bool:
        """Book what became of a hold, and free it; whether that has taught anything of its adapter and model."""
        hold.ended = True
        hold.ending = ending
        hold.entry_id = next(self._ids)
        # One that has ended before it could be booked says when.
        hold.ended_at = hold.ended_at or time.time()
        outcome, amount, _, _, _, model = ending
        path = hold.tracker.accounts
        if accounts.book(path, hold.bound, amount):
            self.surprised = True
        if outcome == "presumed":
            accounts.presume(path, amount)
            self._presumed[hold.entry_id] = hold
        facts = hold.facts
        self._ledger.append(hold, (hold.tracker.path, facts.adapter, model or facts.model), facts.labels, amount)
        if self._sink is not None or self._thresholds:
            self._tell(hold)
        named = facts.adapter is not None or facts.model is not None
        return named and outcome == "settled" and self._learn(hold, ending)

    def record(
        self, tracker: BudgetTracker, amount: Amount, facts: CallFacts, corrects: Hold | None = None
    ) -> LedgerEntry:
        """Book `amount` without a hold."""
        now = time.time()
        entry = LedgerEntry(
            id=next(self._ids),
            tracker=tracker.path,
            outcome="recorded" if corrects is None else "corrected",
            amount=amount,
            bound=amount if corrects is None else corrects.bound,
            grade=facts.grade,
            adapter=facts.adapter,
            model=facts.model if corrects is None else corrects.model,
            labels=facts.labels,
            request_id=None if corrects is None else corrects.request_id,
            reserved_at=now if corrects is None else corrects.reserved_at,
            ended_at=now,
            corrects=None if corrects is None else corrects.entry_id,
        )
        accounts.book(tracker.accounts, NOTHING, amount)
        self.surprised = True
        self._ledger.append(entry, (tracker.path, facts.adapter, entry.model), facts.labels, amount)
        self._tell(entry)
        return entry

    def expire(self, tracker: BudgetFigures, spent: Amount, presumed: Amount) -> None:
        """Take off what `tracker` has spent what has left its window; those above keep it."""
        accounts.expire(tracker.own_accounts, spent, presumed)
        if spent != NOTHING:
            self._shift(tracker.path, NOTHING.minus(spent))
            for above in tracker.lineage[1:2]:
                self._shift(above.path, spent)

    def number(self) -> int:
        """A number above the ids of all entries, and not above those that follow."""
        return next(self._ids)

    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry | None:
        """Book the difference between what was presumed or settled and what it came to; None when it cannot be."""
        hold = self._presumed.pop(entry_id, None) or self._settled(entry_id)
        if hold is None:
            return None
        presumed = hold.amount if hold.ending.outcome == "presumed" else NOTHING
        accounts.presume(hold.tracker.accounts, NOTHING.minus(presumed))
        actual = hold.amount.but(*figures)
        difference = actual.minus(hold.amount)
        follow(self, hold, difference, presumed)
        self._learn_better(hold, actual, None if figures[2] is None else actual.nano_usd)
        return self.record(hold.tracker, difference, hold.facts, corrects=hold)

    def _settled(self, entry_id: int) -> Hold | None:
        """What was settled by this entry, if the ledger still has it and it was not corrected before."""
        hold = self._ledger.hold_of(entry_id)
        if hold is None or hold.ending.outcome != "settled" or entry_id in self._amended:
            return None
        self._amended = {number for number in self._amended if self._ledger.hold_of(number) is not None} | {entry_id}
        return hold

    def watch(self, threshold: Threshold) -> None:
        """Tell of a threshold once it is reached, which may be now."""
        self._thresholds.append(threshold)
        self.look_at_thresholds()

    def look_at_thresholds(self) -> None:
        """Put those that are reached into the outbox, each once, or once in each window."""
        reached = [threshold for threshold in self._thresholds if threshold.reached]
        for threshold in reached:
            if not threshold.rest():
                self._thresholds.remove(threshold)
            self._outbox.put(threshold.callback, threshold.tracker.snapshot)

    def _shift(self, path: str, amount: Amount) -> None:
        moment = time.time()
        entry = LedgerEntry(
            id=next(self._ids),
            tracker=path,
            outcome="expired",
            amount=amount,
            bound=NOTHING,
            reserved_at=moment,
            ended_at=moment,
        )
        self._ledger.append_expiry(entry)
        self._tell(entry)

    def _tell(self, line: LedgerEntry | Hold) -> None:
        if self._sink is not None:
            self._outbox.put(self._sink, lambda: line if isinstance(line, LedgerEntry) else line.entry)
        if self._thresholds:
            self.look_at_thresholds()

    def _learn_better(self, hold: Hold, actual: Amount, nano_usd: int | None) -> None:
        """What a correction says of the bound of its call, in the place of what the call itself had taught."""
        key, ending = hold.facts.key, hold.ending
        settled = Used(ending.amount.tokens, ending.amount.calls, ending.nano_usd, ending.usage, hold.max_tokens)
        if ending.outcome == "settled" and not hold.demand.seen(settled).within:
            self.learned.forget(key)
        seen = hold.demand.seen(Used(actual.tokens, actual.calls, nano_usd, None, hold.max_tokens))
        if key != (None, None) and not seen.within:
            self.learned.look_at(key, seen)

    def _learn(self, hold: Hold, ending: Ending) -> bool:
        usage, amount = ending.usage, ending.amount
        if usage is not None and usage.estimated:
            return False
        used = Used(amount.tokens, amount.calls, ending.nano_usd, usage, hold.max_tokens)
        changed = self.learned.look_at(hold.facts.key, hold.demand.seen(used))
        self.surprised = self.surprised or changed
        return changed
