"""Bounds by a tokenizer, and by the provider's own count, through the real SDKs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llm_connect import (
    BudgetTracker,
    ClaudeCodeAdapter,
    GeminiAdapter,
    LLMAPIError,
    LLMBudgetExceededError,
    LLMBudgetNeverFitsError,
    LLMConfigurationError,
    LLMResponse,
    OpenAIAdapter,
    OpenRouterAdapter,
    RunConfig,
    TokenCounter,
)
from llm_connect.providers import openai as openai_module
from llm_connect.testing import Behaviour, EmbeddedProvider, Tariff
from tests.providers.claude_binary import find_claude
from tests.providers.conftest import KEY, Ask, ask_async, ask_sync

PROMPT = "Some words to count, and a few more of them. " * 20
SYSTEM = "Be brief. " * 10
COUNTERS: dict[str, Callable[..., Any]] = {
    "gemini": lambda url, **more: GeminiAdapter(api_key=KEY, base_url=url, **more),
    "openai": lambda url, **more: OpenAIAdapter(api_key=KEY, base_url=url, api="responses", model="gpt-5", **more),
}
OTHERS: dict[str, Callable[..., Any]] = {
    "chat": lambda **more: OpenAIAdapter(api_key=KEY, **more),
    "openrouter": lambda **more: OpenRouterAdapter(api_key=KEY, **more),
    "claude": lambda **more: ClaudeCodeAdapter(api_key=KEY, cli_path="/bin/true", **more),
}


@pytest.fixture(params=COUNTERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def adapter(name: str, provider: EmbeddedProvider) -> Iterator[Any]:
    """An adapter that asks its provider what a prompt counts."""
    with COUNTERS[name](getattr(provider, f"{name}_url"), count_tokens="provider") as made:
        yield made


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    return RunConfig(**{"budget_tracker": tracker, "max_tokens": 50, "system_prompt": SYSTEM, **fields})


def held_prompts(tracker: BudgetTracker, config: RunConfig) -> list[int]:
    return [entry.bound.tokens - (config.max_tokens or 0) for entry in tracker.ledger]


def test_the_providers_count_is_held_instead_of_bytes(adapter: Any, provider: EmbeddedProvider, ask: Ask) -> None:
    """The hold is what the provider counts for the same request, so a call fits that by bytes would not.
    (BUDGET-31, BUDGET-32)"""
    counted = Tariff().count_tokens(SYSTEM + PROMPT)
    tracker = BudgetTracker(counted + 50)
    config = config_of(tracker)
    assert adapter.bound(PROMPT, config).prompt_tokens > 4 * counted
    response = ask(adapter, PROMPT, config)
    assert held_prompts(tracker, config) == [counted] == [response.usage.prompt_tokens]
    assert provider.meter.total_tokens == tracker.spent
    (question,), (request,) = provider.questions, provider.requests
    assert (question.prompt, question.system_prompt) == (request.prompt, request.system_prompt) == (PROMPT, SYSTEM)
    assert question.model == request.model


def test_asking_is_no_attempt_and_costs_nothing(adapter: Any, provider: EmbeddedProvider, ask: Ask) -> None:
    """One request is billed, one entry is in the ledger, and `attempts` says one. (BUDGET-32)"""
    tracker = BudgetTracker(100_000)
    response = ask(adapter, PROMPT, config_of(tracker))
    assert response.metadata["attempts"] == 1
    assert (provider.meter.calls, provider.meter.refused, len(provider.questions)) == (1, 0, 1)
    assert (len(tracker.ledger), tracker.spent_calls, tracker.held) == (1, 1, 0)


def test_a_call_asks_once_for_all_its_attempts(adapter: Any, provider: EmbeddedProvider, ask: Ask) -> None:
    """The prompt is the same in each attempt, so each holds the same. (BUDGET-32)"""
    provider.script(Behaviour(status=503, retry_after=0), times=2)
    tracker = BudgetTracker(100_000)
    response = ask(adapter, PROMPT, config_of(tracker))
    assert response.metadata["attempts"] == 3
    assert len(provider.questions) == 1
    assert len(set(held_prompts(tracker, config_of(tracker)))) == 1


def test_without_a_budget_nobody_is_asked(adapter: Any, provider: EmbeddedProvider, ask: Ask) -> None:
    """A count is for a hold; `bound` and `validate_config` send nothing either. (BUDGET-32)"""
    ask(adapter, PROMPT)
    assert adapter.validate_config(RunConfig())
    adapter.bound(PROMPT, RunConfig())
    assert provider.questions == []


FAILURES: dict[str, Behaviour] = {
    "500": Behaviour(status=500),
    "404": Behaviour(status=404),
    "429": Behaviour(status=429, retry_after=5),
    "cut": Behaviour(cut=3),
    "cut before the reply": Behaviour(cut="before_reply"),
    "html": Behaviour(body=b"<html>no</html>", content_type="text/html"),
    "empty": Behaviour(body=b""),
    "empty object": Behaviour(body=b"{}"),
    "list": Behaviour(body=b"[3]"),
    "text": Behaviour(body=b'{"input_tokens": "three", "totalTokens": "three"}'),
    "negative": Behaviour(body=b'{"input_tokens": -3, "totalTokens": -3}'),
    "null": Behaviour(body=b'{"input_tokens": null, "totalTokens": null}'),
    "an error under 200": Behaviour(error_in_200=True),
    "redirect": Behaviour(redirect="http://127.0.0.1:9/"),
    "latin": Behaviour(body=b"\xff\xfe", content_type="application/json; charset=ascii"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_a_count_that_fails_leaves_the_bytes(
    adapter: Any, provider: EmbeddedProvider, ask: Ask, failure: Behaviour
) -> None:
    """Whatever comes of the question, the call is made, by its bytes, and no more than once asked. (BUDGET-34)"""
    provider.script(failure, wire_format="count_tokens")
    tracker = BudgetTracker(100_000)
    config = config_of(tracker)
    response = ask(adapter, PROMPT, config)
    assert response.metadata["attempts"] == 1
    assert held_prompts(tracker, config) == [adapter.bound(PROMPT, config).prompt_tokens]
    assert len(provider.questions) == 1
    assert tracker.held == 0


def test_a_count_that_never_comes_is_not_waited_for(adapter: Any, provider: EmbeddedProvider, ask: Ask) -> None:
    """A provider that does not answer the question takes a part of the time only. (BUDGET-34)"""
    provider.script(Behaviour(stall="before_headers"), wire_format="count_tokens")
    tracker = BudgetTracker(100_000)
    config = config_of(tracker, timeout_seconds=2.0)
    response = ask(adapter, PROMPT, config)
    assert isinstance(response, LLMResponse)
    assert held_prompts(tracker, config) == [adapter.bound(PROMPT, config).prompt_tokens]


def test_a_count_above_the_bytes_does_not_raise_the_hold(adapter: Any, provider: EmbeddedProvider, ask: Ask) -> None:
    """The hold is never above the bytes. (BUDGET-31)"""
    provider.script(Behaviour(hidden_prompt_tokens=100_000), wire_format="count_tokens")
    tracker = BudgetTracker(100_000)
    config = config_of(tracker)
    ask(adapter, PROMPT, config)
    assert held_prompts(tracker, config) == [adapter.bound(PROMPT, config).prompt_tokens]


def test_models_that_nobody_knows_keep_their_allowance(name: str, provider: EmbeddedProvider) -> None:
    """What is added after counting is not in the count. (BUDGET-31)"""
    url = getattr(provider, f"{name}_url")
    tracker = BudgetTracker(100_000)
    config = config_of(tracker, model_name="unheard-of")
    with COUNTERS[name](url, count_tokens="provider") as adapter:
        response = adapter.execute_prompt(PROMPT, config)
    assert held_prompts(tracker, config) == [response.usage.prompt_tokens + 2_048]


async def test_counts_take_places_among_the_concurrent_requests(name: str, provider: EmbeddedProvider) -> None:
    """With one place, calls and counts go one after the other, and all of them are made. (BUDGET-32)"""
    provider.script(Behaviour(delay=0.05), wire_format="count_tokens")
    tracker = BudgetTracker(100_000)
    with COUNTERS[name](getattr(provider, f"{name}_url"), count_tokens="provider", max_concurrency=1) as adapter:
        calls = (adapter.async_execute_prompt(PROMPT, config_of(tracker)) for _ in range(5))
        await asyncio.gather(*calls)
        await adapter.aclose()
    assert (len(provider.questions), provider.meter.calls, tracker.held) == (5, 5, 0)


async def test_a_call_that_is_cancelled_while_it_asks_books_nothing(name: str, provider: EmbeddedProvider) -> None:
    """Nothing was sent that could be billed, and its place is free again. (BUDGET-32)"""
    provider.script(Behaviour(stall="before_headers"), times=1, wire_format="count_tokens")
    tracker = BudgetTracker(100_000)
    async with COUNTERS[name](getattr(provider, f"{name}_url"), count_tokens="provider", max_concurrency=1) as adapter:
        call = asyncio.create_task(adapter.async_execute_prompt(PROMPT, config_of(tracker)))
        while not provider.questions:
            await asyncio.sleep(0.005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (list(tracker.ledger), tracker.held, provider.requests) == ([], 0, [])
        await adapter.async_execute_prompt(PROMPT, config_of(tracker))


def test_what_never_fits_is_refused_by_the_count(adapter: Any, provider: EmbeddedProvider, ask: Ask) -> None:
    """Refused before anything is billed, with the figure that was counted. (BUDGET-31)"""
    tracker = BudgetTracker(60)
    with pytest.raises(LLMBudgetExceededError) as caught:
        ask(adapter, PROMPT, config_of(tracker))
    assert caught.value.requested < adapter.bound(PROMPT, config_of(tracker)).total_tokens
    assert provider.requests == []


def test_the_real_failure_is_told_not_the_counts(adapter: Any, provider: EmbeddedProvider, ask: Ask) -> None:
    """When the call fails as well, the error is the call's. (BUDGET-34)"""
    provider.script(Behaviour(status=500), wire_format="count_tokens")
    provider.script(Behaviour(status=422))
    with pytest.raises(LLMAPIError) as caught:
        ask(adapter, PROMPT, config_of(BudgetTracker(100_000)))
    assert (caught.value.status_code, caught.value.attempts) == (422, 1)


