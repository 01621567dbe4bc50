"""Wrong uses: a type checker has to find an error in each line that is marked, and in no other. Never run."""

# pyright: reportUnnecessaryComparison=true

from __future__ import annotations

from llm_connect import (
    BudgetTracker,
    ClaudeCodeAdapter,
    GeminiAdapter,
    LLMAdapter,
    LLMBudgetExceededError,
    LLMError,
    LLMResponse,
    MockLLMAdapter,
    OpenAIAdapter,
    OpenRouterAdapter,
    Price,
    RunConfig,
    aopen_budget,
    create_adapter,
    open_budget,
)


def configs(config: RunConfig, tracker: BudgetTracker) -> None:
    config.delegate("x", max_tokenz=4)  # wrong
    config.delegate("x", max_tokens="4")  # wrong
    config.delegate("x", total="many")  # wrong
    config.delegate("x", when_short="clmap")  # wrong
    config.delegate(5)  # wrong
    config.delegate("x", labels={"agent": 1})  # wrong
    RunConfig(max_tokenz=4)  # wrong
    RunConfig(when_short="never")  # wrong
    RunConfig(budget_tracker="budget")  # wrong
    RunConfig(timeout_seconds="5")  # wrong
    config.max_tokens = 5  # wrong


def adapters(provider: str) -> None:
    create_adapter("opnai", modle="x")  # wrong
    create_adapter("opnai")  # wrong
    create_adapter("openai", modle="x")  # wrong
    create_adapter("openai", app_name="x")  # wrong
    create_adapter("openai", api="responces")  # wrong
    create_adapter("gemini", client=None)  # wrong
    create_adapter("claude-code", login="yes")  # wrong
    create_adapter("openrouter", price=0.5)  # wrong
    create_adapter("mock", api_key="x")  # wrong
    create_adapter(provider)  # wrong
    OpenAIAdapter("gpt-4.1-mini")  # wrong
    GeminiAdapter(model=None)  # wrong
    OpenRouterAdapter(count_tokens="providr")  # wrong
    ClaudeCodeAdapter(max_concurrency="16")  # wrong
    MockLLMAdapter(5)  # wrong


async def budgets(url: str, tracker: BudgetTracker) -> None:
    await aopen_budget(url, totl=5)  # wrong
    await aopen_budget(url, total="many")  # wrong
    open_budget(url, totl=5)  # wrong
    open_budget(url, on_unknown="resume")  # wrong
    BudgetTracker(total="many")  # wrong
    BudgetTracker(total_usd=[1])  # wrong
    tracker.set_limits(total="many")  # wrong
    tracker.set_limits(total_usd=[1])  # wrong
    tracker.set_limits(totl=5)  # wrong
    tracker.child("x", totl=5)  # wrong
    tracker.consume("5")  # wrong
    tracker.reserve(5, grade="prooven")  # wrong
    tracker.record(tokens="5")  # wrong
    with tracker.reserve(5) as hold:
        hold.settle("5")  # wrong
    tracker.spent = 5  # wrong
    Price(prompt="1", completion="2", currency="EUR")  # wrong


def answers(adapter: LLMAdapter, response: LLMResponse) -> None:
    adapter.execute_prompt(5)  # wrong
    adapter.execute_prompt("x", {"max_tokens": 5})  # wrong
    print(response.text)  # wrong
    print(response.finish_reason == "lenght")  # wrong
    print(response.usage.tokens)  # wrong
    print(response.cost + 1)  # wrong


def errors(e: LLMBudgetExceededError, error: LLMError) -> None:
    if e.reason == "windowfull":  # wrong
        print(e.unit)
    if e.unit == "token":  # wrong
        print(e.total)
    if e.reason in ("refused", 5):
        print(e.retry_after + 1)  # wrong
    LLMBudgetExceededError("x", reason="full")  # wrong
    print(error.status_code)  # wrong
