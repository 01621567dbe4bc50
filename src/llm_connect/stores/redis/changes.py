"""The step of a process as it is sent to the server: what it changes, and on which conditions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm_connect.core.ledger import LedgerEntry
from llm_connect.core.units import NOTHING, Amount
from llm_connect.stores.changes import Changes
from llm_connect.stores.holds import Before, StoredHold
from llm_connect.stores.rows import labels_text

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker
    from llm_connect.core.holds import Hold
    from llm_connect.stores.redis.state import RedisState

#: How many arguments of the script come before the texts.
_BEFORE = 5


class StepChanges(Changes):
    """What the step at hand changes. It is written as differences, so that it fits beside the steps of others."""

    def __init__(self, gate: RedisState) -> None:
        super().__init__()
        self._gate = gate
        #: The lines that it adds to the ledger, each with what the script is to know of it.
        self.entries: list[tuple[LedgerEntry | Hold, list[Any]]] = []
        #: Texts of entries and holds, which the script takes as they are.
        self.texts: list[str] = []
        #: Slices that it opens, with the lease and what is set aside, or closes.
        self.slices: list[tuple[BudgetTracker, str, Amount | None]] = []
        #: Numbers of presumed entries that it corrects, and names of lost holds that it ends late.
        self.corrects: list[int] = []
        self.late: list[str] = []
        #: What leaves windows: the tracker, and how much less of it is spent and presumed.
        self.left: list[tuple[BudgetTracker, Amount, Amount]] = []
        #: Callers of whom the others are told: name, place and milliseconds. And the names of those that are forgotten.
        self.told: list[tuple[str, str, int]] = []
        self.forgotten: list[str] = []
        #: Leases that it ends.
        self.over: list[str] = []

    def __bool__(self) -> bool:
        further = self.entries or self.over or self.late or self.told or self.forgotten or self._gate.trackers.new
        return bool(super().__bool__() or further)

    def clear(self) -> None:
        super().clear()
        for of_step in (self.entries, self.texts, self.slices, self.corrects, self.late, self.left, self.over):
            of_step.clear()
        self.told.clear()
        self.forgotten.clear()

    def add(
        self,
        line: LedgerEntry | Hold,
        amounts: tuple[list[str], Amount, Amount],
        texts: tuple[str, str, list[str]],
        end: tuple[bool, str | bool],
    ) -> None:
        """Let it write an entry.

        amounts: its path, spent, and presumed. texts: its own, that of its kind, those of its labels. end: whether it
        is presumed, and which lost hold it ends.
        """
        text, kind, labels = texts
        places = [self._place(text), self._place(kind), [self._place(label) for label in labels]]
        self.entries.append((line, [*amounts, *places, *end]))

    def written(self, first: int) -> None:
        """Its entries have the numbers from `first` on."""
        for number, (line, _) in enumerate(self.entries, first):
            if isinstance(line, LedgerEntry):
                object.__setattr__(line, "id", number)
            else:
                line.entry_id = number

    def step(self) -> dict[str, Any]:
        """It as the script reads it."""
        trackers = self._gate.trackers
        step: dict[str, Any] = {}
        if self._holds:
            step["holds"] = [found for each in self._holds.items() if (found := self._change(*each)) is not None]
        if self._trackers:
            step["set"] = [each for tracker in self._trackers for each in self._sets(tracker)]
        if self.entries:
            step["entries"] = [details for _, details in self.entries]
        rare: dict[str, Any] = {
            "late": self.late,
            "told": self.told,
            "forgotten": self.forgotten,
            "over": self.over,
            "correct": [str(number) for number in self.corrects],
        }
        if self.left:
            rare["left"] = [(trackers.path_of(each)[0], *map(NOTHING.minus, amounts)) for each, *amounts in self.left]
        if self._gate.windowed:
            rare["windows"] = trackers.windows(self._trackers)
        rare["slices"] = [self._slice(*each) for each in self.slices]
        step.update((name, part) for name, part in rare.items() if part)
        if trackers.new:
            step["new"] = trackers.new
        if self.slices or any(new[3] for new in trackers.new):
            step["everybody"] = True
        return step

    def missing(self) -> list[StoredHold]:
        """The holds that it takes to be in the store."""
        return [hold for hold, before in self._holds.items() if before.row is not None]

    def _slice(self, child: BudgetTracker, lease: str, size: Amount | None) -> tuple[Any, ...]:
        return self._gate.trackers.path_of(child), lease, False if size is None else size

    def _place(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) + _BEFORE

    def _sets(self, tracker: BudgetTracker) -> list[tuple[str, int, Any]]:
        self._gate.trackers.number_of(tracker)
        return self._gate.trackers.sets(tracker)

    def _change(self, hold: StoredHold, before: Before) -> list[Any] | None:
        """Its name, whether it has to be there, its path, how much more is held, needs, and its new text."""
        is_open = not hold.ended
        if hold.row is None and not is_open:
            return None
        path = self._gate.trackers.path_of(hold.tracker)
        if not is_open:
            self._gate.leases.open_holds -= hold.lease is self._gate.leases.own
            bound = hold.bound if before.row is None else before.bound
            return [hold.row, 1, path, NOTHING.minus(bound), False, 0, False]
        granted = hold.row is None
        if granted:
            self._gate.leases.enter(hold)
        more = hold.bound.minus(NOTHING if granted else before.bound)
        dispatches = not granted and before.dispatched != hold.dispatched
        needs = False if granted and hold.adopted else more
        return [hold.row, int(not granted), path, more, needs, int(not dispatches), self._place(self._text(hold))]

    def _text(self, hold: StoredHold) -> str:
        assert hold.lease is not None
        facts = hold.facts
        return json.dumps(
            (
                *(hold.lease.number, hold.tracker.number, hold.state, *hold.bound, hold.max_tokens),
                *(facts.grade, facts.adapter, facts.model, labels_text(facts.labels), hold.reserved_at),
            )
        )