@pytest.mark.parametrize("other", OTHERS)
def test_adapters_without_such_an_endpoint_refuse_it(other: str) -> None:
    """In the constructor, and when the attribute is set later, with what to do instead. (BUDGET-32)"""
    with pytest.raises(LLMConfigurationError, match=r"count_tokens='provider'.*tokenizer"):
        OTHERS[other](count_tokens="provider")
    adapter = OTHERS[other]()
    adapter.count_tokens = "provider"
    with pytest.raises(LLMConfigurationError, match="count_tokens='provider'"):
        adapter.execute_prompt("x", RunConfig(budget_tracker=BudgetTracker(100_000)))


@pytest.mark.parametrize("other", [*OTHERS, *COUNTERS])
def test_nonsense_is_refused_by_every_constructor(other: str) -> None:
    """What is no tokenizer is told at once."""
    make = OTHERS.get(other) or (lambda **more: COUNTERS[other]("http://127.0.0.1:9", **more))
    with pytest.raises(LLMConfigurationError, match="count_tokens"):
        make(count_tokens="cl100k")


@pytest.mark.parametrize("other", [*OTHERS, *COUNTERS])
def test_every_adapter_takes_a_tokenizer(other: str) -> None:
    """It counts the texts; the rest of the bound stays. (BUDGET-31)"""
    make = OTHERS.get(other) or (lambda **more: COUNTERS[other]("http://127.0.0.1:9", **more))
    config = RunConfig(system_prompt=SYSTEM, max_tokens=50)
    plain = make().bound(PROMPT, config)
    one = make(count_tokens=lambda text: 1).bound(PROMPT, config)
    many = make(count_tokens=lambda text: 10**9).bound(PROMPT, config)
    assert one.prompt_tokens <= plain.prompt_tokens - len(PROMPT) - len(SYSTEM) + 2
    assert many.prompt_tokens == plain.prompt_tokens
    assert (one.grade, many.grade) == ("estimated", "estimated")
    assert one.max_tokens == plain.max_tokens


