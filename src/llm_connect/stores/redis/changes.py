"""The changes of a step, and its conditions, in the form that the server's script reads."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from llm_connect.budget.accounting.ledger import LedgerEntry
from llm_connect.budget.admission.allotments import limits_of
from llm_connect.stores.changes import Changes
from llm_connect.stores.holds import Before, StoredHold
from llm_connect.stores.redis.server import text_of
from llm_connect.stores.serialization import hold_values
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.holds import Hold
    from llm_connect.stores.redis.ports import ServerParts

#: The number of arguments of the script before the texts.
_BEFORE = 6


class StepChanges(Changes):
    """The changes of the current step. They are differences, so that they combine with the steps of other processes."""

    def __init__(self, session: ServerParts) -> None:
        super().__init__()
        self._session = session
        #: The new ledger entries, each with its details for the script.
        self.entries: list[tuple[LedgerEntry | Hold, list[Any]]] = []
        #: The texts of entries and holds, which the script stores unread.
        self.texts: list[str] = []
        #: The rarer parts of a step, by their names in the script.
        self._further: defaultdict[str, list[Any]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._holds or self._trackers or self.entries or self._further or self._session.trackers.new)

    def clear(self) -> None:
        self._holds.clear()
        self._trackers.clear()
        self.entries.clear()
        self.texts.clear()
        self._further.clear()

    def note_allotment(self, share: Scope, lease: Any) -> None:
        size = False if lease is None else limits_of(share)
        self.say("allotments", (self._session.trackers.path_of(share), lease or "", size))

    def say(self, what: str, value: Any) -> None:
        """Add a value to a rarer part of the step, by its name in the script."""
        self._further[what].append(value)

    def say_once(self, what: str, value: Any) -> bool:
        """Like `say`; False if the step has this value already."""
        said = self._further[what]
        if value in said:
            return False
        said.append(value)
        return True

    @property
    def over(self) -> list[str]:
        """The leases that the step ends."""
        return self._further.get("over", [])

    def add(
        self,
        line: LedgerEntry | Hold,
        amounts: tuple[list[str], Amount, Amount],
        texts: tuple[str, str, list[str]],
        end: tuple[bool, str | bool],
    ) -> None:
        """Add an entry to the step.

        amounts: the path of its tracker, and the spent and presumed amounts. texts: of the entry, of its kind and of
        its labels. end: True if it is presumed, and the lost hold that it ends.
        """
        text, kind, labels = texts
        places = [self._place(text), self._place(kind), [self._place(label) for label in labels]]
        self.entries.append((line, [*amounts, *places, *end]))

    def written(self, first: int) -> None:
        """Number the entries of the step, from `first` on."""
        for number, (line, _) in enumerate(self.entries, first):
            if isinstance(line, LedgerEntry):
                object.__setattr__(line, "id", number)
            else:
                line.entry_id = number

    def step(self) -> dict[str, Any]:
        """The step in the form that the script reads."""
        trackers = self._session.trackers
        step: dict[str, Any] = dict(self._further)
        if self._holds:
            step["holds"] = [found for each in self._holds.items() if (found := self._change(*each)) is not None]
        if self._trackers:
            step["set"] = [each for tracker in self._trackers for each in self._sets(tracker)]
        if self.entries:
            step["entries"] = [details for _, details in self.entries]
        if self._session.gate.windowed:
            step["windows"] = trackers.windows(self._trackers)
        if trackers.new:
            step["new"] = trackers.new
        if "allotments" in step or any(new[3] for new in trackers.new):
            step["everybody"] = True
        return step

    def missing(self) -> list[StoredHold]:
        """The holds that the step assumes to be in the store."""
        return [hold for hold, before in self._holds.items() if before.row is not None]

    def _place(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) + _BEFORE

    def _sets(self, tracker: Scope) -> list[tuple[str, int, Any]]:
        self._session.trackers.number_of(tracker)
        return self._session.trackers.sets(tracker)

    def _change(self, hold: StoredHold, before: Before) -> list[Any] | None:
        """The change of a hold: name, must exist, path, growth of held, amount that must fit, new text."""
        is_open = not hold.ended
        if hold.row is None and not is_open:
            return None
        path = self._session.trackers.path_of(hold.tracker)
        if not is_open:
            self._session.leases.open_holds -= hold.lease is self._session.leases.own
            bound = hold.bound if before.row is None else before.bound
            return [hold.row, 1, path, NOTHING.minus(bound), False, 0, False]
        granted = hold.row is None
        if granted:
            self._session.leases.enter(hold)
        more = hold.bound.minus(NOTHING if granted else before.bound)
        dispatches = not granted and before.dispatched != hold.dispatched
        return [hold.row, int(not granted), path, more, more, int(not dispatches), self._place(self._text(hold))]

    @staticmethod
    def _text(hold: StoredHold) -> str:
        assert hold.lease is not None
        return text_of(hold_values(hold, hold.lease, hold.tracker.number))
