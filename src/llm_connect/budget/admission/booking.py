"""Booking: how an attempt ends, what its end changes in the books, and why an unknown outcome counts as spent.

A provider bills requests, not the answers that arrive here. In between, much can go wrong: a timeout, a cancelled task,
a broken connection, a 5xx reply, a killed process. Afterwards the library cannot know whether the provider went on, and
what it billed. The hold of such an attempt must end all the same, and each of three simple answers is wrong.

- Release it, as `finally: release()` does. Cancel a hundred calls, and the books show nothing, while the provider may
  bill a hundred answers. Retries after timeouts then exceed any limit.
- Book the part that arrived, such as the text of a stream up to its break. That proves nothing: a provider may go on
  generating after the connection is closed, and bill all of it.
- Always book the bound. Then an attempt that never left this machine counts as spent, and calls that fit are refused.

So the line is drawn where the first byte of the request leaves. `Hold.dispatch` marks it, just before that byte. A hold
ends exactly once, in one of three ways.

- *Released*: there is proof that it costs nothing. Nothing was sent (adapters see whether the first byte left,
  `engine/deadline.py`), or a complete reply that is not billed has arrived, such as a 4xx (`unbilled.py`, and
  the error table of each protocol). The entry has the amount zero.
- *Settled*: the actual usage is known. It is booked in full, even if it exceeds the hold.
- *Presumed*: the request was sent and its outcome is unknown. The whole bound is booked, because the call costs no more
  than that if the bound is right. The entry is an open presumption until `correct` books the difference in another
  entry. No entry ever changes, so the entries always add up to `spent`.

`BudgetTracker(on_unknown="release")` also releases in the third case, and gives up the guarantee. Ending a hold again
changes nothing, so the first end counts: by the adapter, by the `with` block, or by the finalizer.

The order matters on both sides of `dispatch`.

- The mark must precede the byte. If a process died between the byte and a later mark, its request would count as never
  sent. In memory the mark is one attribute. In a store it is a commit, because other processes read it when they end
  the holds of a process that died (`stores/parts.py`).
- Time passes between the grant and `dispatch`. Meanwhile another call may cost more than its hold, a `record` or a
  correction may be booked, a limit may be lowered, or an overrun may raise the bounds of this model
  (`accounting/bounds.py`). Each of these sets `surprised`. From then on `dispatch` checks the hold again under the
  lock. If a limit is breached, or the bound has risen and the difference does not fit, the hold is released and the
  attempt reserves again. As long as `surprised` is not set, every grant still fits, and `dispatch` needs no lock.

An end changes `held` and `spent` on every level of the path, the hold, the ledger and its totals, the learned factors,
and the outbox of callbacks. `Books.end` makes these changes one by one for a plain end, because every call pays for
them, and uses a `Plan` for the others. If either is interrupted, the next operation completes it (`journal.py`).

Accounting systems call this a two-phase transfer, with the ends post and void (TigerBeetle), and card payments call it
authorization and capture. There, a pending amount that nobody claims expires unpaid. Here it expires as paid, because
the provider already has the request.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from operator import gt
from typing import TYPE_CHECKING, Any, TypeAlias

from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.accounts import amount_of
from llm_connect.budget.accounting.bounds import NO_FACTS, CallFacts, Learned, Lesson, Used
from llm_connect.budget.accounting.journal import Journal, Plan
from llm_connect.budget.accounting.ledger import Entries, Kind, LedgerEntry, Outcome
from llm_connect.budget.accounting.windows import Clock
from llm_connect.budget.admission.arguments import Limits
from llm_connect.budget.admission.callbacks import Outbox, Threshold
from llm_connect.budget.admission.holds import Ending, Hold, OpenHold
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope

#: The wall clock, which tests replace.
now: Clock = time.time


def wall_clock() -> float:
    """The clock of windows in memory and in a file; a server has a clock of its own."""
    return now()


#: A function that receives every ledger entry, in order.
Sink: TypeAlias = Callable[[LedgerEntry], object]


class Books:
    """Makes the ledger entries of a tree of trackers; the caller has the lock of the tree."""

    def __init__(self, entries: Entries, outbox: Outbox, sink: Sink | None) -> None:
        self.learned: Learned = Learned()
        #: True once spend was booked beyond a hold, a limit changed, or bounds were raised. Until then every granted
        #: hold still fits and covers its call.
        self.surprised: bool = False
        self.entries: Entries = entries
        self._ids, self._lines, self._kinds = entries.ids, entries.lines, entries.kinds
        self._outbox = outbox
        self._sink = sink
        self.thresholds: list[Threshold] = []

    def end(self, hold: Hold, ending: Ending) -> bool:
        """Book a hold's outcome and free it. True if the bounds of its adapter and model were recalibrated.

        Every call pays for this method, so it makes the changes of a plain end directly; other ends use a plan.
        """
        outcome, amount, _, _, _, model = ending
        facts, tracker = hold.facts, hold.tracker
        path = tracker.accounts
        kind = (tracker.path, facts.adapter, model or facts.model)
        named = facts.adapter is not None or facts.model is not None
        lesson = self._lesson(hold, ending) if named and outcome == "settled" else None
        sums = self._kinds.get(kind)
        if sums is None or path.in_allotment or outcome == "presumed" or facts.labels:
            return self._end_by_plan(hold, ending, kind, lesson)
        held_tokens, held_calls, held_usd = hold.bound
        tokens, calls, nano_usd = amount
        sums = (sums[0] + 1, sums[1] + tokens, sums[2] + calls, sums[3] + nano_usd)
        entry_id, ended_at = next(self._ids), time.time()
        journal = path.journal
        journal.intent = _ended, self, hold, ending, entry_id, ended_at, (kind, sums, {}), lesson
        free_tokens, free_calls, free_usd = held_tokens - tokens, held_calls - calls, held_usd - nano_usd
        for level in path.levels:
            of_tokens, of_calls, of_usd, spent_tokens, spent_calls, spent_usd, terms, _ = level.record
            level.record = (
                of_tokens + free_tokens,
                of_calls + free_calls,
                of_usd + free_usd,
                spent_tokens + tokens,
                spent_calls + calls,
                spent_usd + nano_usd,
                terms,
                entry_id,
            )
        hold.ending = ending
        hold.entry_id = entry_id
        hold.ended_at = ended_at
        hold.ended = True
        self._lines.append(hold)
        self._kinds[kind] = sums
        if (tokens > held_tokens or calls > held_calls or nano_usd > held_usd) and _surprises(hold, amount):
            self.surprised = True
        if lesson is not None:
            self._learn(lesson)
        if self._sink is not None or self.thresholds:
            self._publish(hold)
        journal.intent = None
        hold.__class__ = Hold
        return lesson is not None and lesson.changed

    def _end_by_plan(self, hold: Hold, ending: Ending, kind: Kind, lesson: Lesson | None) -> bool:
        amount, tracker, path = ending.amount, hold.tracker, hold.tracker.accounts
        presumed = amount if ending.outcome == "presumed" else NOTHING
        posting = self.entries.posting(tracker, kind, hold.facts.labels, amount, presumed)
        plan = Plan()
        accounts.book(plan, path, hold.bound, amount, presumed)
        self._plan_end(plan, hold, ending, next(self._ids), time.time(), posting, lesson)
        path.journal.carry_out(plan)
        return lesson is not None and lesson.changed

    def _plan_end(
        self,
        plan: Plan,
        hold: Hold,
        ending: Ending,
        entry_id: int,
        ended_at: float,
        posting: Any,
        lesson: Lesson | None,
    ) -> None:
        """Plan the end of a hold, except for the figures of the accounts."""
        if _surprises(hold, ending.amount):
            plan.set(self, "surprised", True)
        plan.set(hold, "ending", ending)
        plan.set(hold, "entry_id", entry_id)
        plan.set(hold, "ended_at", ended_at)
        plan.set(hold, "ended", True)
        if type(hold) is OpenHold:
            plan.set(hold, "__class__", Hold)
        if ending.outcome == "presumed":
            plan.then(self.entries.presume, entry_id, hold)
        plan.then(self.entries.post, hold, posting)
        if lesson is not None:
            plan.then(self._learn, lesson)
        plan.then(self._publish, hold)

    def record(self, tracker: Scope, amount: Amount, facts: CallFacts) -> LedgerEntry:
        """Book `amount` without a hold."""
        plan = Plan()
        accounts.change(plan, tracker.accounts, NOTHING, amount)
        entry = self._entry(tracker, "recorded", amount, amount, facts)
        return self._carry_out(plan, tracker, entry)

    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry | None:
        """Book the difference between a presumed or settled entry and its actual figures.

        None if the entry is neither presumed nor settled, is already corrected, or no longer kept.
        """
        hold: Hold | None = self.entries.find(entry_id)
        if hold is None:
            return None
        plan, tracker, facts = Plan(), hold.tracker, hold.facts
        presumed = hold.amount if hold.ending.outcome == "presumed" else NOTHING
        plan.then(self.entries.correct, entry_id)
        actual = hold.amount.but(*figures)
        difference = actual.minus(hold.amount)
        accounts.change(plan, tracker.accounts, NOTHING, difference, NOTHING.minus(presumed))
        self._follow(plan, hold, difference, presumed)
        lesson = self._better(hold, actual, None if figures[2] is None else actual.nano_usd)
        if lesson is not None:
            plan.then(self._learn, lesson)
        entry = replace(
            self._entry(tracker, "corrected", difference, hold.bound, facts),
            grade=hold.grade,
            model=hold.model,
            request_id=hold.request_id,
            reserved_at=hold.reserved_at,
            corrects=entry_id,
        )
        return self._carry_out(plan, tracker, entry, NOTHING.minus(presumed))

    def _carry_out(self, plan: Plan, tracker: Scope, entry: LedgerEntry, presumed: Amount = NOTHING) -> LedgerEntry:
        """Carry out `plan`, whose changes `entry` of `tracker` describes, and post the entry."""
        kind = (entry.tracker, entry.adapter, entry.model)
        posting = self.entries.posting(tracker, kind, entry.labels, entry.amount, presumed)
        plan.set(self, "surprised", True)
        plan.then(self.entries.post, entry, posting)
        plan.then(self._publish, entry)
        self.entries.touch(tracker)
        tracker.accounts.journal.carry_out(plan)
        return entry

    def expire(self, plan: Plan, tracker: Scope, spent: Amount, presumed: Amount) -> None:
        """Plan to subtract spend that has left the window of `tracker`; the trackers above keep it."""
        self.entries.leave(tracker, spent, presumed)
        for account, figure, unknown in zip(tracker.own_accounts, spent, presumed, strict=True):
            plan.add(account, "spent", -figure)
            plan.add(account, "presumed", -unknown)
        if spent != NOTHING:
            self._shift(plan, tracker, NOTHING.minus(spent))
            for above in tracker.lineage[1:2]:
                self._shift(plan, above, spent)

    def _follow(self, plan: Plan, hold: Hold, difference: Amount, presumed: Amount) -> None:
        """Plan that a correction of `hold` counts in the same windows as the booking that it corrects.

        If that booking has left a window, the correction leaves it at once, so that every window shows exactly the
        spend in it.
        """
        left = False
        for tracker in reversed(hold.tracker.lineage):
            if tracker.window is not None and not tracker.window.amend(plan, hold.entry_id, difference, presumed):
                self.expire(plan, tracker, difference, NOTHING.minus(presumed))
                left = True
            elif left:
                self._withhold(plan, tracker, difference)

    def _withhold(self, plan: Plan, tracker: Scope, difference: Amount) -> None:
        """Plan that an allotment gets nothing back by a correction of spend that has left a window above it.

        Its rest would grow, and be set aside above again, where others may have taken the place by now.
        """
        units = list(zip(tracker.own_accounts, tracker.accounts.units, difference, strict=True))
        returned = Amount(*(min(0, figure) if account.allotment else 0 for account, _, figure in units))
        if returned == NOTHING:
            return
        rests = [accounts.aside(plan, account) for account in tracker.own_accounts]
        self.expire(plan, tracker, returned, NOTHING)
        for (account, path, _), rest in zip(units, rests, strict=True):
            accounts.set_aside(plan, path[1:], accounts.aside(plan, account) - rest)

    def watch(self, threshold: Threshold) -> None:
        """Fire `threshold` once it is reached, which may be at once."""
        self.thresholds.append(threshold)
        self.look_at_thresholds()

    @property
    def watched(self) -> list[Scope]:
        """The trackers that have thresholds."""
        return [threshold.tracker for threshold in self.thresholds]

    def look_at_thresholds(self) -> None:
        """Put the callbacks of reached thresholds into the outbox, once each, or once in each window."""
        reached = [threshold for threshold in self.thresholds if threshold.reached]
        for threshold in reached:
            # After an interruption the outbox may already have it.
            if not self._outbox.has(threshold):
                self._outbox.put(threshold.callback, threshold.snapshot, threshold)
            if not threshold.rest():
                self.thresholds.remove(threshold)

    def _shift(self, plan: Plan, tracker: Scope, amount: Amount) -> None:
        entry = self._entry(tracker, "expired", amount, NOTHING, NO_FACTS)
        self.entries.post_expiry(plan, entry)
        plan.then(self._publish, entry)

    def _entry(self, tracker: Scope, outcome: Outcome, amount: Amount, bound: Amount, facts: CallFacts) -> LedgerEntry:
        """A new entry about what happens now, without a hold."""
        moment = time.time()
        return LedgerEntry(
            id=next(self._ids),
            tracker=tracker.path,
            outcome=outcome,
            amount=amount,
            bound=bound,
            grade=facts.grade,
            adapter=facts.adapter,
            model=facts.model,
            labels=facts.labels,
            reserved_at=moment,
            ended_at=moment,
        )

    def _publish(self, line: LedgerEntry | Hold) -> None:
        if self._sink is not None and not self._outbox.has(line):
            self._outbox.put(self._sink, lambda: line if isinstance(line, LedgerEntry) else line.entry, line)
        if self.thresholds:
            self.look_at_thresholds()

    def _better(self, hold: Hold, actual: Amount, nano_usd: int | None) -> Lesson | None:
        """The lesson of a correction about the bound of its call, which replaces the lesson of the call itself."""
        key, ending = hold.facts.key, hold.ending
        settled = Used(ending.amount.tokens, ending.amount.calls, ending.nano_usd, ending.usage, hold.max_tokens)
        wrong = ending.outcome == "settled" and not hold.demand.seen(settled).within
        seen = hold.demand.seen(Used(actual.tokens, actual.calls, nano_usd, None, hold.max_tokens))
        return self.learned.better(key, None if key == (None, None) or seen.within else seen, forgotten=wrong)

    def _lesson(self, hold: Hold, ending: Ending) -> Lesson | None:
        usage, amount = ending.usage, ending.amount
        if usage is not None and usage.estimated:
            return None
        used = Used(amount.tokens, amount.calls, ending.nano_usd, usage, hold.max_tokens)
        return self.learned.lesson(hold.facts.key, hold.demand.seen(used))

    def _learn(self, lesson: Lesson) -> None:
        self.learned.learn(lesson)
        if lesson.changed:
            self.surprised = True


def _surprises(hold: Hold, amount: Amount) -> bool:
    """True if `amount` is more than the hold. USD count only where they were held, or where an account limits them."""
    more_tokens, more_calls, more_usd = map(gt, amount, hold.bound)
    return more_tokens or more_calls or (more_usd and (hold.bound[2] > 0 or accounts.limits_usd(hold.tracker.accounts)))


def _ended(
    journal: Journal,
    books: Books,
    hold: Hold,
    ending: Ending,
    entry_id: int,
    ended_at: float,
    posting: Any,
    lesson: Lesson | None,
) -> Plan:
    """A plan for the rest of an interrupted end of a hold."""
    plan = Plan()
    accounts.complete(hold.tracker.accounts, hold.bound, ending.amount, entry_id)
    books._plan_end(plan, hold, ending, entry_id, ended_at, posting, lesson)
    return plan


class Windows:
    """The windows of one tree of trackers. Except for `add` and `due`, the caller has the lock of the tree."""

    def __init__(self, clock: Clock = wall_clock) -> None:
        self._clock = clock
        self._trackers: deque[weakref.ref[Scope]] = deque()
        #: Trackers added since the last `roll`.
        self._added: deque[weakref.ref[Scope]] = deque()
        # Between these moments nothing is due.
        self._since = self._until = math.inf

    def add(self, tracker: Scope) -> None:
        """Roll the window of `tracker` from now on, as long as the tracker exists."""
        self._added.append(weakref.ref(tracker))

    @property
    def due(self) -> bool:
        """True if `roll` has work to do."""
        return bool(self._added) or not self._since <= self._clock() < self._until

    def roll(self, books: Books) -> bool:
        """Move all windows to the present time; True if spend has left one of them."""
        if not self.due:
            return False
        while self._added:
            # In this order an interruption loses no tracker; a duplicate does no harm.
            self._trackers.append(self._added[0])
            self._added.popleft()
        # If this is interrupted, all windows stay due.
        self._since, moment = math.inf, self._clock()
        living = self._living()
        left = [self._move(tracker, moment, books) for tracker in living]
        until = min((tracker.window.due_at for tracker in living if tracker.window is not None), default=math.inf)
        self._since, self._until = moment, until
        return any(left)

    def move(self, trackers: Iterable[Scope], books: Books) -> bool:
        """Move the windows of these trackers alone to the present time; True if spend has left one of them."""
        windowed = [tracker for tracker in trackers if tracker.window is not None]
        moment = self._clock() if windowed else 0.0
        left = [self._move(tracker, moment, books) for tracker in windowed]
        return any(left)

    def _living(self) -> list[Scope]:
        """The trackers with a window that still exist."""
        living = {tracker: ref for ref in self._trackers if (tracker := ref()) is not None}
        self._trackers = deque(living.values())
        return list(living)

    def _move(self, tracker: Scope, moment: float, books: Books) -> bool:
        window, own = tracker.window, tracker.own_accounts
        assert window is not None
        plan = Plan()
        gone = window.move(plan, moment, amount_of(own, "spent"), amount_of(own, "presumed"), books.entries.number)
        for part in gone:
            if (part.spent, part.presumed) != (NOTHING, NOTHING):
                books.expire(plan, tracker, part.spent, part.presumed)
        tracker.accounts.journal.carry_out(plan)
        return bool(gone)


def seconds_until_open(tracker: Scope) -> float:
    """The seconds until spend next leaves a window of `tracker` or of one above it; infinite without windows."""
    windows = [each.window for each in tracker.lineage if each.window is not None]
    return min((window.opens_at - window.clock() for window in windows), default=math.inf)
