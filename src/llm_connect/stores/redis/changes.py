"""The step of a process as it is sent to the server: what it changes, and on which conditions."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from llm_connect.budget.accounting.ledger import LedgerEntry
from llm_connect.stores.changes import Changes
from llm_connect.stores.holds import Before, StoredHold
from llm_connect.stores.redis.server import text_of
from llm_connect.stores.serialization import hold_values
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.holds import Hold
    from llm_connect.stores.redis.ports import ServerSession

#: How many arguments of the script come before the texts.
_BEFORE = 6


class StepChanges(Changes):
    """What the step at hand changes. It is written as differences, so that it fits beside the steps of others."""

    def __init__(self, gate: ServerSession) -> None:
        super().__init__()
        self._gate = gate
        #: The lines that it adds to the ledger, each with what the script is to know of it.
        self.entries: list[tuple[LedgerEntry | Hold, list[Any]]] = []
        #: Texts of entries and holds, which the script takes as they are.
        self.texts: list[str] = []
        #: What few steps have, by its name, as the script reads it.
        self._further: defaultdict[str, list[Any]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._holds or self._trackers or self.entries or self._further or self._gate.trackers.new)

    def clear(self) -> None:
        self._holds.clear()
        self._trackers.clear()
        self.entries.clear()
        self.texts.clear()
        self._further.clear()

    def add_slice(self, child: Scope, lease: str, size: Amount | None) -> None:
        """Let it open a slice under a lease, with so much set aside; or close it, with no lease and size."""
        self._further["slices"].append((self._gate.trackers.path_of(child), lease, False if size is None else size))

    def add_left(self, tracker: Scope, spent: Amount, presumed: Amount) -> None:
        """Let so much leave the window of a tracker."""
        number = self._gate.trackers.path_of(tracker)[0]
        self._further["left"].append((number, NOTHING.minus(spent), NOTHING.minus(presumed)))

    def correct(self, entry_id: int) -> bool:
        """Let it amend a presumed entry; False when it does already."""
        number = str(entry_id)
        if number in self._further.get("correct", ()):
            return False
        self._further["correct"].append(number)
        return True

    def amend(self, entry_id: int) -> bool:
        """Let it amend a settled entry; False when it does already."""
        if entry_id in self._further.get("amend", ()):
            return False
        self._further["amend"].append(entry_id)
        return True

    def end_late(self, name: str) -> None:
        """Let it end a hold that was lost."""
        self._further["late"].append(name)

    def end_leases(self, names: list[str]) -> None:
        """Let it end leases."""
        self._further["over"].extend(names)

    @property
    def over(self) -> list[str]:
        """Leases that it ends."""
        return self._further.get("over", [])

    def tell(self, name: str, place: str, milliseconds: int) -> None:
        """Let it tell the others that a caller waits, for so long."""
        self._further["told"].append((name, place, milliseconds))

    def forget(self, name: str) -> None:
        """Let it tell the others that a caller waits no longer."""
        self._further["forgotten"].append(name)

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
        step: dict[str, Any] = dict(self._further)
        if self._holds:
            step["holds"] = [found for each in self._holds.items() if (found := self._change(*each)) is not None]
        if self._trackers:
            step["set"] = [each for tracker in self._trackers for each in self._sets(tracker)]
        if self.entries:
            step["entries"] = [details for _, details in self.entries]
        if self._gate.windowed:
            step["windows"] = trackers.windows(self._trackers)
        if trackers.new:
            step["new"] = trackers.new
        if "slices" in step or any(new[3] for new in trackers.new):
            step["everybody"] = True
        return step

    def missing(self) -> list[StoredHold]:
        """The holds that it takes to be in the store."""
        return [hold for hold, before in self._holds.items() if before.row is not None]

    def _place(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) + _BEFORE

    def _sets(self, tracker: Scope) -> list[tuple[str, int, Any]]:
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
        return [hold.row, int(not granted), path, more, more, int(not dispatches), self._place(self._text(hold))]

    @staticmethod
    def _text(hold: StoredHold) -> str:
        assert hold.lease is not None
        return text_of(hold_values(hold, hold.lease, hold.tracker.number))