@pytest.mark.parametrize("ask", [ask_sync, ask_async])
def test_a_tokenizer_is_asked_for_each_hold_and_not_after_the_answer(provider: EmbeddedProvider, ask: Ask) -> None:
    """An answer that was paid for is not lost by a tokenizer that fails later. (BUDGET-33)"""
    provider.script(Behaviour(usage="missing"))
    asked: list[str] = []

    def once(text: str) -> int:
        asked.append(text)
        if len(asked) > 2:
            raise RuntimeError(text)
        return 1

    with OpenAIAdapter(api_key=KEY, base_url=provider.openai_url, count_tokens=once) as adapter:
        response = ask(adapter, PROMPT, config_of(BudgetTracker(100_000)))
        assert response.usage.estimated
        response = ask(adapter, PROMPT, RunConfig())
    assert response.usage.prompt_tokens > len(PROMPT)


@pytest.mark.parametrize(
    ("options", "grade"),
    [
        ({}, "proven"),
        ({"base_url": "https://api.openai.com/v1/"}, "proven"),
        ({"base_url": "https://eu.api.openai.com/v1"}, "proven"),
        ({"base_url": "https://api.openai.com.example.org/v1"}, "estimated"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "estimated"),
        ({"base_url": "nonsense"}, "estimated"),
        ({"count_tokens": len}, "estimated"),
        ({"count_tokens": TokenCounter(len, exact=True)}, "proven"),
    ],
)
def test_only_openai_itself_proves_a_bound(options: dict[str, Any], grade: str) -> None:
    """By whatever name its endpoint is given. (BUDGET-30, WIRE-15)"""
    for api in ("chat_completions", "responses"):
        adapter = OpenAIAdapter(api_key=KEY, api=api, **options)  # type: ignore[arg-type]
        assert adapter.bound(PROMPT, RunConfig()).grade == grade


