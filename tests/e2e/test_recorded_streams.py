"""Streams that real providers gave, replayed through the adapters.

The recordings are not part of the project: LLM_CONNECT_RECORDINGS names their folder.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from llm_connect import BudgetTracker, LLMError, RunConfig, TextChunk
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.e2e.recordings import Recording, Said, streams
from tests.e2e.test_recordings import adapter_for

if not os.environ.get("LLM_CONNECT_RECORDINGS"):
    pytest.skip("LLM_CONNECT_RECORDINGS names no folder", allow_module_level=True)

RECORDED = streams()


def events_of(recording: Recording) -> list[dict[str, Any]]:
    """The events, read line by line, which recorded ones always are."""
    lines = [line.removeprefix("data: ") for line in recording.raw.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def said(recording: Recording) -> Said:
    """What the stream says in the end, read without the library's own code: as a reply that came whole."""
    events = events_of(recording)
    if recording.wire == "responses":
        whole = next(event["response"] for event in reversed(events) if "response" in event)
        return Recording(**{**vars(recording), "raw": whole}).said
    if recording.wire == "generate_content":
        return Recording(**{**vars(recording), "raw": _merged_candidates(events)}).said
    choices = [event["choices"][0] for event in events if event.get("choices")]
    finishes = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    errors = [event["error"] for event in events if event.get("error")]
    content = "".join(choice["delta"].get("content") or "" for choice in choices)
    whole = {
        "model": events[-1].get("model"),
        "usage": next((event["usage"] for event in reversed(events) if event.get("usage")), None),
        "choices": [{"finish_reason": finishes[-1] if finishes else None, "message": {"content": content}}],
        "error": errors[-1] if errors else None,
    }
    return Recording(**{**vars(recording), "raw": whole}).said


def _merged_candidates(events: list[dict[str, Any]]) -> dict[str, Any]:
    candidates = [event["candidates"][0] for event in events if event.get("candidates")]
    parts = [part for candidate in candidates for part in candidate.get("content", {}).get("parts", [])]
    finishes = [candidate["finishReason"] for candidate in candidates if candidate.get("finishReason")]
    return {**events[-1], "candidates": [{"content": {"parts": parts}, "finishReason": finishes[-1]}]}


@pytest.fixture(scope="module")
def provider() -> Iterator[EmbeddedProvider]:
    with EmbeddedProvider() as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def form(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


def streamed(adapter: Any, config: RunConfig, form: str) -> tuple[Any, list[str]]:
    """The stream, read to its end, and its texts."""

    async def main() -> tuple[Any, list[str]]:
        async with adapter, adapter.async_stream_prompt("What was asked.", config) as stream:
            return stream, [chunk.text async for chunk in stream if isinstance(chunk, TextChunk)]

    if form == "async":
        return asyncio.run(main())
    with adapter, adapter.stream_prompt("What was asked.", config) as stream:
        return stream, [chunk.text for chunk in stream if isinstance(chunk, TextChunk)]


@pytest.mark.parametrize("recording", RECORDED, ids=lambda recording: recording.name)
@pytest.mark.parametrize("drip", [None, 0.0], ids=["at once", "byte by byte"])
def test_a_recorded_stream_is_what_it_says(
    recording: Recording, drip: float | None, provider: EmbeddedProvider, form: str
) -> None:
    """Text, model, finish reason, usage and cost, however the bytes arrive, and the books have the recorded tokens; a
    recorded error is that error. (STREAM-1, STREAM-5, STREAM-9)
    """
    provider.reset()
    provider.script(Behaviour(body=recording.raw.encode(), content_type="text/event-stream", drip=drip))
    expected, tracker = said(recording), BudgetTracker(10_000_000)
    adapter = adapter_for(recording, base_url=getattr(provider, f"{recording.provider}_url"))
    config = RunConfig(model_name=recording.model, budget_tracker=tracker, max_retries=0)
    if expected.error is not None:
        with pytest.raises(LLMError) as caught:
            streamed(adapter, config, form)
        assert type(caught.value) is expected.error
        return
    stream, texts = streamed(adapter, config, form)
    response = stream.response
    assert "".join(texts) == stream.text == response.content == expected.text
    assert len(texts) > 1 or not expected.text
    assert (response.model, response.finish_reason) == (expected.model, expected.finish)
    assert response.cost == expected.cost
    assert expected.usage in (response.usage, None)
    assert response.usage.estimated is (expected.usage is None)
    assert tracker.held == 0
    if expected.usage is not None:
        assert tracker.spent == expected.usage.total_tokens


def test_there_are_recorded_streams() -> None:
    """The folder has some of each format that it is known to have."""
    assert {one.wire for one in RECORDED} >= {"chat_completions", "responses"}
