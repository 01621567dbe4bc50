"""Reads streams of an adapter in both forms, to their end or up to a chunk before it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal, TypeAlias

from llm_connect.interface.adapter import LLMAdapter
from llm_connect.interface.config import RunConfig
from llm_connect.interface.streams import AsyncLLMStream, LLMStream
from llm_connect.types.chunks import StreamChunk

from ._calls import Outcome, run, run_async

StreamForm: TypeAlias = Literal["stream_prompt", "async_stream_prompt"]
STREAM_FORMS: Final[tuple[StreamForm, ...]] = ("stream_prompt", "async_stream_prompt")


@dataclass(frozen=True, slots=True)
class Streamed:
    """The content of a stream. It keeps the stream, so that its block closes it and not the loss of its reference."""

    chunks: tuple[StreamChunk, ...]
    stream: LLMStream | AsyncLLMStream


def streamed(
    form: StreamForm, adapter: LLMAdapter, prompt: Any, config: RunConfig, most: int | None, seconds: float
) -> Outcome:
    """Read a stream for at most `seconds`, and leave it after `most` chunks."""

    def read() -> Streamed:
        with adapter.stream_prompt(prompt, config) as stream:
            return Streamed(tuple(islice(stream, most)), stream)

    async def aread() -> Streamed:
        chunks: list[StreamChunk] = []
        async with adapter.async_stream_prompt(prompt, config) as stream:
            async for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == most:
                    break
            return Streamed(tuple(chunks), stream)

    return run(read, seconds) if form == "stream_prompt" else run_async(aread, seconds)
