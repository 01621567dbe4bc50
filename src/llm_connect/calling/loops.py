"""Values that belong to an event loop."""

from __future__ import annotations

import asyncio
import weakref
from typing import Generic, TypeVar

V = TypeVar("V")


class PerLoop(Generic[V]):
    """One value for each running event loop, for loops in several threads.

    A value may refer to its loop, so weak keys alone would keep every loop that ever was: closed ones are dropped
    when a new one comes.
    """

    def __init__(self) -> None:
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, V] = weakref.WeakKeyDictionary()

    def get(self) -> V | None:
        return self._values.get(asyncio.get_running_loop())

    def put(self, value: V) -> V:
        for reference in self._values.keyrefs():
            loop = reference()
            if loop is not None and loop.is_closed():
                self._values.pop(loop, None)
        self._values[asyncio.get_running_loop()] = value
        return value

    def pop(self) -> V | None:
        return self._values.pop(asyncio.get_running_loop(), None)

    def clear(self) -> None:
        self._values.clear()
