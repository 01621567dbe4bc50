"""The two drivers of a stream: like those of a call, and what the flow yields for the caller is given on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from typing import Any, TypeAlias

from llm_connect.calling.drivers import Step
from llm_connect.core.chunks import FinishChunk, StreamChunk, TextChunk, UsageChunk

#: Steps for the driver, and chunks for the caller.
StreamFlow: TypeAlias = Generator[Step | StreamChunk, Any, None]

_CHUNKS = (TextChunk, UsageChunk, FinishChunk)


class Leave(BaseException):
    """Thrown into a flow whose caller has left it.

    Not GeneratorExit: where a flow delegates to another one, Python closes that one instead of throwing, and no step
    could be taken on the way out (PEP 380).
    """


def drive_stream(flow: StreamFlow) -> Generator[StreamChunk]:
    """Run `flow` in this thread, as far as chunks are asked for."""
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
    """Run `flow` in this task, as far as chunks are asked for."""
    with suppress(StopIteration, Leave):
        step = next(flow)
        while True:
            try:
                result = (yield step) if isinstance(step, _CHUNKS) else await step.arun()
            except GeneratorExit:
                if not isinstance(step, _CHUNKS):
                    # Not the stream is closed but the coroutine that waits for it: nothing can be awaited any more.
                    abandon(flow)
                    raise
                step = flow.throw(Leave())
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)


def abandon(flow: StreamFlow) -> None:
    """End `flow` where nothing can be awaited; nothing when it has ended."""
    with suppress(StopIteration, Leave):
        step: Any = flow.throw(Leave())
        while True:
            # On its way out a stream takes no step but `Close`.
            step.abandon()
            step = next(flow)
