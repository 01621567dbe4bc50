"""Closing an async generator in its event loop, which may end before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from types import AsyncGeneratorType
from typing import Any


def close_in_loop(loop: asyncio.AbstractEventLoop, generator: AsyncGenerator[Any]) -> None:
    """Let `loop`, which may run in another thread, close it soon. Raises RuntimeError where the loop is closed."""
    loop.call_soon_threadsafe(_close, loop, generator)


def is_closed(generator: AsyncGenerator[Any]) -> bool:
    """Whether nothing is left to be closed."""
    return isinstance(generator, AsyncGeneratorType) and generator.ag_frame is None


def _close(loop: asyncio.AbstractEventLoop, generator: AsyncGenerator[Any]) -> None:
    if is_closed(generator):
        return
    task: Any = loop.create_task(_Closing(generator))
    # Where the loop ends before it, the generator ends as garbage, which is no news to anybody.
    task._log_destroy_pending = False


class _Closing(Coroutine[Any, Any, None]):
    """`await generator.aclose()`, which says nothing where it was never begun."""

    def __init__(self, generator: AsyncGenerator[Any]) -> None:
        self._generator = generator
        self._steps: Any = None

    def send(self, value: Any) -> Any:
        try:
            return self._begun().send(value)
        except RuntimeError:
            # The loop has begun to close it, too.
            raise StopIteration from None

    def throw(self, *error: Any) -> Any:
        return self._begun().throw(*error)

    def close(self) -> None:
        self._begun().close()

    def __await__(self) -> Any:
        return self._begun()

    def _begun(self) -> Any:
        if self._steps is None:
            self._steps = self._generator.aclose().__await__()
        return self._steps
