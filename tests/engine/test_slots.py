"""The places of one adapter's concurrent requests."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from llm_connect import LLMConfigurationError
from llm_connect.engine.concurrency_limit import Slots, Turn, _Places

SOON = 0.05


def soon() -> Turn:
    return Turn(20, time.monotonic() + SOON)


def later() -> Turn:
    return Turn(20, time.monotonic() + 20)


@pytest.mark.parametrize("limit", [0, -1, 1.0, True, None, "3"])
def test_a_limit_is_a_count(limit: Any) -> None:
    """No place at all is refused at once, not at the first call."""
    with pytest.raises(LLMConfigurationError, match="max_concurrency"):
        Slots(limit)


def test_there_are_as_many_places_as_the_limit_says() -> None:
    """The next one waits as long as its turn says, and a place given back is free."""
    slots = Slots(2)
    releases = [slots.take(later()) for _ in range(2)]
    assert all(releases)
    started = time.monotonic()
    assert slots.take(soon()) is None
    assert time.monotonic() - started >= SOON * 0.9
    assert releases[0] is not None
    releases[0].give_back()
    assert slots.take(soon()) is not None


def test_a_free_place_needs_no_time() -> None:
    """A turn that is over does not keep a free place away from this thread; the sending will tell."""
    assert Slots(1).take(Turn(20, 0.0)) is not None
    assert asyncio.run(Slots(1).atake(Turn(20, 0.0))) is not None


def test_a_thread_that_waits_gets_the_place() -> None:
    """A place given back wakes up who waits."""
    slots = Slots(1)
    release = slots.take(later())
    assert release is not None
    threading.Timer(0.05, release.give_back).start()
    assert slots.take(later()) is not None


@pytest.mark.parametrize("seconds", [1e10, 1e300])
def test_a_deadline_beyond_what_a_lock_can_wait_is_waited_for(seconds: float) -> None:
    """A timeout that the operating system cannot count is no error."""
    slots = Slots(1)
    release = slots.take(later())
    assert release is not None
    threading.Timer(0.02, release.give_back).start()
    assert slots.take(Turn(seconds, time.monotonic() + seconds)) is not None


async def test_each_loop_has_its_own_places() -> None:
    """Places taken by threads or in another loop are not missing here. (CALL-7)"""
    slots = Slots(1)
    assert slots.take(later()) is not None
    assert await slots.atake(later()) is not None
    assert await asyncio.to_thread(lambda: asyncio.run(slots.atake(soon()))) is not None
    assert await slots.atake(soon()) is None


async def test_a_task_that_waits_gets_the_place_in_turn() -> None:
    """Tasks get places in the order in which they came."""
    slots, order = Slots(1), []
    release = await slots.atake(later())
    assert release is not None

    async def wait(number: int) -> None:
        mine = await slots.atake(later())
        order.append(number)
        assert mine is not None
        mine.give_back()

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    release.give_back()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


async def test_a_cancelled_task_takes_no_place_along() -> None:
    """Cancelled before or just after its place came free, a task leaves the place to others."""
    slots = Slots(1)
    release = await slots.atake(later())
    assert release is not None
    waiting = [asyncio.create_task(slots.atake(later())) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    release.give_back()
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert all(task.cancelled() for task in waiting)
    assert await slots.atake(soon()) is not None


async def test_a_task_that_gave_up_takes_no_place_along() -> None:
    """After many that came too late, there are as many places as before."""
    slots = Slots(2)
    held = [await slots.atake(later()) for _ in range(2)]
    assert await asyncio.gather(*(slots.atake(soon()) for _ in range(20))) == [None] * 20
    for release in held:
        assert release is not None
        release.give_back()
    again = [await slots.atake(soon()) for _ in range(3)]
    assert [place is not None for place in again] == [True, True, False]


def test_threads_never_exceed_the_limit() -> None:
    """Sixteen threads over three places are never more than three at once, and all get through. (CALL-7)"""
    slots, lock = Slots(3), threading.Lock()
    now, most, done = 0, 0, 0

    def work() -> None:
        nonlocal now, most, done
        for _ in range(20):
            release = slots.take(later())
            assert release is not None
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.0002)
            with lock:
                now -= 1
                done += 1
            release.give_back()

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (done, most <= 3) == (320, True)


def test_a_wait_that_is_given_up_early_takes_no_place_along() -> None:
    """A thread that was interrupted before it got a place leaves the queue, and the place goes to nobody."""
    slots = Slots(1)
    release = slots.take(later())
    assert release is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Places, "seconds_left", interrupt)
        with pytest.raises(KeyboardInterrupt):
            slots.take(later())
    release.give_back()
    assert slots.take(later()) is not None


def interrupt(*_: object) -> float:
    raise KeyboardInterrupt