def test_a_client_of_ones_own_is_graded_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the call count: one that goes elsewhere makes it an estimate. (BUDGET-30)"""
    import openai

    own, other = openai.OpenAI(api_key=KEY), openai.AsyncOpenAI(api_key=KEY, base_url="http://127.0.0.1:9")
    assert OpenAIAdapter(client=own).bound("x", RunConfig()).grade == "proven"
    assert OpenAIAdapter(client=own, async_client=other).bound("x", RunConfig()).grade == "estimated"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    assert OpenAIAdapter(client=own).bound("x", RunConfig()).grade == "proven"
    assert OpenAIAdapter(api_key=KEY).bound("x", RunConfig()).grade == "estimated"
    own.close()


def test_openais_own_count_proves_a_schema(provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes a schema is an estimate; OpenAI's count has it in it. The grade says whether the count came.
    (BUDGET-30, BUDGET-34)"""
    monkeypatch.setattr(openai_module, "_is_openais", lambda address: True)
    tracker = BudgetTracker(100_000)
    config = config_of(tracker, model_params={"json_schema": {"type": "object", "description": "x" * 500}})
    with COUNTERS["openai"](provider.openai_url, count_tokens="provider") as adapter:
        adapter.execute_prompt(PROMPT, config)
        provider.script(Behaviour(status=500), wire_format="count_tokens")
        adapter.execute_prompt(PROMPT, config)
    assert [entry.grade for entry in tracker.ledger] == ["proven", "estimated"]
    assert "schema" in provider.questions[0].body["text"]["format"]


def test_a_strict_budget_admits_a_schema_that_openai_has_counted(
    provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By bytes it is refused as an estimate. (BUDGET-30)"""
    monkeypatch.setattr(openai_module, "_is_openais", lambda address: True)
    config = config_of(BudgetTracker(100_000, strict=True), model_params={"json_schema": {"type": "object"}})
    with COUNTERS["openai"](provider.openai_url) as adapter:
        with pytest.raises(LLMBudgetExceededError):
            adapter.execute_prompt(PROMPT, config)
        adapter.count_tokens = "provider"
        adapter.execute_prompt(PROMPT, config)
    assert provider.meter.calls == 1


def test_geminis_count_is_of_the_whole_request(provider: EmbeddedProvider) -> None:
    """System instruction and schema are in the question, which the SDK has no arguments for."""
    schema = {"type": "object"}
    config = config_of(BudgetTracker(100_000), model_params={"json_schema": schema})
    with COUNTERS["gemini"](provider.gemini_url, count_tokens="provider") as adapter:
        adapter.execute_prompt(PROMPT, config)
    (question,) = provider.questions
    assert question.body["model"] == "models/gemini-2.5-flash"
    assert question.body["generationConfig"]["responseJsonSchema"] == schema
    assert question.path.endswith("/models/gemini-2.5-flash:countTokens")


def test_children_and_limits_hold_with_counts(provider: EmbeddedProvider) -> None:
    """Two hundred calls at once under a cap for a few: what is billed stays under it. (BUDGET-1)"""
    tracker = BudgetTracker(3_000)
    config = config_of(tracker, max_tokens=40, timeout_seconds=50)

    async def all_at_once(adapter: Any) -> list[Any]:
        async with adapter:
            calls = (adapter.async_execute_prompt(PROMPT, config) for _ in range(50))
            return await asyncio.gather(*calls, return_exceptions=True)

    adapter = COUNTERS["gemini"](provider.gemini_url, count_tokens="provider")
    results = asyncio.run(all_at_once(adapter))
    assert {type(result) for result in results} == {LLMResponse, LLMBudgetNeverFitsError}
    assert provider.meter.total_tokens == tracker.spent <= 3_000
    assert tracker.spent > 3_000 - adapter.bound(PROMPT, config).total_tokens
    assert tracker.held == 0


@pytest.mark.skipif(find_claude() is None, reason="the claude command is not installed")
def test_claude_is_held_by_a_tokenizer_too(provider: EmbeddedProvider) -> None:
    """The command's own text stays in the bound. (BUDGET-31)"""
    tracker = BudgetTracker(100_000)
    options: dict[str, Any] = {"cli_path": find_claude(), "count_tokens": lambda _: 1}
    with ClaudeCodeAdapter(api_key=KEY, base_url=provider.anthropic_url, **options) as adapter:
        adapter.execute_prompt(PROMPT, config_of(tracker))
    (entry,) = tracker.ledger
    assert entry.bound.tokens == 50 + 256 + 2 * (8 + 1)
