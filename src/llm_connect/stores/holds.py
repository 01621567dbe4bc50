"""Holds that a store keeps, and that note their changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn

from llm_connect.budget.admission.holds import NO_ENDING, Ending, Hold
from llm_connect.budget.admission.holds import lost as lost_holds
from llm_connect.budget.admission.refusals import refusal_of
from llm_connect.errors import LLMError
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.demands import CallFacts, Demand
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.stores.lease import Lease
    from llm_connect.stores.ports import StoreParts


class Before(NamedTuple):
    """The state of a hold before a step."""

    ended: bool
    dispatched: bool
    bound: Amount
    row: int | str | None
    lease: Lease | None


class StoredHold(Hold):
    """A persisted hold. Assigning its state or bound notes the change for the current step."""

    __slots__ = ("_bound", "_dispatched", "_ended", "_session", "lease", "row")
    #: Leaves a note, also for a hold that has ended; no exception can interrupt it (see `OpenHold`).
    __del__: ClassVar[Callable[[Any], None]] = lru_cache(maxsize=0)(lost_holds.append)

    def __init__(
        self,
        keeper: Any,
        tracker: Scope,
        bound: Amount,
        max_tokens: int | None,
        demand: Demand,
        facts: CallFacts,
    ) -> None:
        self._session: StoreParts = keeper.session
        #: Its number or name in the store; None until it is written.
        self.row: int | str | None = None
        #: Its lease in the store.
        self.lease: Lease | None = None
        #: A hold counts as ended until a step grants it.
        self._ended: bool = True
        self._dispatched: bool = False
        self._bound: Amount = NOTHING
        super().__init__(keeper, tracker, bound, max_tokens, demand, facts)

    @property
    def ended(self) -> bool:
        return self._ended or self.lost

    @ended.setter
    def ended(self, ended: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._session.changes.note(self)
        self._ended = ended

    @property
    def dispatched(self) -> bool:
        return self._dispatched

    @dispatched.setter
    def dispatched(self, dispatched: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._session.changes.note(self)
        self._dispatched = dispatched

    @property
    def bound(self) -> Amount:
        return self._bound

    @bound.setter
    def bound(self, bound: Amount) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._session.changes.note(self)
        self._bound = bound

    def stay_dispatched(self, dispatched: bool) -> None:
        """Show this state to the caller, even if the store has another one."""
        self._dispatched = dispatched

    @property
    def before(self) -> Before:
        return Before(self._ended, self._dispatched, self._bound, self.row, self.lease)

    def undo(self, before: Before) -> None:
        """Restore the state before a step that was rolled back."""
        self._ended, self._dispatched, self._bound, self.row, self.lease = before
        self.entry_id: int = 0
        self.ending: Ending = NO_ENDING
        self.ended_at: float = 0.0

    @property
    def lost(self) -> bool:
        """True if its lease was lost, so that another process has ended it."""
        return self.lease is not None and self.lease is not self._session.leases.own

    @property
    def late(self) -> bool:
        """True if it was lost and its owner has not ended it yet."""
        return self.lost and not self._ended

    def leave_row(self) -> None:
        """End it without its row, which is gone or belongs to another hold by now."""
        self.ended = True  # pyright: ignore[reportIncompatibleVariableOverride]
        self.row = None

    def given_back(self) -> LLMError:
        if self.lost:
            return refusal_of(self.tracker.accounts, self.demand, self.facts, "lease_lost")
        return super().given_back()

    def __reduce__(self) -> NoReturn:
        raise TypeError("A hold cannot be pickled: it ends in the process that reserved it. Pickle its tracker.")
