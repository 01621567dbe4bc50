"""The trackers of a budget in a server that this process has loaded."""

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
    from llm_connect.stores.redis.ports import ServerParts

#: The size of a tracker's number. Numbers are random, so that no process has to ask for one.
_BITS = 52


class ServerTrackers(Trackers):
    """Trackers by their number in the server. Their figures are those of the last reply."""

    _session: ServerParts

    def __init__(self, *details: Any, **more: Any) -> None:
        super().__init__(*details, **more)
        self._states: weakref.WeakKeyDictionary[Scope, Row] = weakref.WeakKeyDictionary()
        #: The stamp at which each tracker was last up to date.
        self._seen_at: weakref.WeakKeyDictionary[Scope, int] = weakref.WeakKeyDictionary()
        #: The stamp of the budget in the last reply; None before the first one.
        self.stamp: int | None = None
        #: The stamp of the last change that other processes may have made. Later copies are up to date.
        self._alone_since = 0
        #: The open allotments of all processes, each with its lease and path, as of epoch `_allotments_at`.
        self._allotments: dict[int, list[str]] = {}
        self._allotments_at: int | None = None
        #: The trackers that the current step creates: number, place, state, and the name by which others join it.
        self.new: list[tuple[str, str, list[int], str | bool]] = []

    def _read(self, number: int) -> Row:
        place, state = self._session.fetch("HGET", "places", number), self._session.fetch("HGET", "trackers", number)
        if state is None:
            raise store_error(self._session.terms.url, f"it has lost a tracker of budget {self._session.terms.name!r}")
        # Earlier versions have kept a flag behind the name.
        parent, name, *_ = (None, self._session.terms.name) if place is None else json.loads(place)
        # If another process changes the window meanwhile, the server refuses the step that was decided on it.
        windows = {number: self._window_text(number)} if has_window(state) else {}
        ((_, row),) = states_of(state, windows)
        return parent, name, *row

    def _window(self, number: int, state: Row) -> Window | None:
        return None if state[-1] is None else window_of(state[-1], self._session.gate.clock)

    def _bring_up_to_date(self, tracker: Scope, number: int, state: Row) -> None:
        self._states[tracker] = state
        self._seen_at[tracker] = self.stamp or 0
        super()._bring_up_to_date(tracker, number, state)

    def number_of(self, tracker: Scope, *, joined: bool = False) -> int:
        if not tracker.number:
            parent = 0 if tracker.parent is None else self.number_of(tracker.parent)
            number = secrets.randbits(_BITS) | 2
            limits: Any = tuple(account.limit for account in tracker.own_accounts)
            place = text_of([parent, tracker.name])
            state = new_state(number, closed=tracker.closed_itself, limits=limits)
            self.new.append((str(number), place, state, joined and _joined(parent, tracker.name)))
            # First, so that `undo` knows of it if an interruption follows.
            self._inserted.append(tracker)
            self._enter(tracker, number)
            self._seen_at[tracker] = self.stamp or 0
            if tracker.window is not None:
                # The window is empty. Its entry number comes from an earlier step.
                tracker.window.forget(0)
        return tracker.number

    def path_of(self, tracker: Scope) -> list[str]:
        """The numbers from a tracker up to the root."""
        self.number_of(tracker)
        return [str(above.number) for above in tracker.lineage]

    def joined(self, child: Scope) -> BudgetTracker | None:
        assert child.parent is not None
        number = self._session.fetch("HGET", "places", _joined(self.number_of(child.parent), child.name))
        return None if number is None else self.find(int(number))

    def deepest_first(self) -> list[BudgetTracker]:
        every = [self.find(int(number)) for number in self._session.fetch("HKEYS", "trackers")]
        spent = [each for each in every if any(account.spent for account in each.own_accounts)]
        # Include all parents: their windows may contain less spend than those of their children.
        found = {above: None for each in spent for above in each.lineage}
        return sorted(found, key=lambda tracker: len(tracker.lineage), reverse=True)

    def refresh(self, trackers: Iterable[Scope]) -> None:
        changed = set(self._session.changes.touched)
        old = [each for each in trackers if self._seen_at.get(each, 0) < self._alone_since and each not in changed]
        if old:
            states = self._session.fetch("HMGET", "trackers", *(each.number for each in old))
            texts = {each.number: self._window_text(each.number) for each in old if each.window is not None}
            self.absorb(b"".join(filter(None, states)), texts)

    def _window_text(self, number: int) -> str:
        text: bytes = self._session.fetch("HGET", "windows", number)
        return text.decode()

    def is_current(self, tracker: Scope) -> bool:
        # The server checks each step against its present state.
        return True

    def seen_at(self, trackers: Iterable[Scope]) -> int:
        """The stamp at which all of these trackers were up to date."""
        now = self.stamp or 0
        seen = (self._seen_at.get(tracker, 0) for tracker in trackers if tracker.number)
        return min((now if at >= self._alone_since else at for at in seen), default=now)

    def hear(self, states: bytes, windows: Mapping[int, str], wanted: Iterable[Scope], stamp: int, alone: bool) -> None:
        """Take over a reply: the states of changed trackers. All other `wanted` ones are unchanged.

        alone: True if no other process has written since the last reply.
        """
        self.stamp = stamp
        if not alone:
            self._alone_since = stamp
        self.absorb(states, windows)
        for tracker in wanted:
            if tracker.number:
                self._seen_at[tracker] = stamp

    def absorb(self, states: bytes, windows: Mapping[int, str]) -> None:
        """Take over states and changed windows."""
        for number, state in states_of(states, windows):
            tracker = self._known.get(number)
            if tracker is not None:
                self._take_over(tracker, state)

    def open_allotments(self, *, at: Scope | None = None, lease: object = None) -> list[BudgetTracker]:
        number = None if at is None else str(at.number)
        return [
            self.find(child)
            for child, (of_lease, *path) in self._open_allotments.items()
            if (of_lease == lease if number is None else number in path)
        ]

    def keeps_allotments(self, lease: object) -> bool:
        return any(of_lease == lease for of_lease, *_ in self._open_allotments.values())

    @property
    def _open_allotments(self) -> dict[int, list[str]]:
        """The open allotments, read again in each epoch: a step that opens or closes an allotment starts a new one."""
        if self._allotments_at != self._session.epoch:
            rows = self._session.fetch("HGETALL", "allotments")
            pairs = zip(rows[::2], rows[1::2], strict=True)
            self._allotments = {int(number): text.decode().split() for number, text in pairs}
            self._allotments_at = self._session.epoch
        return self._allotments

    def _take_over(self, tracker: Scope, state: Row) -> None:
        """Load `tracker` from a state of the server, which contains the window only if it has changed."""
        self._seen_at[tracker] = self.stamp or 0
        if tracker.window is None:
            self._states[tracker] = state
            bring_up_to_date(tracker, state)
        elif state[-1] is None:
            self._states[tracker] = (*state[:-1], self._states[tracker][-1])
            bring_up_to_date(tracker, state)
        else:
            self._bring_up_to_date(tracker, tracker.number, state)

    def windows(self, trackers: Iterable[Scope]) -> list[tuple[str, str]]:
        """Return the changed windows of these and of new trackers."""
        concerned = dict.fromkeys((*trackers, *self._inserted))
        changed = [(each, each.window) for each in concerned if each.window is not None and each.window.changed]
        return [(str(self.number_of(tracker)), window_text(window)) for tracker, window in changed]

    def sets(self, tracker: Scope) -> list[tuple[str, int, int]]:
        """The changes of `tracker` that a step sets rather than adds: its closed flag and its limits."""
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
        """Keep the new trackers: they are in the server."""
        self._inserted.clear()
        self.new.clear()

    def undo(self, touched: Iterable[Scope]) -> None:
        super().undo(touched)
        self.new.clear()
        for tracker in touched:
            state = self._states.get(tracker)
            if state is not None and tracker.number:
                seen_at = self._seen_at.get(tracker, 0)
                self._bring_up_to_date(tracker, tracker.number, state)
                self._seen_at[tracker] = seen_at

    def forget(self) -> None:
        """Make the next step in a forked process ask for everything: it has a new connection."""
        self._alone_since, self._allotments_at = (self.stamp or 0) + 1, None
        self._seen_at.clear()


def _joined(parent: int, name: str) -> str:
    return f"joined:{parent}:{name}"
