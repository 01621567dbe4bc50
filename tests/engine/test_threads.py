"""Work in threads that can be left behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from concurrent.futures import Future

import pytest

from llm_connect.engine.threads import known


def test_work_that_is_left_behind_keeps_no_event_loop() -> None:
    """A loop that waited for it in vain is collected, and the end of the work harms nobody. (CALL-9)"""
    work: Future[int] = Future()
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def wait() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await known(work)

    asyncio.run(wait())
    gc.collect()
    assert loops[0]() is None
    work.set_result(1)
    assert asyncio.run(known(work)) == 1


def test_work_that_is_done_keeps_no_event_loop() -> None:
    """Whoever keeps what came of it keeps none of the loops that waited for it. (CALL-9)"""
    work: Future[int] = Future()
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def wait() -> int:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        asyncio.get_running_loop().call_later(0.01, work.set_result, 1)
        return await known(work)

    assert asyncio.run(wait()) == 1
    gc.collect()
    assert loops[0]() is None


def test_work_may_end_when_the_loop_that_waits_is_closed() -> None:
    """The loop is still there, but runs no more. (CALL-35)"""
    work: Future[int] = Future()
    loop = asyncio.new_event_loop()
    waiting = known(work)

    async def begin() -> None:
        waiting.send(None)

    loop.run_until_complete(begin())
    loop.close()
    work.set_result(1)
    waiting.close()
