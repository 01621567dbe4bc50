"""The trackers of a budget in a server that this process knows."""

from __future__ import annotations

import json
import secrets
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.redis.packing import CLOSED, LIMITS, has_window, limit_figure, new_state, states_of
from llm_connect.stores.redis.server import store_error, text_of
from llm_connect.stores.redis.windows import window_of, window_text
from llm_connect.stores.serialization import Row, bring_up_to_date
from llm_connect.stores.trackers import Trackers

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.accounting.windows import Window
    from llm_connect.stores.redis.ports import ServerSession

#: Numbers are drawn, so that no process has to ask for one.
_BITS = 52


class ServerTrackers(Trackers):
    """Trackers by the number under which they stand there; what is known of them is what the last reply said."""

    _gate: ServerSession

    def __init__(self, *details: Any, **more: Any) -> None:
        super().__init__(*details, **more)
        self._states: weakref.WeakKeyDictionary[Scope, Row] = weakref.WeakKeyDictionary()
        self._slices_before: dict[int, str] = {}
        #: What the step at hand makes: number, place, state, and under which name it can be joined.
        self.new: list[tuple[str, str, list[int], str | bool]] = []

    def _read(self, number: int) -> Row:
        place, state = self._gate.fetch("HGET", "places", number), self._gate.fetch("HGET", "trackers", number)
        if state is None:
            raise store_error(self._gate.terms.url, f"it has lost a tracker of budget {self._gate.terms.name!r}")
        parent, name, is_slice = (None, self._gate.terms.name, False) if place is None else json.loads(place)
        # A window that others change meanwhile has changed since the last reply: what is decided on it is not written.
        windows = {number: self._gate.fetch("HGET", "windows", number).decode()} if has_window(state) else {}
        ((_, row),) = states_of(state, windows)
        return parent, name, is_slice, *row

    def _window(self, number: int, state: Row) -> Window | None:
        return None if state[-1] is None else window_of(state[-1], self._gate.clock)

    def _bring_up_to_date(self, tracker: Scope, number: int, state: Row) -> None:
        self._states[tracker] = state
        super()._bring_up_to_date(tracker, number, state)

    def number_of(self, tracker: Scope, *, joined: bool = False) -> int:
        if not tracker.number:
            parent = 0 if tracker.parent is None else self.number_of(tracker.parent)
            number = secrets.randbits(_BITS) | 2
            limits: Any = tuple(account.limit for account in tracker.own_accounts)
            place = text_of([parent, tracker.name, tracker.is_slice])
            state = new_state(number, closed=tracker.closed_itself, limits=limits)
            self.new.append((str(number), place, state, joined and _joined(parent, tracker.name)))
            # First, so that whatever comes between, undoing knows of it.
            self._inserted.append(tracker)
            self._enter(tracker, number, lease=None)
            if tracker.window is not None:
                # Nothing was ever in it; what it knows of numbers is of steps before.
                tracker.window.forget(0)
        return tracker.number

    def path_of(self, tracker: Scope) -> list[str]:
        """The numbers from a tracker up to the root."""
        self.number_of(tracker)
        return [str(above.number) for above in tracker.lineage]

    def joined(self, child: Scope) -> BudgetTracker | None:
        assert child.parent is not None
        number = self._gate.fetch("HGET", "places", _joined(self.number_of(child.parent), child.name))
        return None if number is None else self.find(int(number))

    def deepest_first(self) -> list[BudgetTracker]:
        numbers = [int(number) for number in self._gate.fetch("HKEYS", "trackers")]
        spent = [each for each in map(self.find, numbers) if any(account.spent for account in each.own_accounts)]
        # And those above, whose windows may have less than those of their children.
        found = {above: None for each in spent for above in each.lineage}
        return sorted(found, key=lambda tracker: len(tracker.lineage), reverse=True)

    def refresh(self) -> None:
        """Each reply does."""

    def absorb(self, states: bytes, windows: Mapping[int, str]) -> None:
        """Take over the states that a reply has, and the windows that have changed."""
        for number, state in states_of(states, windows):
            self._note_slice(number, state[1])
            tracker = self._known.get(number)
            if tracker is not None:
                self._take_over(tracker, state)

    def _take_over(self, tracker: Scope, state: Row) -> None:
        """Let `tracker` be as it is said to be; its window is as before when nothing is said of it."""
        if tracker.window is None:
            self._states[tracker] = state
            bring_up_to_date(tracker, state)
        elif state[-1] is None:
            self._states[tracker] = (*state[:-1], self._states[tracker][-1])
            bring_up_to_date(tracker, state)
        else:
            self._bring_up_to_date(tracker, tracker.number, state)
            self._gate.look_again()

    def windows(self, trackers: Iterable[Scope]) -> list[tuple[str, str]]:
        """What has changed of the windows of these, and those of new trackers."""
        concerned = dict.fromkeys((*trackers, *self._inserted))
        changed = [(each, each.window) for each in concerned if each.window is not None and each.window.changed]
        return [(str(self.number_of(tracker)), window_text(window)) for tracker, window in changed]

    def sets(self, tracker: Scope) -> list[tuple[str, int, int]]:
        """What of `tracker` is to be set: whether it is closed, and its limits."""
        before = self._states.get(tracker)
        if before is None:
            return []
        closed = int(tracker.closed_itself and tracker.parent is not None)
        found: list[tuple[str, int, int]] = []
        if closed != before[0]:
            found.append((str(tracker.number), CLOSED, closed))
        for place, account in zip(LIMITS, tracker.own_accounts, strict=True):
            if account.limit != before[place - 3]:
                found.append((str(tracker.number), place, limit_figure(account.limit)))
        return found

    def commit(self) -> None:
        """What was made is there."""
        self._inserted.clear()
        self.new.clear()
        self._slices_before = dict(self.slices)

    def undo(self) -> None:
        stamp = self.stamp
        super().undo()
        self.stamp = stamp
        self.new.clear()
        self.slices: dict[int, Any] = dict(self._slices_before)
        for tracker, state in list(self._states.items()):
            if tracker.number:
                self._bring_up_to_date(tracker, tracker.number, state)


def _joined(parent: int, name: str) -> str:
    return f"joined:{parent}:{name}"
