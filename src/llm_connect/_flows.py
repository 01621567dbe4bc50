"""Flows: work that waits, written once without I/O, and its two runners, one for threads and one for tasks.

A flow is a generator. Whenever it has to wait, it yields a step; a runner runs or awaits that step, and sends the
result back. So the decisions between the steps are written once for both.

    def reserve_and_send(request):
        hold = yield from acquire(...)
        reply = yield Send(request)
        ...

When a runner ends, for any reason, its flow has ended, and the flow's `finally` blocks have run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")


class Step(Protocol):
    """Something that a flow waits for, with a sync and an async form that return the same result."""

    def run(self) -> Any: ...
    async def arun(self) -> Any: ...


#: A generator that yields steps to its runner and returns the result.
Flow: TypeAlias = Generator[Step, Any, T]


def drive(flow: Flow[T]) -> T:
    """Run `flow` in this thread."""
    try:
        step = next(flow)
        while True:
            try:
                # No variable refers to the result: an interrupted runner must not keep a hold that the flow never got.
                step = flow.send(step.run())
            except BaseException as error:
                if flow.gi_frame is None:  # type: ignore[attr-defined]  # the flow has ended
                    raise
                step = flow.throw(error)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    except BaseException:
        # If the interruption came between two steps, the flow does not know about it yet.
        flow.close()
        raise


async def adrive(flow: Flow[T]) -> T:
    """Run `flow` in this task."""
    task = running_task()
    try:
        step = next(flow)
        while True:
            try:
                step = flow.send(await step.arun())
            except BaseException as error:
                if flow.gi_frame is None:  # type: ignore[attr-defined]  # the flow has ended
                    raise
                outlive(task, error)
                step = flow.throw(error)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    except BaseException:
        flow.close()
        raise


def running_task() -> asyncio.Task[Any] | None:
    """The running task, which a runner refers to while it waits for a step.

    After a loop was closed, a coroutine of the step may have the last reference to the task (`asyncio.timeout` has
    one). If the garbage collector then closes that coroutine, the task goes first, and closes the same coroutines from
    outside: CPython 3.11 crashes.
    """
    _lost.clear()
    return asyncio.current_task()


def outlive(task: asyncio.Task[Any] | None, error: BaseException) -> None:
    """Keep the task of a closed loop, whose coroutines are garbage, alive until the next call."""
    if isinstance(error, GeneratorExit) and task is not None and task.get_loop().is_closed():
        _lost.append(task)


_lost: list[object] = []
