"""Figures that cannot be true, in the replies of a server on loopback: in every format, and in every form of a call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from llm_connect import BudgetTracker, LLMAdapter, LLMBudgetExceededError, LLMResponse, Price, RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider
from llm_connect.types.usage import MOST_TOKENS
from tests.protocols.test_usage_figures import HUGE, TEXT, account, any_said, body, events, number
from tests.providers.conftest import Make, Wiring
from tests.providers.http_helpers import PROMPT, each_format

PRICE = Price(prompt=1, completion=2)
Way = Callable[..., LLMResponse]


def whole(adapter: LLMAdapter, config: RunConfig) -> LLMResponse:
    return adapter.execute_prompt(PROMPT, config)


def awhole(adapter: LLMAdapter, config: RunConfig) -> LLMResponse:
    return asyncio.run(adapter.async_execute_prompt(PROMPT, config))


def stream(adapter: LLMAdapter, config: RunConfig, content: str = TEXT) -> LLMResponse:
    with adapter.stream_prompt(PROMPT, config) as chunks:
        assert "".join(chunk.text for chunk in chunks) == content
    return chunks.response


def astream(adapter: LLMAdapter, config: RunConfig, content: str = TEXT) -> LLMResponse:
    async def read() -> LLMResponse:
        async with adapter.async_stream_prompt(PROMPT, config) as chunks:
            assert "".join([chunk.text async for chunk in chunks]) == content
        return chunks.response

    return asyncio.run(read())


each_way = pytest.mark.parametrize("way", [whole, awhole, stream, astream])


def says(wire: str, way: Way, usage: Any) -> Behaviour:
    """A server whose replies have this usage."""
    if way in (whole, awhole):
        written, kind = json.dumps(body(wire, usage)), "application/json"
    else:
        written = "".join(f"data: {json.dumps(event)}\n\n" for event in events(wire, usage)) + "data: [DONE]\n\n"
        kind = "text/event-stream"
    return Behaviour(body=written.replace(f'"{HUGE}"', HUGE).encode(), content_type=kind)


def config_of(tracker: BudgetTracker, max_tokens: int = 300) -> RunConfig:
    return RunConfig(max_tokens=max_tokens, max_retries=0, budget_tracker=tracker, when_short="refuse")


def entries(tracker: BudgetTracker) -> list[str]:
    return [entry.outcome for entry in tracker.ledger]


@pytest.fixture
def wire(request: pytest.FixtureRequest, wiring: Wiring) -> str:
    return {"openai_chat": "chat", "openai_responses": "responses", "generate_content": "gemini"}.get(
        wiring.wire_format, "chat"
    )


UNTRUE: list[dict[str, Any]] = [
    {"prompt": 0, "completion": 0, "total": 0},
    {"prompt": 10, "completion": 0, "total": 10},
    {"prompt": 10, "completion": -1},
    {"prompt": HUGE, "completion": HUGE},
    {"prompt": 1e308, "completion": 1},
]


@each_way
@each_format
def test_the_cap_holds_at_a_server_that_does_not_count(
    make: Make, provider: EmbeddedProvider, wire: str, way: Way
) -> None:
    """A cap for three bounds lets in three calls, each presumed, its answer given, its usage an estimate.
    (BUDGET-3, WIRE-31)"""
    adapter = make(price=PRICE)
    bound = adapter.bound(PROMPT, RunConfig(max_tokens=300)).total_tokens
    for said in UNTRUE:
        tracker = BudgetTracker(total=3 * bound, total_usd=1)
        provider.script(says(wire, way, account(wire, **said)))
        answers = [way(adapter, config_of(tracker)) for _ in range(3)]
        with pytest.raises(LLMBudgetExceededError):
            way(adapter, config_of(tracker))
        assert all(answer.content == TEXT and answer.usage.estimated for answer in answers)
        assert set(entries(tracker)) == {"presumed"}
        assert str(tracker)
        assert (tracker.held, tracker.breached) == (0, False)


@each_way
@each_format
def test_a_cost_of_zero_is_not_free(make: Make, provider: EmbeddedProvider, wire: str, way: Way) -> None:
    """The price decides, where the format has no cost, and where OpenRouter's is 0. (BUDGET-12, WIRE-12)"""
    adapter, tracker = make(price=Price(prompt=1_000, completion=1_000)), BudgetTracker(total_usd="5")
    usage = account(wire, prompt=10, completion=7, total=17)
    provider.script(says(wire, way, usage | {"cost": 0}))
    answer = way(adapter, config_of(tracker))
    assert (tracker.spent_usd, answer.cost, answer.cost_source) == (Decimal("0.017"), Decimal("0.017"), "declared")


