"""Shadows: what stands for a budget in memory while its store is lost, with what was held for that as its limits."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_connect.core.admission import Gate
from llm_connect.core.budget import BudgetTracker
from llm_connect.core.exceptions import LLMBudgetExceededError, LLMError, LLMStoreError
from llm_connect.core.ledger import Ledger, LedgerEntry
from llm_connect.core.limits import Limits
from llm_connect.core.units import Amount, nano_usd_of, shown
from llm_connect.stores.holds import Before, StoredHold

if TYPE_CHECKING:
    from llm_connect.core.accounts import Account
    from llm_connect.core.demand import CallFacts, Demand
    from llm_connect.core.holds import Ending, Hold
    from llm_connect.core.totals import Kind
    from llm_connect.core.waiters import Waiter
    from llm_connect.stores.slicing import SlicingGate
    from llm_connect.stores.worker import StoreWorker


class Moving(Exception):
    """What was spent and is held here is just being written into the store."""


class Left(NamedTuple):
    """What a shadow had when it was left: its holds, those that have ended first, and those that waited."""

    shadow: ShadowGate
    holds: list[ShadowState]
    waiters: list[Waiter]


class ShadowState(NamedTuple):
    """What a hold was before it was written into the store."""

    hold: StoredHold
    tracker: ShadowTracker
    before: Before
    ending: Ending
    ended_at: float
    entry_id: int

    @classmethod
    def of(cls, hold: StoredHold) -> ShadowState:
        tracker: Any = hold.tracker
        return cls(hold, tracker, hold.before, hold.ending, hold.ended_at, hold.entry_id)

    def restore(self) -> None:
        """It was not written."""
        hold, hold.tracker = self.hold, self.tracker
        hold.undo(self.before)
        hold.ending, hold.ended_at, hold.entry_id = self.ending, self.ended_at, self.entry_id


class ShadowTracker(BudgetTracker):
    """What stands for the tracker `real`, and is that one for whoever compares or pickles it."""

    real: BudgetTracker
    #: Whether its limits are what was held for this, since other processes use the real one as well.
    shared: bool

    def __eq__(self, other: object) -> bool:
        return other is self or other is self.real

    def __hash__(self) -> int:
        return hash(self.real)

    def __reduce__(self) -> Any:
        return self.real.__reduce__()


class ShadowGate(Gate):
    """A gate in memory for the time of an outage.

    When the store is there again, what has become of its holds is written there, and those that are still open
    become holds in the store: the gate is frozen, and left for good once that is committed.
    """

    hold_type: type[Hold] = StoredHold

    def __init__(self, real: SlicingGate) -> None:
        super().__init__(0, real.on_unknown, None)
        self._real = real
        self._shadows: dict[BudgetTracker, ShadowTracker] = {}
        #: Holds before the outage whose ends are known here.
        self._followed: weakref.WeakSet[StoredHold] = weakref.WeakSet()
        self._frozen = False
        self.ledger: Ledger = _Lines(self)
        self.ended: list[StoredHold] = []
        #: What it is told of its holds, as a gate of a store is.
        self.changes: _Changes = _Changes()
        self._books._ledger, self._books._ids = self.ledger, real.provisional_ids
        self._books.learned.become(dict(real.learned))

    @property
    def worker(self) -> StoreWorker:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the store: an operation may have to wait until the store has taken over."""
        return self._real.worker

    def of(self, real: BudgetTracker) -> ShadowTracker:
        """The shadow of a tracker."""
        with self._lock:
            shadow = self._shadows.get(real)
            if shadow is None:
                shadow = self._shadows[real] = self._new(real)
            for each, above in zip(shadow.lineage, real.lineage, strict=True):
                each.closed_itself = above.closed_itself
            return shadow

    def _new(self, real: BudgetTracker) -> ShadowTracker:
        parent = None if real.parent is None else self.of(real.parent)
        shadow = ShadowTracker.__new__(ShadowTracker)
        shadow.prices, shadow.strict, shadow.real = real.prices, real.strict, real
        allowances = self._real.allowances
        shadow.shared = allowances.is_shared(real)
        kept = allowances.on(real)
        limits: Any = (
            None if account.limit is None else kept[account.place] if shadow.shared else account.limit
            for account in real.own_accounts
        )
        checked: Limits = tuple(limits)
        shadow._become(real.name, parent, self, checked)
        if not shadow.shared:
            # Nobody else uses it: it goes on from where it was.
            for mine, known in zip(shadow.own_accounts, real.own_accounts, strict=True):
                mine.spent, mine.held, mine.sliced = known.spent, known.held, known.sliced
        return shadow

    def follow(self, hold: StoredHold, amount: Amount) -> None:
        """A hold in the store has ended; what is known of that here counts where nobody else uses the budget."""
        with self._lock:
            if hold in self._followed or hold.tracker.gate is self or self._frozen:
                return
            self._followed.add(hold)
            levels: Any = self.of(hold.tracker).lineage
            for shadow in levels:
                if not shadow.shared:
                    _book(shadow.own_accounts, hold.bound, amount)

    # What the gate of the store asks of it.

    def admit_instead(
        self, tracker: BudgetTracker, demand: Demand, facts: CallFacts, replaces: Hold | None
    ) -> Hold | None:
        """Like `admit`, for the real tracker. Raises Moving."""
        with self._here():
            mine = replaces if replaces is not None and replaces.tracker.gate is self else None
            return super().admit(self.of(tracker), demand, facts, mine)

    def room_instead(self, tracker: BudgetTracker, demand: Demand, facts: CallFacts) -> int | None:
        """Like `room`, for the real tracker. Raises Moving."""
        with self._here():
            return super().room(self.of(tracker), demand, facts)

    def queue_instead(self, waiter: Waiter, *, may_wait: bool) -> None:
        """Like `queue`, for one that would stand in the line of the store. Raises Moving."""
        with self._here():
            if waiter.tracker.gate is not self:
                waiter.tracker, waiter.error = self.of(waiter.tracker), None
                super().queue(waiter, may_wait=may_wait)
        self._tell()

    def take_instead(self, waiter: Waiter) -> Hold | None:
        """Like `take`; None when the waiter stands in the line of the store again. Raises LLMStoreError."""
        try:
            with self._lock:
                return super().take(waiter) if waiter.tracker.gate is self else None
        except LLMBudgetExceededError as refusal:
            raise self._explained(refusal) from None

    def freeze(self) -> Left:
        """Grant, end and change nothing any more, and say what there is."""
        with self._lock:
            self._work_off()
            self._frozen = True
            waiters = self._line.hand_over()
            for waiter in waiters:
                waiter.tracker = _real(waiter.tracker)
            open_holds = [hold for hold in self.changes.holds if not hold.ended]
            return Left(self, [ShadowState.of(hold) for hold in (*self.ended, *open_holds)], waiters)

    def thaw(self, waiters: list[Waiter]) -> None:
        """Go on: nothing was written."""
        with self._lock:
            self._frozen = False
        for waiter in waiters:
            if waiter.waiting:
                self.queue_instead(waiter, may_wait=True)

    # What its holds and waiters ask of it, who may belong to the store by now.

    def dispatch(self, hold: Hold) -> bool:
        with self._lock:
            if not self._left(hold):
                return super().dispatch(hold)
        self._real.wait()
        return hold.tracker.gate.dispatch(hold)

    def extend(self, hold: Hold, more: Amount) -> bool:
        with self._lock:
            if not self._left(hold):
                return super().extend(hold, more)
        self._real.wait()
        return hold.tracker.gate.extend(hold, more)

    def end(self, hold: Hold, ending: Ending) -> None:
        if self._lock.owned():
            self.lose(hold, ending)
            return
        with self._lock:
            left = self._left(hold)
            if not left:
                self._work_off()
                self._end(hold, ending)
        if left:
            self._real.end(hold, ending)
        self._tell()

    def abandon(self, waiter: Waiter) -> None:
        with self._lock:
            hold = waiter.leave() if waiter.tracker.gate is self else None
            if not self._frozen:
                self._line.scan()
        if waiter.tracker.gate is not self:
            waiter.tracker.gate.abandon(waiter)
        elif hold is not None:
            hold.release()
        self._tell()

    def record(self, tracker: BudgetTracker, amount: Amount, facts: CallFacts) -> LedgerEntry:
        return self._real.record(_real(tracker), amount, facts)

    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry:
        return self._real.correct(entry_id, figures)

    def _work_off(self) -> None:
        if not self._frozen:
            super()._work_off()

    def _left(self, hold: Hold) -> bool:
        return self._frozen or hold.tracker.gate is not self

    @contextmanager
    def _here(self) -> Iterator[None]:
        with self._lock:
            if self._frozen:
                raise Moving
            yield

    def _explained(self, refusal: LLMBudgetExceededError) -> LLMError:
        """Why a call is refused: what was held for this does not suffice; or as in any budget."""
        limited = (each for each in self._shadows.values() if each.shared and each.path == refusal.path)
        account = next((a for each in limited for a in each.own_accounts if a.unit == refusal.unit), None)
        if account is None or refusal.reason == "closed":
            return refusal
        said, requested = self._real.outage_said, refusal.requested
        need = nano_usd_of("requested", requested) if isinstance(requested, Decimal) else int(requested or 0)
        return LLMStoreError(
            f"{said.message} Of the slice that budget {account.path!r} was granted before, "
            f"{shown(account.unit, account.left or 0)} of {shown(account.unit, account.limit or 0)} are left, and a "
            f"call of up to {shown(account.unit, need)} does not fit in it.",
            store=said.store,
            provider=refusal.provider,
            model=refusal.model,
        )


def _real(tracker: BudgetTracker) -> BudgetTracker:
    return tracker.real if isinstance(tracker, ShadowTracker) else tracker


def _book(own: tuple[Account, ...], held: Amount, spent: Amount) -> None:
    for account, freed, more in zip(own, held, spent, strict=True):
        account.held -= freed
        account.spent += more


class _Changes:
    """The holds of a shadow."""

    def __init__(self) -> None:
        self.holds: weakref.WeakSet[StoredHold] = weakref.WeakSet()

    def note(self, hold: StoredHold) -> None:
        self.holds.add(hold)


class _Lines(Ledger):
    """Keeps the holds that have ended, until they are written."""

    def __init__(self, gate: ShadowGate) -> None:
        super().__init__(0, gate._lock)
        self._gate = gate

    def append(self, line: LedgerEntry | Hold, kind: Kind, labels: Mapping[str, str], amount: Amount) -> None:
        assert isinstance(line, StoredHold)
        self._gate.ended.append(line)
