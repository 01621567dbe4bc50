"""The gate of a budget in a server that goes on while the server cannot be reached, and may lose answers of it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from llm_connect.stores.holds import Before, StoredHold
from llm_connect.stores.redis.gate import RedisGate
from llm_connect.stores.redis.server import Doubt
from llm_connect.stores.redis.states import LAST
from llm_connect.stores.shadows import Left, ShadowState
from llm_connect.stores.slicing import SlicingGate


class Doubted(NamedTuple):
    """A step that has written what was spent in an outage, or has not: nobody knows."""

    number: int
    #: What its entries were made of, in their order.
    lines: list[Any]
    ended: list[ShadowState]


class SlicingRedisGate(SlicingGate, RedisGate):
    """Like `RedisGate`; it goes on while the server cannot be reached."""

    def __init__(self, *details: Any) -> None:
        self._doubted: Doubted | None = None
        #: How many steps had been sent before that which writes what was spent in an outage.
        self._steps_before = 0
        super().__init__(*details)

    def others_wait(self) -> bool:
        with self.lock.no_transaction():
            return bool(self.fetch("HLEN", "waiters"))

    def roll_back(self, error: BaseException) -> None:
        if not isinstance(error, Doubt):
            super().roll_back(error)
            return
        undo = partial(super().roll_back, error)
        if self._left is not None and self._steps > self._steps_before:
            left, self._left = self._left, None
            undo = partial(self._leave_in_doubt, left, undo)
        self.allowances.undo_in_doubt(undo)

    def _leave_in_doubt(self, left: Left, undo: Any) -> None:
        """Nothing is spent any more of what may have been given back.

        What is open stands under a lease that was let go; what has ended is written anew if need be.
        """
        self._doubted = Doubted(
            self._steps,
            [line for line, _ in self.changes.entries],
            [state for state in left.holds if state.before.ended],
        )
        held = [(state.hold, state.hold.before) for state in left.holds if not state.before.ended]
        undo()
        for hold, as_written in held:
            self._let_go_of(hold, as_written)
        for state in self._doubted.ended:
            state.restore()
        self.leave_shadow(left)

    def _let_go_of(self, hold: StoredHold, as_written: Before) -> None:
        hold.undo(as_written)
        assert hold.lease is not None
        if hold.lease.number not in self.leases.doubtful:
            self.leases.doubtful.append(hold.lease.number)

    def _end_over(self) -> bool:
        # The step that follows may be the next one: then nobody could see any more whether that one was written.
        self._see_what_was_written()
        return super()._end_over()

    def _see_what_was_written(self) -> None:
        doubted = self._doubted
        last = None if doubted is None else self.fetch("HGET", "lasts", self.client)
        if doubted is None or last is None:
            return
        number, first = LAST.unpack(last)
        if number == doubted.number:
            self._doubted = None
            ids = {id(line): entry_id for entry_id, line in enumerate(doubted.lines, first)}
            for state in doubted.ended:
                state.hold.entry_id = ids[id(state.hold)]
            self.note_ids(doubted.ended)

    def _reconcile(self) -> None:
        self._steps_before = self._steps
        super()._reconcile()

    def unwritten(self) -> list[ShadowState]:
        return [] if self._doubted is None else self._doubted.ended

    def _settled(self) -> None:
        if self._left is not None:
            self._doubted = None
        super()._settled()

    def leave_to_parent(self) -> None:
        super().leave_to_parent()
        self._doubted = None
