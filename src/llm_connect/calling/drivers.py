"""The two drivers of the call path: each runs the steps that a flow yields and sends the results back."""

from __future__ import annotations

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
    try:
        step = next(flow)
        while True:
            try:
                result = await step.arun()
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
