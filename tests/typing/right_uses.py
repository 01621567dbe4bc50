"""Right uses: a type checker finds no error here. Never run."""

# pyright: reportUnnecessaryComparison=true

from __future__ import annotations

from decimal import Decimal
from typing import assert_type

from llm_connect import (
    AsyncLLMStream,
    Bound,
    BudgetTracker,
    ClaudeCodeAdapter,
    GeminiAdapter,
    LLMAdapter,
    LLMAPIError,
    LLMBudgetExceededError,
    LLMError,
    LLMRateLimitError,
    LLMResponse,
    LLMStream,
    MockLLMAdapter,
    OpenAIAdapter,
    OpenRouterAdapter,
    Price,
    RunConfig,
    aopen_budget,
    create_adapter,
    open_budget,
)
from llm_connect.config.options import Provider


def configs(config: RunConfig, tracker: BudgetTracker) -> None:
    RunConfig()
    RunConfig(model_name="m", max_tokens=5, temperature=0, labels={"agent": "a"}, model_params={"seed": 1})
    RunConfig(budget_tracker=tracker, when_short="clamp", timeout_seconds=20)
    assert_type(config.delegate("x"), RunConfig)
    config.delegate("x", total=5_000, total_usd="0.50", system_prompt="Be brief.")
    config.delegate("x", max_tokens=None, max_depth=1, labels={}, budget_tracker=None)
    config.delegate("x", total_usd=Decimal("0.5"), total_calls=3)


def adapters(provider: Provider) -> None:
    assert_type(create_adapter("openai", model="m", api="responses", base_url=None), OpenAIAdapter)
    assert_type(create_adapter("gemini", api_key="x", count_tokens="provider"), GeminiAdapter)
    assert_type(create_adapter("openrouter", app_name="x", price=Price(prompt=1, completion="2.5")), OpenRouterAdapter)
    assert_type(create_adapter("claude-code", login=True, cli_path="/bin/claude"), ClaudeCodeAdapter)
    assert_type(create_adapter("mock", reply=["a", "b"], delay_seconds=0.5), MockLLMAdapter)
    create_adapter(provider, model="m", budget_tracker=None)
    OpenAIAdapter(model="m", count_tokens=lambda text: len(text))


async def budgets(url: str, tracker: BudgetTracker) -> None:
    assert_type(await aopen_budget(url, total=5, total_usd="5.00", name="nightly"), BudgetTracker)
    open_budget(url, total_calls=5, on_unknown="release", prices={"m": Price(prompt=1, completion=2)})
    BudgetTracker(5)
    BudgetTracker(total_usd=0.5, strict=True, sink=print)
    tracker.set_limits(total=5)
    tracker.set_limits(total=None, total_usd="5")
    tracker.set_limits()
    with tracker.child("x", total=5) as child:
        child.consume(5)
    with tracker.child("user", total_usd=Decimal(1), join=True):
        pass
    with tracker.reserve(5, model="m", max_wait_seconds=3) as hold:
        hold.settle(5)
    with await tracker.areserve(bound=Bound(prompt_tokens=5, max_tokens=5)) as own:
        own.release()
    tracker.on_threshold(0.8, lambda snapshot: print(snapshot.spent))
    assert_type(tracker.remaining(), int | None)
    print({entry.adapter: entry.amount.tokens for entry in tracker.ledger})


async def answers(adapter: LLMAdapter, config: RunConfig) -> None:
    assert_type(adapter.execute_prompt("x"), LLMResponse)
    response = await adapter.async_execute_prompt("x", config)
    assert_type(response.usage.total_tokens, int)
    assert_type(response.cost, Decimal | None)
    print(response.metadata["provider"])
    if response.finish_reason == "length":
        print(response.content)
    with adapter.stream_prompt("x") as stream:
        assert_type(stream, LLMStream)
        for chunk in stream:
            print(chunk)
    async with adapter.async_stream_prompt("x", config) as astream:
        assert_type(astream, AsyncLLMStream)
        async for chunk in astream:
            print(chunk)


def errors(config: RunConfig, adapter: LLMAdapter) -> None:
    try:
        adapter.execute_prompt("x", config)
    except LLMBudgetExceededError as e:
        if e.reason == "window_full":
            print(e.opens_at)
        elif e.reason in ("never_fits", "closed"):
            print(e.missing, e.unit == "usd")
    except LLMRateLimitError as error:
        print((error.retry_after or 1.0) + 1)
    except LLMAPIError as error:
        print(error.status_code, error.response_body.get("code"))
    except LLMError as error:
        print(error.request_id, error.attempts, error.maybe_billed, error.response)
