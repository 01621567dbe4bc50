"""The chunks of an answer that arrives as a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from llm_connect.types.response import FinishReason, LLMResponse
from llm_connect.types.usage import Usage


@dataclass(frozen=True, slots=True)
class TextChunk:
    """The next piece of the answer's text; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class UsageChunk:
    """The usage of the whole answer; it arrives once, after all text."""

    usage: Usage
    text: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class FinishChunk:
    """Why the model stopped; the last chunk of a complete answer."""

    reason: FinishReason
    text: ClassVar[str] = ""


#: Every chunk has a `text`; only a `TextChunk` has one that is not empty.
StreamChunk: TypeAlias = TextChunk | UsageChunk | FinishChunk


def chunks_of(response: LLMResponse, given: str = "") -> list[StreamChunk]:
    """The chunks of a whole response, without the text that was already `given`."""
    rest = response.content.removeprefix(given)
    text = [TextChunk(rest)] if rest and response.content.startswith(given) else []
    return [*text, UsageChunk(response.usage), FinishChunk(response.finish_reason)]
