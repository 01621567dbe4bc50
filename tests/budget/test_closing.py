"""Closing an async generator in its event loop, by several parties at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from llm_connect._closing import _Closing, close_in_loop, is_closed


class Chunks:
    """An async generator whose end waits for an event."""

    def __init__(self) -> None:
        self.may_end, self.ends = asyncio.Event(), 0
        self.generator: AsyncGenerator[None] = self._generate()

    async def _generate(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self.may_end.wait()
            self.ends += 1


async def others() -> set[asyncio.Task[Any]]:
    """The other tasks of the loop, after one turn of it."""
    await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


async def test_a_generator_that_was_closed_meanwhile_needs_no_task() -> None:
    """A generator that its caller closes first gets no task in the loop. (STREAM-4)"""
    chunks = Chunks()
    chunks.may_end.set()
    await anext(chunks.generator)
    close_in_loop(asyncio.get_running_loop(), chunks.generator)
    await chunks.generator.aclose()
    assert is_closed(chunks.generator)
    assert await others() == set()
    assert chunks.ends == 1


async def test_a_generator_that_others_close_just_now_is_left_to_them() -> None:
    """If the loop shuts down and closes the generator as well, it ends once, and no error is logged. (STREAM-4)"""
    chunks, loop, errors = Chunks(), asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    await anext(chunks.generator)
    closing = asyncio.create_task(chunks.generator.aclose())  # type: ignore[arg-type]
    await asyncio.sleep(0)
    close_in_loop(loop, chunks.generator)
    assert await others() - {closing}
    chunks.may_end.set()
    await closing
    assert await others() == set()
    assert (chunks.ends, errors) == (1, [])


async def test_closing_can_be_awaited_and_cancelled() -> None:
    """Like `aclose`, it can be awaited, and a cancellation reaches the generator. (STREAM-4)"""
    chunks = Chunks()
    chunks.may_end.set()
    await anext(chunks.generator)
    await _Closing(chunks.generator)
    assert chunks.ends == 1
    held = Chunks()
    await anext(held.generator)
    close_in_loop(asyncio.get_running_loop(), held.generator)
    (task,) = await others()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (is_closed(held.generator), held.ends) == (True, 0)


async def test_a_closing_that_is_dropped_midway_ends_the_generator() -> None:
    """The generator does not wait any longer. (STREAM-4)"""
    chunks = Chunks()
    await anext(chunks.generator)
    closing = _Closing(chunks.generator)
    closing.send(None)
    closing.close()
    assert (is_closed(chunks.generator), chunks.ends) == (True, 0)


async def test_a_closing_that_is_dropped_says_nothing() -> None:
    """The generator is left to its owner, and no warning about a coroutine that nobody awaited appears. (STREAM-4)"""
    chunks = Chunks()
    await anext(chunks.generator)
    _Closing(chunks.generator).close()
    chunks.may_end.set()
    assert await anext(chunks.generator, None) is None
    assert chunks.ends == 1
