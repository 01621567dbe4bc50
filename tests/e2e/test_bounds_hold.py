"""Whatever the text and the config, no more input is counted than the bound says, by the worst tokenizers there are."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_connect import BudgetTracker, GeminiAdapter, OpenAIAdapter, OpenRouterAdapter, RunConfig, TokenCounter
from llm_connect.budget.accounting.bounds import utf8_bytes
from llm_connect.testing import EmbeddedProvider

KEY = "key-0123456789"
SOME_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
PROMPTS = SOME_TEXT.filter(lambda text: bool(text.strip()))
SCHEMAS = st.fixed_dictionaries({"type": st.just("object"), "description": SOME_TEXT})
PARAMS = st.fixed_dictionaries({}, optional={"json_schema": SCHEMAS, "top_p": st.just(0.5)})
CONFIGS = st.builds(
    RunConfig,
    system_prompt=st.none() | PROMPTS,
    max_tokens=st.none() | st.integers(1, 300),
    temperature=st.none() | st.just(1.0),
    model_params=PARAMS,
)
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

HAS_TOKENIZER = find_spec("rs_bpe") is not None


def needs_tokenizer(test: Any) -> Any:
    """Skipped where there is no wheel of rs-bpe (Python 3.14, other machines than x86-64 with Linux)."""
    skip = pytest.mark.skipif(not HAS_TOKENIZER, reason="rs-bpe, a tokenizer with its vocabulary, is not installed")
    return pytest.mark.allow_skip(skip(test))


def worst_byte_level(text: str) -> int:
    """A token for each byte."""
    return utf8_bytes(text)


def worst_sentence_piece(text: str) -> int:
    """A token for each byte of the text as it is read, and one for its start."""
    return 1 + max(utf8_bytes(text), utf8_bytes(unicodedata.normalize("NFKC", text)))


def adapter_of(name: str, provider: EmbeddedProvider, **options: Any) -> Any:
    """An adapter, and a model whose tokenizer is as bad as its family can be."""
    match name:
        case "chat_completions" | "responses":
            url, more = provider.openai_url, {"api": name, "model": "gpt-5"}
            return OpenAIAdapter(api_key=KEY, base_url=url, **more, **options)  # type: ignore[arg-type]
        case "gemini":
            return GeminiAdapter(api_key=KEY, base_url=provider.gemini_url, **options)
        case "openrouter":
            return OpenRouterAdapter(api_key=KEY, base_url=provider.openrouter_url, model="a/b", **options)
    raise AssertionError(name)


WORST = {
    "chat_completions": worst_byte_level,
    "responses": worst_byte_level,
    "gemini": worst_sentence_piece,
    "openrouter": worst_sentence_piece,
}


@pytest.fixture(params=WORST)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def provider(name: str) -> Iterator[EmbeddedProvider]:
    with EmbeddedProvider(count_tokens=WORST[name], reply_tokens="limit") as running:
        yield running


@pytest.fixture
def adapter(name: str, provider: EmbeddedProvider) -> Iterator[Any]:
    with adapter_of(name, provider) as made:
        yield made


@SLOW
@given(prompt=PROMPTS, config=CONFIGS)
def test_no_text_counts_more_than_its_bound(adapter: Any, prompt: str, config: RunConfig) -> None:
    """Over all Unicode planes and any config: input and output stay within the hold, so the budget is not passed.
    (BUDGET-30, WIRE-15)"""
    bound = adapter.bound(prompt, config)
    tracker = BudgetTracker(bound.total_tokens)
    response = adapter.execute_prompt(prompt, replace(config, budget_tracker=tracker))
    assert response.usage.prompt_tokens <= bound.prompt_tokens
    assert response.usage.completion_tokens <= bound.completion_tokens
    assert not tracker.breached
    assert tracker.held == 0


@SLOW
@given(prompt=PROMPTS, config=CONFIGS)
@pytest.mark.parametrize("name", ["responses", "gemini"], indirect=True)
def test_nor_more_than_the_providers_own_count(
    name: str, provider: EmbeddedProvider, prompt: str, config: RunConfig
) -> None:
    """The hold by the provider's count covers the call, and is not above the one by bytes. (BUDGET-31, BUDGET-32)"""
    with adapter_of(name, provider, count_tokens="provider") as adapter:
        most = adapter.bound(prompt, config).total_tokens
        tracker = BudgetTracker(most)
        response = adapter.execute_prompt(prompt, replace(config, budget_tracker=tracker))
    (entry,) = tracker.ledger
    assert response.usage.total_tokens <= entry.bound.tokens <= most


@pytest.fixture(scope="module")
def o200k() -> Any:
    """OpenAI's tokenizer, in Rust."""
    from rs_bpe.bpe import openai

    return openai.o200k_base()


@needs_tokenizer
@SLOW
@given(text=SOME_TEXT)
def test_a_real_tokenizer_makes_no_more_tokens_than_bytes(o200k: Any, text: str) -> None:
    """What the bound by bytes stands on, over all planes. (WIRE-15)"""
    assert o200k.count(text) <= utf8_bytes(text)


@needs_tokenizer
@SLOW
@given(prompt=PROMPTS, config=CONFIGS)
@pytest.mark.parametrize("name", ["chat_completions"], indirect=True)
def test_the_models_own_tokenizer_covers_the_call(o200k: Any, name: str, prompt: str, config: RunConfig) -> None:
    """With the tokenizer of the model for `count_tokens`, the hold still covers what the provider counts with it.
    (BUDGET-31)"""
    counter = TokenCounter(o200k.count, exact=True)
    with EmbeddedProvider(count_tokens=o200k.count) as provider:
        with adapter_of(name, provider, count_tokens=counter) as adapter:
            bound = adapter.bound(prompt, config)
            response = adapter.execute_prompt(prompt, replace(config, budget_tracker=BudgetTracker()))
    assert response.usage.prompt_tokens <= bound.prompt_tokens


ENGLISH = "The quick brown fox jumps over the lazy dog, and nobody has ever asked the dog what it thinks of that. " * 40


@needs_tokenizer
def test_english_is_held_four_times_as_tight(o200k: Any) -> None:
    """A tokenizer lets in about four times as many calls of plain English, and an exact one keeps the grade.
    (BUDGET-31, BUDGET-30)"""
    by_bytes = OpenAIAdapter(api_key=KEY).bound(ENGLISH, RunConfig())
    exact = TokenCounter(o200k.count, exact=True)
    tight = OpenAIAdapter(api_key=KEY, count_tokens=exact).bound(ENGLISH, RunConfig())
    assert 4 * tight.prompt_tokens < by_bytes.prompt_tokens
    assert (by_bytes.grade, tight.grade) == ("proven", "proven")
    assert OpenAIAdapter(api_key=KEY, count_tokens=o200k.count).bound(ENGLISH, RunConfig()).grade == "estimated"
