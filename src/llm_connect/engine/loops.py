"""Values that belong to one event loop each."""

from __future__ import annotations

import asyncio
import weakref
from typing import Generic, TypeVar

V = TypeVar("V")


class PerLoop(Generic[V]):
    """One value for each running event loop, for loops in several threads.

    Only the loop refers to its value, and drops it when it is closed. A value may refer to its loop and to tasks that
    wait in it; another reference would keep these, and their holds, alive for as long as the adapter.
    """

    def __init__(self) -> None:
        self._boxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Box[V]]]
        self._boxes = weakref.WeakKeyDictionary()

    def get(self) -> V | None:
        box = self._box_of(asyncio.get_running_loop())
        return None if box is None else box.value

    def put(self, value: V) -> V:
        loop = asyncio.get_running_loop()
        box = self._box_of(loop)
        if box is None:
            box = _Box()
            # A timer that never fires: a loop keeps its timers until it is closed.
            loop.call_later(_NEVER_SECONDS, _Box.pop, box)
            self._boxes[loop] = weakref.ref(box)
        box.value = value
        return value

    def pop(self) -> V | None:
        box = self._box_of(asyncio.get_running_loop())
        return None if box is None else box.pop()

    def pop_all(self) -> list[V]:
        """Take the values of all loops away and return them."""
        boxes = [ref() for ref in list(self._boxes.values())]
        values = [box.pop() for box in boxes if box is not None]
        return [value for value in values if value is not None]

    def _box_of(self, loop: asyncio.AbstractEventLoop) -> _Box[V] | None:
        ref = self._boxes.get(loop)
        return None if ref is None else ref()


class _Box(Generic[V]):
    __slots__ = ("__weakref__", "value")

    def __init__(self) -> None:
        self.value: V | None = None

    def pop(self) -> V | None:
        value, self.value = self.value, None
        return value


#: Thirty years.
_NEVER_SECONDS = 1e9