@each_way
@each_format
def test_what_is_known_is_booked_where_it_is_more_than_the_bound(
    make: Make, provider: EmbeddedProvider, wire: str, way: Way
) -> None:
    """Input that is missing does not hide an output beyond the limit, and a true overrun is booked in full.
    (BUDGET-3, WIRE-31)"""
    adapter, tracker = make(price=PRICE), BudgetTracker(total=1_000_000, total_usd="50")
    provider.script(says(wire, way, account(wire, prompt=0, completion=5_000)))
    bound = adapter.bound(PROMPT, RunConfig(max_tokens=300))
    answer = way(adapter, config_of(tracker))
    assert (answer.content, answer.usage.estimated, answer.usage.completion_tokens) == (TEXT, True, 5_000)
    assert tracker.spent == bound.prompt_tokens + 5_000
    assert tracker.spent_usd >= Decimal("0.01")
    provider.script(says(wire, way, account(wire, prompt=10, completion=7_000, total=7_010)))
    before = tracker.spent
    assert way(adapter, config_of(tracker)).usage.total_tokens == 7_010
    assert tracker.spent - before == 7_010


#: What streams may write, and how they end: some servers do not repeat at the end what they wrote.
WRITTEN: dict[str, list[tuple[str, list[dict[str, Any]]]]] = {
    "chat": [
        ("", [{"choices": [{"delta": {"content": [{"type": "thinking", "thinking": [{"text": "hm"}]}]}}]}]),
        ("", [{"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}}]}]),
    ],
    "responses": [
        (TEXT, [{"type": "response.output_text.delta", "delta": TEXT}]),
        ("", [{"type": "response.output_item.done", "item": {"type": "function_call", "name": "f"}}]),
        ("", [{"type": "response.reasoning_summary_text.delta", "delta": "hm"}]),
    ],
    "gemini": [
        ("", [{"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]}]),
        ("", [{"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}}]}]),
    ],
}


@pytest.mark.parametrize("way", [stream, astream])
@each_format
def test_a_stream_that_wrote_something_has_output(make: Make, provider: EmbeddedProvider, wire: str, way: Way) -> None:
    """An output of 0 is not believed after thinking, a call or a text that the last event does not repeat, and the
    text is not lost. (STREAM-1, WIRE-31)"""
    for content, written in WRITTEN[wire]:
        tracker = BudgetTracker(total=100_000)
        ends = events(wire, account(wire, prompt=10, completion=0, total=10))[1:]
        if wire == "responses":
            ends[-1]["response"]["output"] = []
        said = "".join(f"data: {json.dumps(event)}\n\n" for event in [*written, *ends])
        provider.script(Behaviour(body=said.encode(), content_type="text/event-stream"))
        answer = way(make(price=PRICE), config_of(tracker), content)
        assert (answer.content, answer.usage.estimated) == (content, True)
        assert entries(tracker) == ["presumed"]


@each_format
@settings(
    max_examples=15,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(said=any_said)
def test_whatever_stands_for_a_figure_a_call_gives_its_answer(
    make: Make, provider: EmbeddedProvider, wire: str, said: dict[str, Any]
) -> None:
    """Through the real client: no answer is lost, and the books are never below what the figures say.
    (BUDGET-3, WIRE-31)"""
    for way in (whole, stream):
        adapter, tracker = make(price=PRICE), BudgetTracker(total=2 * MOST_TOKENS, total_usd=10_000)
        provider.script(says(wire, way, account(wire, **said)))
        answer = way(adapter, config_of(tracker, max_tokens=20))
        assert answer.content == TEXT
        sent, written, total = (number(said.get(name)) for name in ("prompt", "completion", "total"))
        assert tracker.spent >= (total or sent + written)
        if not answer.usage.estimated:
            assert tracker.spent == answer.usage.total_tokens == (total or answer.usage.total_tokens)
        assert (tracker.held, len(entries(tracker))) == (0, 1)
        assert str(tracker)
        adapter.close()
