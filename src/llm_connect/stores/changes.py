"""What one transaction changes in memory: written when it commits, undone when it does not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from llm_connect.stores.holds import Before, StoredHold
from llm_connect.stores.serialization import start_anew

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope


class Changes:
    """The holds and trackers that the transaction at hand has changed."""

    def __init__(self) -> None:
        self._holds: dict[StoredHold, Before] = {}
        self._trackers: dict[Scope, None] = {}

    def note(self, hold: StoredHold) -> None:
        """`hold` is about to change."""
        if hold not in self._holds:
            self._holds[hold] = hold.before

    def note_trackers(self, trackers: Iterable[Scope]) -> None:
        """These have changed, or may have."""
        self._trackers.update(dict.fromkeys(trackers))

    def __bool__(self) -> bool:
        return bool(self._holds or self._trackers)

    def clear(self) -> None:
        """They are written."""
        self._holds.clear()
        self._trackers.clear()

    def undo(self) -> None:
        """Let all holds be as before, and trackers that have no row be new; others are read anew."""
        for hold, before in self._holds.items():
            self.note_trackers(hold.tracker.lineage)
            hold.undo(before)
        for tracker in self._trackers:
            if not tracker.number:
                start_anew(tracker)
        self.clear()

    def granted(self) -> list[StoredHold]:
        """The open holds that this transaction has granted."""
        return [hold for hold, before in self._holds.items() if before.row is None and not hold.ended]
