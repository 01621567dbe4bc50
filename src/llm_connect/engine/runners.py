"""The two drivers of the call path: each runs the steps that a flow yields and sends the results back."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")


class Step(Protocol):
    """One thing that a flow waits for, with a sync and an async form that give the same result."""

    def run(self) -> Any: ...
    async def arun(self) -> Any: ...


#: A generator that yields steps to its driver and returns the result.
Flow: TypeAlias = Generator[Step, Any, T]


def drive(flow: Flow[T]) -> T:
    """Run `flow` in this thread."""
    try:
        step = next(flow)
        while True:
            try:
                result = step.run()
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def adrive(flow: Flow[T]) -> T:
    """Run `flow` in this task."""
    task = running_task()
    try:
        step = next(flow)
        while True:
            try:
                result = await step.arun()
            except BaseException as error:
                outlive(task, error)
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def running_task() -> asyncio.Task[Any] | None:
    """The running task, for a driver to keep while it waits for a step.

    After a loop was closed, a coroutine of the step may have the last reference to the task (`asyncio.timeout` has
    one). Where the garbage collector closes that coroutine, the task would go first, and close from outside the very
    coroutines that are being closed: CPython 3.11 crashes.
    """
    _lost.clear()
    return asyncio.current_task()


def outlive(task: asyncio.Task[Any] | None, error: BaseException) -> None:
    """Keep the task of a closed loop, whose coroutines are garbage, beyond this collection: until the next call."""
    if isinstance(error, GeneratorExit) and task is not None and task.get_loop().is_closed():
        _lost.append(task)


_lost: list[object] = []
