"""The changes of one step in memory, which a commit writes and a failure undoes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llm_connect.stores.holds import Before, StoredHold
from llm_connect.stores.serialization import start_anew

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope


class Changes:
    """The holds and trackers that the current step has changed."""

    def __init__(self) -> None:
        self._holds: dict[StoredHold, Before] = {}
        self._trackers: dict[Scope, None] = {}

    def note(self, hold: StoredHold) -> None:
        """Remember the state of a hold that is about to change."""
        if hold not in self._holds:
            self._holds[hold] = hold.before

    def note_trackers(self, trackers: Iterable[Scope]) -> None:
        """Note trackers whose figures have changed, or may have."""
        self._trackers.update(dict.fromkeys(trackers))

    def note_allotment(self, share: Scope, lease: Any) -> None:
        """Note that the step has opened an allotment under a lease; None means that it has closed it."""

    def __bool__(self) -> bool:
        return bool(self._holds or self._trackers)

    def clear(self) -> None:
        """Forget the changes: the store has them."""
        self._holds.clear()
        self._trackers.clear()

    def undo(self) -> None:
        """Restore all holds, and reset trackers that have no row; the session reads the others again."""
        for hold, before in self._holds.items():
            self.note_trackers(hold.tracker.lineage)
            hold.undo(before)
        for tracker in self._trackers:
            if not tracker.number:
                start_anew(tracker)
        self.clear()

    @property
    def touched(self) -> list[Scope]:
        """The trackers whose figures this step has changed, or may have."""
        of_holds = (each for hold in self._holds for each in hold.tracker.lineage)
        return list(dict.fromkeys((*self._trackers, *of_holds)))

    def granted(self) -> list[StoredHold]:
        """The open holds that this step has granted."""
        return [hold for hold, before in self._holds.items() if before.row is None and not hold.ended]
