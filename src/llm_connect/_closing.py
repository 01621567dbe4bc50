"""Closing an async generator in its event loop, even if the loop ends first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from types import AsyncGeneratorType
from typing import Any


def close_in_loop(loop: asyncio.AbstractEventLoop, generator: AsyncGenerator[Any]) -> None:
    """Schedule the closing of `generator` in `loop`, which may run in another thread.

    Raises RuntimeError if the loop is closed.
    """
    loop.call_soon_threadsafe(_close, loop, generator)


def is_closed(generator: AsyncGenerator[Any]) -> bool:
    """True if the generator has ended."""
    return isinstance(generator, AsyncGeneratorType) and generator.ag_frame is None


def _close(loop: asyncio.AbstractEventLoop, generator: AsyncGenerator[Any]) -> None:
    if is_closed(generator):
        return
    task: Any = loop.create_task(_Closing(generator))
    # If the loop ends first, the generator is garbage collected; asyncio need not log that.
    task._log_destroy_pending = False


class _Closing(Coroutine[Any, Any, None]):
    """`await generator.aclose()` as an object: unlike a coroutine, it does not warn if it was never awaited."""

    def __init__(self, generator: AsyncGenerator[Any]) -> None:
        self._generator = generator
        self._steps: Any = None

    def send(self, value: Any) -> Any:
        try:
            return self._begun().send(value)
        except RuntimeError:
            # The loop is already closing the generator itself.
            raise StopIteration from None

    def throw(self, *error: Any) -> Any:
        return self._begun().throw(*error)

    def close(self) -> None:
        # `close` of these steps would begin the closing on Python 3.13, and leave a begun one half-way before.
        if self._steps is not None:
            with suppress(GeneratorExit, StopIteration):
                self._steps.throw(GeneratorExit())

    def __await__(self) -> Any:
        return self._begun()

    def _begun(self) -> Any:
        if self._steps is None:
            self._steps = self._generator.aclose().__await__()
        return self._steps
