"""Rules about streams: their content and their bookings, whether read to the end or left before it."""

from __future__ import annotations

from collections.abc import Iterator

from llm_connect.types.chunks import FinishChunk, UsageChunk
from llm_connect.types.response import LLMResponse

from .._bench import Bench
from .._rule import rule
from .._streamed import Streamed
from .answers import character, forms_agree
from .bookings import answered_call_ends_its_hold, call_is_metered, held_at_rest, misbooked


@rule(after=(forms_agree,))
def stream_gives_the_answer(bench: Bench) -> Iterator[str]:
    """A stream read to its end gives in pieces the response that a call gives whole. (STREAM-1)"""
    whole = bench.responses[0][1]
    for trial in bench.streamed:
        if isinstance(trial.outcome.returned, Streamed):
            yield from (f"{trial.what}: {fault}" for fault in _faults(trial.outcome.returned, whole))
        else:
            yield str(trial)


def _faults(read: Streamed, whole: LLMResponse) -> Iterator[str]:
    """Yield differences. The words of two answers may differ, so they are compared within the stream only."""
    response, text = read.stream.response, "".join(chunk.text for chunk in read.chunks)
    if not text == read.stream.text == response.content or bool(text) != bool(whole.content):
        yield f"its chunks say {text!r}, its text {read.stream.text!r}, its response {response.content!r}"
    if read.chunks[-2:] != (UsageChunk(response.usage), FinishChunk(response.finish_reason)):
        yield f"it ends with {read.chunks[-2:]}, not with usage and finish reason of its response"
    for name, value in character(whole).items():
        if (own := character(response)[name]) != value:
            yield f"{name} is {own!r}, and {value!r} of a call"


@rule(after=(call_is_metered, answered_call_ends_its_hold, stream_gives_the_answer))
def stream_is_metered(bench: Bench) -> Iterator[str]:
    """A stream books what its response says it used, once, as a call does. (STREAM-2)"""
    for trial in bench.streamed:
        yield from misbooked(trial, trial.outcome.returned.stream.response, trial.budget)
        if held := held_at_rest(trial.budget):
            yield f"{trial.what} left {held} held"


@rule(after=(stream_is_metered,))
def left_stream_ends_its_hold(bench: Bench) -> Iterator[str]:
    """When a stream was left after its first chunk nothing is held, and what may be billed is booked. (STREAM-4)"""
    for trial in bench.left:
        if not isinstance(trial.outcome.returned, Streamed):
            yield str(trial)
        elif held := held_at_rest(trial.budget):
            yield f"{trial.what} left {held} held"
        elif not trial.budget.spent:
            yield f"{trial.what} booked nothing"
