"""What OpenRouter tells later of a request, and correcting by it what was presumed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from llm_connect import (
    BudgetTracker,
    GeminiAdapter,
    Generation,
    LLMAPIError,
    LLMAuthenticationError,
    LLMConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMResponseError,
    LLMTimeoutError,
    OpenAIAdapter,
    OpenRouterAdapter,
    Price,
    RunConfig,
)
from llm_connect.engine.concurrency_limit import Turn
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.conftest import KEY, Ask

pytestmark = pytest.mark.slow

LookUp = Callable[..., Generation]


def look_up_sync(adapter: OpenRouterAdapter, *arguments: Any, **options: Any) -> Generation:
    return adapter.look_up_generation(*arguments, **options)


def look_up_async(adapter: OpenRouterAdapter, *arguments: Any, **options: Any) -> Generation:
    async def ask() -> Generation:
        return await adapter.async_look_up_generation(*arguments, **options)

    return asyncio.run(ask())


@pytest.fixture(params=[look_up_sync, look_up_async], ids=["sync", "async"])
def look_up(request: pytest.FixtureRequest) -> LookUp:
    """Both forms."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def adapter(provider: EmbeddedProvider) -> Iterator[OpenRouterAdapter]:
    with OpenRouterAdapter(api_key=KEY, base_url=provider.openrouter_url, model="openai/gpt-5") as made:
        yield made


def test_an_answer_is_told_as_it_was_billed(
    adapter: OpenRouterAdapter, provider: EmbeddedProvider, look_up: LookUp
) -> None:
    """Tokens, cost and model are those of the reply; asking is not billed. (PROVIDER-30)"""
    provider.script(Behaviour(reasoning_tokens=7, cached_tokens=1), times=1)
    response = adapter.execute_prompt("hello", RunConfig(max_tokens=30))
    told = look_up(adapter, response.metadata["request_id"])
    assert told.request_id == response.metadata["request_id"]
    assert (told.usage, told.cost, told.model) == (response.usage, response.cost, response.model)
    assert (told.usage.reasoning_tokens, told.usage.cached_tokens, told.cancelled) == (7, 1, False)
    assert (provider.meter.calls, provider.meter.refused, len(provider.requests)) == (1, 0, 1)


def test_with_an_own_key_fee_and_price_are_told(
    adapter: OpenRouterAdapter, provider: EmbeddedProvider, look_up: LookUp
) -> None:
    """As in replies, the provider's price is added to OpenRouter's fee. (PROVIDER-30)"""
    provider.script(Behaviour(byok=True))
    response = adapter.execute_prompt("hello")
    told = look_up(adapter, response.metadata["request_id"])
    assert told.cost == response.cost == provider.meter.cost * Decimal("1.05")


