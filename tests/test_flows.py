"""The two drivers of the call path do the same: one in this thread, one in this task."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Generator
from typing import Any

import pytest

from llm_connect._flows import adrive, drive

Run = Callable[[Generator[Any, Any, Any]], Any]


class Give:
    """A step that gives a value, or raises it."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.ran: list[str] = []

    def run(self) -> Any:
        self.ran.append("sync")
        return self._give()

    async def arun(self) -> Any:
        self.ran.append("async")
        await asyncio.sleep(0)
        return self._give()

    def _give(self) -> Any:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


def run_async(flow: Generator[Any, Any, Any]) -> Any:
    return asyncio.run(adrive(flow))


@pytest.fixture(params=[drive, run_async], ids=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Both drivers."""
    return request.param  # type: ignore[no-any-return]


class Stop(BaseException):
    """What is no Exception."""


def test_results_are_sent_into_the_flow(run: Run) -> None:
    """Each step's result comes back where the flow waited, and the flow's result comes out."""

    def flow() -> Generator[Any, Any, Any]:
        first = yield Give(1)
        second = yield Give(first + 1)
        return [first, second]

    assert run(flow()) == [1, 2]


def test_a_flow_without_steps_has_a_result(run: Run) -> None:
    """Nothing to wait for is nothing to drive."""

    def flow() -> Generator[Any, Any, Any]:
        return "done"
        yield

    assert run(flow()) == "done"


def test_each_driver_uses_its_own_form() -> None:
    """The sync driver never touches the async form, and the other way round."""
    step = Give(1)

    def flow() -> Generator[Any, Any, Any]:
        yield step

    drive(flow())
    run_async(flow())
    assert step.ran == ["sync", "async"]


@pytest.mark.parametrize("error", [ValueError("x"), Stop(), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_a_step_raises_is_thrown_into_the_flow(run: Run, error: BaseException) -> None:
    """The flow can catch whatever a step raises, and go on with another step."""

    def flow() -> Generator[Any, Any, Any]:
        try:
            yield Give(error)
        except BaseException as caught:
            return caught, (yield Give("went on"))

    assert run(flow()) == (error, "went on")


@pytest.mark.parametrize("error", [ValueError("x"), Stop("y")], ids=repr)
def test_what_the_flow_does_not_catch_comes_out_after_its_cleanup(run: Run, error: BaseException) -> None:
    """The error leaves the driver as it is, and what the flow has to end is ended, steps included. (CALL-1)"""
    cleanup = Give("cleaned")

    def flow() -> Generator[Any, Any, Any]:
        try:
            yield Give(error)
        finally:
            yield cleanup

    with pytest.raises(type(error)) as caught:
        run(flow())
    assert caught.value is error
    assert len(cleanup.ran) == 1


def test_what_the_flow_raises_comes_out(run: Run) -> None:
    """An error of the flow itself is not swallowed, at the start, between steps or at the end."""
    for steps in (0, 1, 2):

        def flow(count: int = steps) -> Generator[Any, Any, Any]:
            for _ in range(count):
                yield Give(None)
            raise LookupError

        with pytest.raises(LookupError):
            run(flow())


def test_a_flow_may_turn_an_error_into_its_result(run: Run) -> None:
    """A flow that ends while it handles an error gives its result."""

    def flow() -> Generator[Any, Any, Any]:
        try:
            yield Give(ValueError("x"))
        except ValueError:
            return "handled"

    assert run(flow()) == "handled"


def test_stop_iteration_of_a_step_does_not_end_the_flow_as_if_it_were_done(run: Run) -> None:
    """A step's StopIteration is an error of the step, not a result of the flow."""

    def flow() -> Generator[Any, Any, Any]:
        try:
            yield Give(StopIteration("value"))
        except (StopIteration, RuntimeError):
            return "told"

    assert run(flow()) == "told"


async def test_cancellation_passes_through_the_flow() -> None:
    """CancelledError is thrown in where the flow waits, its cleanup runs, and the task is cancelled."""
    seen: list[str] = []

    class Wait:
        def run(self) -> None:
            raise AssertionError

        async def arun(self) -> None:
            seen.append("waiting")
            await asyncio.sleep(60)

    def flow() -> Generator[Any, Any, Any]:
        try:
            yield Wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            yield Give(None)
            seen.append("cleaned")

    task = asyncio.create_task(adrive(flow()))
    while not seen:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert seen == ["waiting", "cancelled", "cleaned"]


def test_a_task_of_a_closed_loop_lives_until_the_next_call() -> None:
    """If the task went before the coroutine that it runs, CPython 3.11 would crash."""

    def flow() -> Generator[Any, Any, None]:
        yield Never()

    async def work() -> None:
        await adrive(flow())

    loop = asyncio.new_event_loop()
    task = loop.create_task(work())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    seen = weakref.ref(task)
    task.get_coro().close()  # type: ignore[union-attr]
    del task
    gc.collect()
    assert seen() is not None
    assert run_async(nothing()) is None
    gc.collect()
    assert seen() is None


class Never:
    """A step that does not end."""

    async def arun(self) -> None:
        await asyncio.get_running_loop().create_future()


def nothing() -> Generator[Any, Any, None]:
    """A flow without a step."""
    yield from ()
