"""Tokenizers that make a bound tighter than the number of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_connect import (
    BudgetTracker,
    LLMAdapter,
    LLMBudgetExceededError,
    LLMConfigurationError,
    LLMResponse,
    MockLLMAdapter,
    RunConfig,
    TokenCounter,
    Usage,
)
from llm_connect.budget.accounting.bounds import counter_of, measured, normalized_utf8_bytes, utf8_bytes

PROMPT = "a prompt that no error may show"


def words(text: str) -> int:
    return len(text.split())


def test_a_function_is_a_counter_that_is_not_exact() -> None:
    """A plain function counts as a tokenizer of unknown origin; only a TokenCounter can be exact."""
    counter = counter_of(words)
    assert counter == TokenCounter(words)
    assert not counter.exact
    exact = TokenCounter(words, exact=True)
    assert counter_of(exact) is exact
    assert counter_of(None) is None


@pytest.mark.parametrize("nonsense", [5, "cl100k", [words], 2.5, b"provider", False])
def test_what_is_no_tokenizer_is_refused(nonsense: Any) -> None:
    """Anything but a function, a TokenCounter or None is refused at once; the error names the option and the type."""
    message = rf"^count_tokens must be a function from text to a number of tokens, not {type(nonsense).__name__}\.$"
    with pytest.raises(LLMConfigurationError, match=message):
        counter_of(nonsense)
    with pytest.raises(LLMConfigurationError, match="count_tokens"):
        MockLLMAdapter(count_tokens=nonsense)


@pytest.mark.parametrize("arguments", [{"count": 5}, {"count": words, "exact": "yes"}, {"count": None}])
def test_a_counter_needs_a_function_and_a_bool(arguments: dict[str, Any]) -> None:
    """A `count` that is not callable, or an `exact` that is not a bool, is refused."""
    with pytest.raises(LLMConfigurationError, match=r"^TokenCounter takes a function"):
        TokenCounter(**arguments)


@given(st.text(), st.integers(0, 100))
def test_the_tighter_bound_is_never_above_bytes(text: str, count: int) -> None:
    """A count above the number of bytes has no effect. (BUDGET-31)"""
    for size in (utf8_bytes, normalized_utf8_bytes):
        tight = measured(size, TokenCounter(lambda _: count))
        assert tight(text) == (min(size(text), count) if text else 0)
        assert measured(size, None) is size
        assert tight(None) == 0


def raising(_: str) -> int:
    raise ValueError(PROMPT)


#: Invalid hooks, and the description of each in the error.
NONSENSE: dict[str, tuple[Callable[[str], Any], str]] = {
    "raises": (raising, "raised ValueError"),
    "negative": (lambda _: -1, "returned an invalid int"),
    "float": (lambda text: len(text) / 4, "returned an invalid float"),
    "bool": (lambda _: True, "returned an invalid bool"),
    "none": (lambda _: None, "returned an invalid NoneType"),
    "list": (lambda text: list(text), "returned an invalid list"),
    "an LLMError": (lambda _: MockLLMAdapter("x", prompt_tokens=-1), "raised LLMConfigurationError"),
}


@pytest.mark.parametrize(("count", "did"), NONSENSE.values(), ids=NONSENSE.keys())
def test_a_hook_that_gives_no_number_is_a_configuration_error(count: Callable[[str], Any], did: str) -> None:
    """The call is not sent and nothing is held; the error says what the hook did, and contains nothing of the text.
    (BUDGET-33)
    """
    tracker, adapter = BudgetTracker(1_000), MockLLMAdapter(count_tokens=count)
    with pytest.raises(LLMConfigurationError, match=rf"^count_tokens {did}\b") as caught:
        adapter.execute_prompt(PROMPT, RunConfig(budget_tracker=tracker))
    error = caught.value
    assert PROMPT not in f"{error} {error.__cause__} {error.__context__} {error.__dict__}"
    assert (adapter.prompts, tracker.held, list(tracker.ledger)) == ([], 0, [])


def test_an_interrupted_hook_is_not_swallowed() -> None:
    """A KeyboardInterrupt during counting passes."""

    def interrupted(_: str) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MockLLMAdapter(count_tokens=interrupted).bound("x", RunConfig())


class Own(LLMAdapter):
    """An adapter as users write it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        self.asked.append(prompt)
        return LLMResponse(content="ok", model="own", usage=Usage(prompt_tokens=words(prompt), completion_tokens=1))


class OwnMethod(Own):
    """An adapter that counts with a method."""

    def count_tokens(self, text: str) -> int:  # type: ignore[override]
        return words(text)


@pytest.mark.parametrize("way", ["attribute", "method"])
async def test_a_tokenizer_lets_in_what_bytes_would_refuse(way: str) -> None:
    """The hold of a metered adapter is as tight as its tokenizer, in both forms of the call. (BUDGET-31)"""
    adapter: Own = OwnMethod() if way == "method" else Own()
    prompt, system = "one two three four", "five six"
    config = RunConfig(max_tokens=10, system_prompt=system)
    tracker = BudgetTracker(16 + 7)
    if way == "attribute":
        with pytest.raises(LLMBudgetExceededError):
            adapter.execute_prompt(prompt, RunConfig(max_tokens=10, system_prompt=system, budget_tracker=tracker))
        adapter.count_tokens = words
    bound = adapter.bound(prompt, config)
    assert (bound.prompt_tokens, bound.grade) == (6, "estimated")
    adapter.execute_prompt(prompt, RunConfig(max_tokens=10, system_prompt=system, budget_tracker=tracker))
    await adapter.async_execute_prompt(prompt, RunConfig(max_tokens=10, system_prompt=system, budget_tracker=tracker))
    assert [entry.bound.tokens for entry in tracker.ledger] == [16, 16]
    assert (tracker.spent, tracker.held) == (10, 0)


def test_no_exactness_proves_what_nobody_knows() -> None:
    """The default bound stays an estimate, because a user's adapter may add text to its prompts. (BUDGET-30)"""
    adapter = MockLLMAdapter(count_tokens=TokenCounter(words, exact=True))
    assert adapter.bound("one two", RunConfig()).grade == "estimated"


def test_a_plain_adapter_cannot_ask_its_provider() -> None:
    """ "provider" needs a provider with a counting endpoint; other adapters refuse it before anything is sent.
    (BUDGET-32)
    """
    with pytest.raises(LLMConfigurationError, match="count_tokens='provider'"):
        MockLLMAdapter(count_tokens="provider")
    adapter = Own()
    adapter.count_tokens = "provider"
    with pytest.raises(LLMConfigurationError, match="count_tokens='provider'"):
        adapter.execute_prompt("x", RunConfig(budget_tracker=BudgetTracker(100)))
    assert adapter.asked == []
