"""The two drivers of a stream: like those of a call, but they also pass chunks on to the caller."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from typing import Any, TypeAlias

from llm_connect._flows import Step, outlive, running_task
from llm_connect.types.chunks import FinishChunk, StreamChunk, TextChunk, UsageChunk

#: Steps for the driver, and chunks for the caller.
StreamFlow: TypeAlias = Generator[Step | StreamChunk, Any, None]

_CHUNKS = (TextChunk, UsageChunk, FinishChunk)


class Leave(BaseException):
    """Thrown into a flow that its caller has left.

    GeneratorExit does not work: Python closes the inner generator of a delegating flow instead of throwing into it, and
    the flow could take no step on the way out (PEP 380).
    """


def drive_stream(flow: StreamFlow) -> Generator[StreamChunk]:
    """Run `flow` in this thread, up to each chunk that the caller asks for."""
    with suppress(StopIteration, Leave):
        step = next(flow)
        while True:
            try:
                result = (yield step) if isinstance(step, _CHUNKS) else step.run()
            except GeneratorExit:
                step = flow.throw(Leave())
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)


async def adrive_stream(flow: StreamFlow) -> AsyncGenerator[StreamChunk]:
    """Run `flow` in this task, up to each chunk that the caller asks for."""
    with suppress(StopIteration, Leave):
        step = next(flow)
        while True:
            # Between its chunks it belongs to no task.
            task = None if isinstance(step, _CHUNKS) else running_task()
            try:
                result = (yield step) if isinstance(step, _CHUNKS) else await step.arun()
            except GeneratorExit as left:
                if not isinstance(step, _CHUNKS):
                    outlive(task, left)
                    # The coroutine that waits for the stream is being closed, so nothing more can be awaited.
                    abandon(flow)
                    raise
                step = flow.throw(Leave())
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)


def abandon(flow: StreamFlow) -> None:
    """End `flow` when nothing can be awaited; a no-op if it has ended."""
    with suppress(StopIteration, Leave):
        step: Any = flow.throw(Leave())
        while True:
            # On its way out, a stream takes only the step `Close`.
            step.abandon()
            step = next(flow)