CUTS = {
    "the body is cut": (Behaviour(cut=10), LLMConnectionError, {}),
    "the body never comes": (Behaviour(stall="after_headers"), LLMTimeoutError, {"timeout_seconds": 3.0}),
    "the body drips": (Behaviour(drip=0.2), LLMTimeoutError, {"timeout_seconds": 3.0}),
    "no usage in it": (Behaviour(body=b"{}"), LLMResponseError, {}),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_what_was_presumed_is_corrected(
    adapter: OpenRouterAdapter,
    provider: EmbeddedProvider,
    ask: Ask,
    look_up: LookUp,
    cut: tuple[Behaviour, type[LLMError], dict[str, Any]],
) -> None:
    """A call that failed after the headers had come names its request and its entry, so that the tracker comes to what
    the server has billed. (CALL-30, PROVIDER-30)"""
    behaviour, kind, fields = cut
    ask(adapter, "so that nothing has to be imported within the time of the call below")
    provider.meter.reset()
    provider.script(behaviour, times=1)
    adapter.price = Price(prompt=100, completion=100)
    tracker = BudgetTracker(100_000, total_usd=10)
    config = RunConfig(budget_tracker=tracker, max_tokens=500, max_retries=0, **fields)
    with pytest.raises(kind) as caught:
        ask(adapter, "hello", config)
    error = caught.value
    assert type(error) is kind
    assert error.request_id is not None
    assert error.request_id.startswith("gen-")
    (entry,) = tracker.ledger
    assert (entry.outcome, entry.id) == ("presumed", error.ledger_entry)
    told = look_up(adapter, error.request_id)
    tracker.correct(entry.id, tokens=told.usage.total_tokens, usd=told.cost)
    assert tracker.spent == provider.meter.total_tokens
    assert tracker.spent_usd == provider.meter.cost
    assert tracker.held == 0


def test_other_adapters_keep_the_id_of_a_cut_reply_too(provider: EmbeddedProvider, ask: Ask) -> None:
    """Whatever headers name the request. (CALL-30)"""
    provider.script(Behaviour(cut=10))
    with OpenAIAdapter(api_key=KEY, base_url=provider.openai_url) as adapter:
        with pytest.raises(LLMConnectionError) as caught:
            ask(adapter, "hello", RunConfig(max_retries=0))
    assert str(caught.value.request_id).startswith("req_")
    provider.reset()
    provider.script(Behaviour(cut=10, headers={"x-request-id": "r1"}))
    with GeminiAdapter(api_key=KEY, base_url=provider.gemini_url) as adapter:
        with pytest.raises(LLMConnectionError) as caught:
            ask(adapter, "hello", RunConfig(max_retries=0))
    assert caught.value.request_id == "r1"


def test_a_call_cut_before_the_headers_has_no_id(
    adapter: OpenRouterAdapter, provider: EmbeddedProvider, ask: Ask
) -> None:
    """What never came is not known, and the id of the call before is not taken for it. (CALL-30)"""
    ask(adapter, "hello")
    provider.script(Behaviour(cut="before_reply"))
    with pytest.raises(LLMConnectionError) as caught:
        ask(adapter, "hello", RunConfig(max_retries=0))
    assert (caught.value.request_id, caught.value.ledger_entry) == (None, None)


async def test_each_of_many_calls_at_once_has_its_own_id(
    adapter: OpenRouterAdapter, provider: EmbeddedProvider
) -> None:
    """Headers are kept by call, not by client. (CALL-30)"""
    provider.script(Behaviour(cut=10))
    calls = (adapter.async_execute_prompt(f"hello {n}", RunConfig(max_retries=0)) for n in range(20))
    errors = await asyncio.gather(*calls, return_exceptions=True)
    ids = {error.request_id for error in errors if isinstance(error, LLMConnectionError)}
    assert len(ids) == 20
    assert None not in ids
    await adapter.aclose()


def test_a_generation_that_is_not_told_yet_is_asked_for_again(
    adapter: OpenRouterAdapter, provider: EmbeddedProvider, look_up: LookUp
) -> None:
    """OpenRouter needs some seconds to know it; until then it is a 404. (PROVIDER-30)"""
    response = adapter.execute_prompt("hello")
    provider.script(Behaviour(status=404, retry_after=0), times=3, wire_format="generation")
    assert look_up(adapter, response.metadata["request_id"]).cost == response.cost


@pytest.mark.parametrize(
    ("behaviour", "kind", "status", "attempts"),
    [
        (Behaviour(status=404, retry_after=0), LLMAPIError, 404, 2),
        (Behaviour(status=500, retry_after=0), LLMAPIError, 500, 2),
        (Behaviour(error_in_200=True, status=404, retry_after=0), LLMAPIError, 404, 2),
        (Behaviour(status=400), LLMAPIError, 400, 1),
        (Behaviour(body=b"{}"), LLMResponseError, 200, 1),
        (Behaviour(body=b'{"data": {"native_tokens_prompt": "many"}}'), LLMResponseError, 200, 1),
        (Behaviour(body=b"<html>"), LLMResponseError, 200, 1),
        (Behaviour(body=b"[]"), LLMResponseError, 200, 1),
    ],
)
def test_what_is_not_told_is_an_error(
    adapter: OpenRouterAdapter,
    provider: EmbeddedProvider,
    look_up: LookUp,
    behaviour: Behaviour,
    kind: type[LLMAPIError],
    status: int,
    attempts: int,
) -> None:
    """An LLMError with the status, which never says that anything was billed. (PROVIDER-30)"""
    response = adapter.execute_prompt("hello")
    provider.script(behaviour, wire_format="generation")
    with pytest.raises(kind) as caught:
        look_up(adapter, response.metadata["request_id"], max_retries=1)
    error = caught.value
    assert (type(error), error.status_code, error.attempts) == (kind, status, attempts)
    assert (error.maybe_billed, error.booked, error.provider) == (False, None, "openrouter")
    assert KEY not in f"{error} {error.__dict__}"


def test_an_id_that_nobody_knows_is_a_404(adapter: OpenRouterAdapter, look_up: LookUp) -> None:
    """With what it may mean. (PROVIDER-30)"""
    with pytest.raises(LLMAPIError, match="does not know this generation, or not yet") as caught:
        look_up(adapter, "gen-a/b?c=d&e #\u00e9", max_retries=0)
    assert caught.value.status_code == 404


def test_a_bad_key_is_told(provider: EmbeddedProvider, look_up: LookUp) -> None:
    """As with calls."""
    with OpenRouterAdapter(api_key="bad", base_url=provider.openrouter_url) as adapter:
        with pytest.raises(LLMAuthenticationError):
            look_up(adapter, "gen-1")


def test_it_ends_by_its_deadline(adapter: OpenRouterAdapter, provider: EmbeddedProvider, look_up: LookUp) -> None:
    """`timeout_seconds` is a total. (PROVIDER-30)"""
    provider.script(Behaviour(stall="before_headers"), wire_format="generation")
    response = adapter.execute_prompt("hello")
    with pytest.raises(LLMTimeoutError):
        look_up(adapter, response.metadata["request_id"], timeout_seconds=0.3)


def test_it_waits_for_a_place_like_any_request(provider: EmbeddedProvider) -> None:
    """With the only place taken it ends by its deadline, and nothing was sent. (PROVIDER-30)"""
    with OpenRouterAdapter(api_key=KEY, base_url=provider.openrouter_url, max_concurrency=1) as adapter:
        assert adapter.slots.take(Turn(20))
        with pytest.raises(LLMTimeoutError, match="no concurrency slot"):
            adapter.look_up_generation("gen-1", timeout_seconds=0.05)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([None], {}),
        ([""], {}),
        ([" "], {}),
        ([5], {}),
        (["\ud800"], {}),
        (["gen-1"], {"timeout_seconds": 0}),
        (["gen-1"], {"timeout_seconds": True}),
        (["gen-1"], {"max_retries": -1}),
    ],
)
def test_values_that_cannot_be_meant_are_refused(
    adapter: OpenRouterAdapter, look_up: LookUp, arguments: list[Any], options: dict[str, Any]
) -> None:
    """Before anything is sent."""
    with pytest.raises(LLMConfigurationError):
        look_up(adapter, *arguments, **options)
