"""One behaviour over all providers over HTTP: real SDKs and clients against loopback, sync and async."""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib.util
import json
import logging
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llm_connect import (
    LLMAdapter,
    LLMAPIError,
    LLMAuthenticationError,
    LLMConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMResponse,
    LLMResponseError,
    LLMTimeoutError,
    RunConfig,
    create_adapter,
)
from llm_connect.testing import Behaviour, EmbeddedProvider

Ask = Callable[..., LLMResponse]
Make = Callable[..., Any]
Wiring = Any

ONCE = RunConfig(max_retries=0)
PROMPT = "The quick brown fox of the prompt jumps over 13 lazy dogs."
SYSTEM = "Always answer in the style of a very old sailor."
NOISE = 0.3

#: For tests that make async calls themselves.
each_transport = pytest.mark.usefixtures("transport")
#: For tests of what a format means, beside those of who carries it.
each_format = pytest.mark.parametrize("wiring", ["gemini", "openai", "openai-responses", "openrouter"], indirect=True)


def fails(ask: Ask, adapter: LLMAdapter, config: RunConfig = ONCE) -> LLMError:
    """The error of a call that has to fail."""
    with pytest.raises(LLMError) as caught:
        ask(adapter, PROMPT, config)
    return caught.value


# What a good answer is


@each_format
def test_a_call_gives_an_answer(make: Make, ask: Ask, provider: EmbeddedProvider, wiring: Wiring) -> None:
    """Text, model, finish, usage as billed, and the metadata that is always there. (ADAPTER-1, CALL-6)"""
    response = ask(make(), PROMPT)
    assert len(response.content.split()) == 40
    assert (response.model, response.finish_reason) == ("test-model", "stop")
    assert response.usage.prompt_tokens == provider.meter.prompt_tokens
    assert response.usage.completion_tokens == provider.meter.completion_tokens == 40
    assert response.usage.total_tokens == provider.meter.total_tokens
    assert response.usage.estimated is False
    assert response.metadata["provider"] == wiring.name
    assert response.metadata["attempts"] == 1
    assert 0 < response.metadata["latency_seconds"] < 30
    assert response.metadata["request_id"]
    assert "hint" not in response.metadata
    assert provider.requests[0].prompt == PROMPT


def test_an_answer_as_dict_goes_through_json(make: Make, ask: Ask) -> None:
    """`to_dict` of an answer is what `json.dumps` takes and gives back, and its cost is text. (MODEL-4)"""
    response = ask(make(), PROMPT)
    data = response.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["cost"] == (None if response.cost is None else str(response.cost))


@each_format
def test_usage_is_in_one_normal_form(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Hidden, cached and thinking tokens are parts of input and output at every provider. (WIRE-8)"""
    provider.script(Behaviour(hidden_prompt_tokens=500, cached_tokens=400, reasoning_tokens=30))
    usage = ask(make(), PROMPT).usage
    assert usage.prompt_tokens == provider.meter.prompt_tokens > 500
    assert usage.completion_tokens == provider.meter.completion_tokens == 70
    assert (usage.cached_tokens, usage.reasoning_tokens) == (400, 30)


@each_format
def test_finish_reasons_are_one_closed_set(make: Make, ask: Ask, provider: EmbeddedProvider, wiring: Wiring) -> None:
    """Each provider's own word becomes one of ours. (MODEL-9)"""
    adapter = make()
    for word, meant in wiring.finish.items():
        provider.script(Behaviour(finish_reason=word), times=1)
        assert ask(adapter, PROMPT).finish_reason == meant


@each_format
def test_an_answer_that_was_all_thinking_is_an_answer(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Empty text at the limit is a response with usage and a hint, because it was paid for. (ADAPTER-1, WIRE-10)"""
    provider.script(Behaviour(reasoning_tokens=99))
    response = ask(make(), PROMPT, RunConfig(max_tokens=20))
    assert (response.content, response.finish_reason) == ("", "length")
    assert response.usage.completion_tokens == 20
    assert "max_tokens" in response.metadata["hint"]


@each_format
def test_a_reply_without_usage_is_an_answer_with_unknown_usage(
    make: Make, ask: Ask, provider: EmbeddedProvider
) -> None:
    """The paid answer is not lost, and its usage is marked as not the provider's. (CALL-11)"""
    provider.script(Behaviour(usage="missing"))
    response = ask(make(), PROMPT)
    assert response.content
    assert response.usage.estimated is True


@each_format
def test_settings_that_are_not_set_are_not_sent(
    make: Make, ask: Ask, provider: EmbeddedProvider, wiring: Wiring
) -> None:
    """None means that the provider's default holds. (MODEL-5)"""
    ask(make(), PROMPT)
    body = provider.requests[0].body
    assert wiring.sent(body, wiring.temperature_path) is None
    assert wiring.sent(body, wiring.limit_path) is None
    assert provider.requests[0].system_prompt == ""


@each_format
def test_settings_that_are_set_are_sent_under_the_right_field(
    make: Make, ask: Ask, provider: EmbeddedProvider, wiring: Wiring
) -> None:
    """Temperature, output limit and system prompt arrive, and the limit limits."""
    response = ask(make(), PROMPT, RunConfig(temperature=0, max_tokens=16, system_prompt=SYSTEM))
    request = provider.requests[0]
    assert wiring.sent(request.body, wiring.temperature_path) == 0
    assert wiring.sent(request.body, wiring.limit_path) == 16 == request.output_limit
    assert (request.system_prompt, request.prompt) == (SYSTEM, PROMPT)
    assert response.finish_reason == "length"


def test_the_configs_model_wins_for_one_call(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """`model_name` is for the call; the adapter's own model stays. (PROVIDER-3)"""
    adapter = make()
    assert ask(adapter, PROMPT, RunConfig(model_name="other-model")).model == "other-model"
    assert ask(adapter, PROMPT).model == "test-model"
    assert [request.model for request in provider.requests] == ["other-model", "test-model"]


@each_format
def test_a_schema_is_asked_for_and_answered(make: Make, ask: Ask) -> None:
    """The portable `json_schema` reaches every provider in its own field."""
    schema = {
        "type": "object",
        "properties": {"colour": {"const": "green"}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    response = ask(make(), PROMPT, RunConfig(model_params={"json_schema": schema}))
    assert response.content.replace(" ", "") == '{"colour":"green"}'


@each_format
def test_any_text_arrives_as_it_is(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Control characters, quotes, other scripts and emoji pass unchanged."""
    text = '\x00\x07 "quoted" \\ 日本語 😀 \u2028 ${x} <|im_end|>'
    ask(make(), text, RunConfig(system_prompt=text))
    assert provider.requests[0].prompt == text
    assert provider.requests[0].system_prompt == text


def test_a_large_prompt_arrives_whole(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Two megabytes are sent in one request."""
    text = "word " * 400_000
    ask(make(), text)
    assert provider.requests[0].prompt == text


@each_format
def test_a_config_is_not_changed(make: Make, ask: Ask) -> None:
    """A config that was used equals one that was not. (ADAPTER-5)"""
    config = RunConfig(max_tokens=5, model_params={"json_schema": {"type": "object"}, "top_p": 0.5})
    unused = copy.deepcopy(config)
    ask(make(), PROMPT, config)
    assert config == unused


# What is refused before it is sent


@pytest.mark.parametrize("prompt", [None, "", "  ", 5, b"x", ["x"], "a\ud800"])
def test_a_prompt_that_cannot_be_sent_is_refused(make: Make, ask: Ask, provider: EmbeddedProvider, prompt: Any) -> None:
    """A configuration error, and no request. (ADAPTER-7)"""
    with pytest.raises(LLMConfigurationError):
        ask(make(), prompt)
    assert provider.requests == []


@each_format
@pytest.mark.parametrize("params", [{"n": 5}, {"stream": True}, {"not_a_parameter": 1}, {"seed": object()}])
def test_parameters_that_cannot_be_meant_are_refused(
    make: Make, ask: Ask, provider: EmbeddedProvider, params: dict[str, Any]
) -> None:
    """A configuration error that names the key, no request, and `validate_config` says so beforehand.

    (ADAPTER-4, WIRE-3)
    """
    adapter, config = make(), RunConfig(model_params=params)
    assert adapter.validate_config(config) is False
    with pytest.raises(LLMConfigurationError, match=next(iter(params))):
        ask(adapter, PROMPT, config)
    assert provider.requests == []
    assert adapter.validate_config(RunConfig(max_tokens=3, model_params={"top_p": 0.5})) is True


def test_a_missing_key_is_refused_by_name(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key the constructor raises, and names each variable that is looked at. (PROVIDER-1)"""
    for variable in wiring.variables:
        monkeypatch.delenv(variable, raising=False)
    for key in (None, "", "  "):
        with pytest.raises(LLMConfigurationError) as caught:
            create_adapter(wiring.name, api_key=key)
        assert all(variable in str(caught.value) for variable in wiring.variables)


def test_a_key_of_the_environment_is_used(
    wiring: Wiring, ask: Ask, provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each variable gives the key; the argument comes before it. (PROVIDER-1)"""
    for variable in wiring.variables:
        monkeypatch.setenv(variable, "bad")
        with create_adapter(wiring.name, base_url=wiring.url(provider)) as adapter:
            assert isinstance(fails(ask, adapter), LLMAuthenticationError)
        with create_adapter(wiring.name, base_url=wiring.url(provider), api_key="good-key") as adapter:
            assert ask(adapter, PROMPT).content
        monkeypatch.delenv(variable)


@pytest.mark.parametrize("model", ["", "  ", None, 5])
def test_an_adapter_needs_a_model(wiring: Wiring, model: Any) -> None:
    """A model that names nothing is refused in the constructor. (PROVIDER-3)"""
    with pytest.raises(LLMConfigurationError, match="model"):
        create_adapter(wiring.name, api_key="k", model=model)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None])
def test_max_concurrency_is_a_count(wiring: Wiring, limit: Any) -> None:
    """No place at all would block every call for ever."""
    with pytest.raises(LLMConfigurationError, match="max_concurrency"):
        create_adapter(wiring.name, api_key="k", max_concurrency=limit)


def test_a_missing_package_is_named_with_its_extra(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package and the extra, and does not say to install another project's name. (PROVIDER-2)"""
    find_spec = importlib.util.find_spec
    module = __import__("llm_connect.calling.carrier", fromlist=["carrier"])

    def blocked(name: str, package: str | None = None) -> Any:
        return None if name == wiring.module else find_spec(name, package)

    monkeypatch.setattr(module, "find_spec", blocked)
    with pytest.raises(LLMConfigurationError) as caught:
        create_adapter(wiring.name, api_key="k")
    assert f"'{wiring.extra}'" in str(caught.value)
    assert wiring.module.replace(".", "-") in str(caught.value)
    assert "pip install llm-connect" not in str(caught.value)


# What goes wrong at the provider

ERRORS: dict[str, tuple[Behaviour, type[LLMError], int]] = {
    "400": (Behaviour(status=400), LLMAPIError, 400),
    "401": (Behaviour(status=401), LLMAuthenticationError, 401),
    "402": (Behaviour(status=402), LLMAPIError, 402),
    "403": (Behaviour(status=403), LLMAuthenticationError, 403),
    "404": (Behaviour(status=404), LLMAPIError, 404),
    "413": (Behaviour(status=413), LLMAPIError, 413),
    "422": (Behaviour(status=422), LLMAPIError, 422),
    "429": (Behaviour(status=429), LLMRateLimitError, 429),
    "500": (Behaviour(status=500), LLMAPIError, 500),
    "503": (Behaviour(status=503), LLMAPIError, 503),
    "HTML 500": (Behaviour(status=500, body=b"<html>", content_type="text/html"), LLMAPIError, 500),
    "empty 502": (Behaviour(status=502, body=b""), LLMAPIError, 502),
    "HTML 200": (Behaviour(body=b"<html>hello</html>", content_type="text/html"), LLMResponseError, 200),
    "empty 200": (Behaviour(body=b""), LLMResponseError, 200),
    "truncated JSON 200": (Behaviour(body=b'{"choices": [{"mess'), LLMResponseError, 200),
    "list 200": (Behaviour(body=b"[]"), LLMResponseError, 200),
    "null 200": (Behaviour(body=b"null"), LLMResponseError, 200),
    "text 200": (Behaviour(body=b'"hello"'), LLMResponseError, 200),
    "object 200": (Behaviour(body=b"{}"), LLMResponseError, 200),
    "bytes 200": (Behaviour(body=b"\xff\xfe\x00\x80"), LLMResponseError, 200),
    "odd charset 200": (Behaviour(body=b"{}", content_type="text/x; charset=utf-16"), LLMResponseError, 200),
}


@each_format
@pytest.mark.parametrize("case", ERRORS)
def test_an_error_of_the_provider_has_its_kind_and_status(
    make: Make, ask: Ask, provider: EmbeddedProvider, wiring: Wiring, case: str
) -> None:
    """Each bad reply becomes one kind of error with status, provider, model and the count of requests.

    (ADAPTER-2, ERROR-3)
    """
    behaviour, kind, status = ERRORS[case]
    provider.script(behaviour)
    error = fails(ask, make())
    assert type(error) is kind
    assert isinstance(error, LLMAPIError)
    assert error.status_code == status
    assert (error.provider, error.model, error.attempts) == (wiring.name, "test-model", 1)
    assert str(error).startswith(f"{wiring.name} test-model: ")
    assert "\n" not in str(error)
    assert len(provider.requests) == 1


@each_format
def test_a_bad_key_is_an_authentication_error(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Whatever status the provider gives it, a refused key is a configuration error, too, and not retried."""
    error = fails(ask, make(api_key="bad"), RunConfig())
    assert isinstance(error, LLMAuthenticationError)
    assert isinstance(error, LLMConfigurationError)
    assert len(provider.requests) == 1


@each_format
def test_an_error_under_200_is_an_error(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """What failed during generation comes under HTTP 200 and is no answer. (WIRE-6)"""
    provider.script(Behaviour(error_in_200=True, error_message="the model fell over"))
    error = fails(ask, make())
    assert isinstance(error, LLMAPIError)
    assert "the model fell over" in str(error)


def test_what_the_provider_said_is_in_the_error(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """The provider's own message is in the text and in the body."""
    provider.script(Behaviour(status=400, error_message="temperature is not supported", error_code="odd"))
    error = fails(ask, make())
    assert isinstance(error, LLMAPIError)
    assert "temperature is not supported" in str(error)
    assert error.response_body["message"] == "temperature is not supported"
    assert error.response_body["code"] == "odd"


def test_a_redirect_is_not_followed(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """The prompt is not sent on to where a server points, and the text says to change base_url. (CALL-5)"""
    with EmbeddedProvider() as elsewhere:
        provider.script(Behaviour(redirect=elsewhere.openai_url + "/chat/completions"))
        error = fails(ask, make(), RunConfig())
        assert elsewhere.requests == []
        assert elsewhere.meter.refused == 0
    assert isinstance(error, LLMAPIError)
    assert error.status_code == 307
    assert "base_url" in str(error)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("cut", ["before_reply", 0, 20])
def test_a_cut_connection_is_a_connection_error(make: Make, ask: Ask, provider: EmbeddedProvider, cut: Any) -> None:
    """A reply that breaks off is no answer."""
    provider.script(Behaviour(cut=cut))
    error = fails(ask, make())
    assert type(error) is LLMConnectionError
    assert error.attempts == 1 == len(provider.requests)


def test_a_cut_connection_is_tried_again(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """A break may pass, so a second request is made, and both may have been billed."""
    provider.script(Behaviour(cut="before_reply"), times=1)
    assert ask(make(), PROMPT).metadata["attempts"] == 2 == provider.meter.calls


def test_a_refused_connection_is_a_connection_error(make: Make, ask: Ask) -> None:
    """Where nobody listens, the error says so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    error = fails(ask, make(base_url=f"http://127.0.0.1:{port}/v1"))
    assert type(error) is LLMConnectionError
    assert "No connection" in str(error)


@pytest.mark.parametrize("base_url", ["not a url", "127.0.0.1:9/v1", "ftp://127.0.0.1/v1"])
def test_a_base_url_that_is_none_is_a_configuration_error(make: Make, ask: Ask, base_url: str) -> None:
    """What can never be sent is not tried again, and the text names the option."""
    error = fails(ask, make(base_url=base_url), RunConfig())
    assert isinstance(error, LLMConfigurationError)
    assert "base_url" in str(error)
    assert error.attempts <= 1


# Retries, counted where they arrive


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(make: Make, ask: Ask, provider: EmbeddedProvider, status: int) -> None:
    """A passing failure is followed by a second request, whose answer counts. (CALL-3)"""
    provider.script(Behaviour(status=status, retry_after=0), times=1)
    response = ask(make(), PROMPT)
    assert response.metadata["attempts"] == 2 == len(provider.requests)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_what_will_not_pass_is_not_tried_again(make: Make, ask: Ask, provider: EmbeddedProvider, status: int) -> None:
    """A refusal stays one, so it costs one request. (CALL-3)"""
    provider.script(Behaviour(status=status, headers={"x-should-retry": "true"}))
    assert fails(ask, make(), RunConfig()).attempts == 1 == len(provider.requests)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_end(make: Make, ask: Ask, provider: EmbeddedProvider, retries: int) -> None:
    """There are `max_retries` further requests and no more: the SDK's own retries are off. (CALL-3, CALL-5)"""
    provider.script(Behaviour(status=429, retry_after=0))
    error = fails(ask, make(), RunConfig(max_retries=retries))
    assert error.attempts == retries + 1 == len(provider.requests)
    assert error.retry_after == 0


def test_an_answer_that_cannot_be_read_is_not_paid_twice(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """A bad reply under HTTP 200 was billed, and is not asked for again."""
    provider.script(Behaviour(body=b"<html>"))
    fails(ask, make(), RunConfig())
    assert provider.meter.calls == 1


def test_the_wait_asked_for_is_kept(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """The next request comes no sooner than the provider asked. (CALL-4)"""
    provider.script(Behaviour(status=429, retry_after=0.4), times=1)
    started = time.monotonic()
    assert ask(make(), PROMPT).metadata["attempts"] == 2
    assert time.monotonic() - started >= 0.39


def test_a_wait_beyond_the_deadline_is_not_begun(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """A wait that cannot help is told at once, with the time in the error. (CALL-4)"""
    provider.script(Behaviour(status=429, retry_after=60))
    started = time.monotonic()
    error = fails(ask, make(), RunConfig(timeout_seconds=20))
    assert time.monotonic() - started < 10
    assert type(error) is LLMRateLimitError
    assert error.retry_after == 60
    assert len(provider.requests) == 1


@pytest.mark.parametrize("name", ["openai", "openrouter"])
def test_a_used_up_quota_is_not_tried_again(provider: EmbeddedProvider, ask: Ask, name: str) -> None:
    """`insufficient_quota` is a 429 that does not pass."""
    provider.script(Behaviour(status=429, error_code="insufficient_quota", retry_after=0))
    url = getattr(provider, f"{name}_url")
    with create_adapter(name, api_key="key-1234", base_url=url) as adapter:
        assert type(fails(ask, adapter, RunConfig())) is LLMRateLimitError
    assert len(provider.requests) == 1


# The deadline

SLOW = {
    "stall before headers": Behaviour(stall="before_headers"),
    "stall after headers": Behaviour(stall="after_headers"),
    "drip": Behaviour(drip=0.05),
    "drip headers": Behaviour(drip=0.05, drip_headers=True),
    "delay": Behaviour(delay=20),
}


@pytest.mark.parametrize("case", SLOW)
def test_the_deadline_is_total(make: Make, ask: Ask, provider: EmbeddedProvider, case: str) -> None:
    """However slowly bytes come, the call is over within its limit, and the next one is not harmed.

    (ADAPTER-6, CALL-2)
    """
    provider.script(SLOW[case], times=1)
    adapter, limit = make(), 0.5
    started = time.monotonic()
    error = fails(ask, adapter, RunConfig(timeout_seconds=limit))
    elapsed = time.monotonic() - started
    assert type(error) is LLMTimeoutError
    assert limit * 0.9 <= elapsed <= limit * 1.1 + NOISE
    assert "timeout_seconds" in str(error)
    assert len(provider.requests) == 1
    assert ask(adapter, PROMPT).content


def test_the_deadline_is_for_all_attempts_together(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Retries do not start the clock again. (CALL-2)"""
    provider.script(Behaviour(status=500, retry_after=0, delay=0.2))
    limit, started = 0.7, time.monotonic()
    fails(ask, make(), RunConfig(timeout_seconds=limit, max_retries=100))
    assert time.monotonic() - started <= limit * 1.1 + NOISE


def test_a_long_timeout_is_no_short_one(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Sockets count in 32 bits of milliseconds: a timeout beyond them does not wrap around."""
    provider.script(Behaviour(delay=0.3), times=1)
    adapter = make()
    for timeout in (4_294_967.4, 1e10, 1e300):
        assert ask(adapter, PROMPT, RunConfig(timeout_seconds=timeout, max_retries=0)).content


def test_waiting_for_a_place_counts(make: Make, provider: EmbeddedProvider) -> None:
    """With every place taken a call waits, and gives up at its deadline without a request. (CALL-2)"""
    provider.script(Behaviour(stall="before_headers"))
    adapter, limit = make(max_concurrency=1), 0.4
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(adapter.execute_prompt, PROMPT, RunConfig(timeout_seconds=1.5, max_retries=0))
        provider.wait_for_requests(1)
        started = time.monotonic()
        with pytest.raises(LLMTimeoutError):
            adapter.execute_prompt(PROMPT, RunConfig(timeout_seconds=limit))
        assert time.monotonic() - started <= limit * 1.1 + NOISE
        assert type(first.exception()) is LLMTimeoutError
    assert len(provider.requests) == 1


# Threads, tasks and loops


@each_transport
async def test_cancellation_passes_and_lets_go(make: Make, provider: EmbeddedProvider) -> None:
    """CancelledError comes through as it is, its connection is closed, and its place is free again.

    (ADAPTER-2, CALL-8)
    """
    provider.script(Behaviour(stall="before_headers"), times=1)
    async with make(max_concurrency=1) as adapter:
        task = asyncio.create_task(adapter.async_execute_prompt(PROMPT))
        await asyncio.to_thread(provider.wait_for_requests, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await adapter.async_execute_prompt(PROMPT)).content


@each_transport
async def test_a_timeout_around_a_call_is_the_callers(make: Make, provider: EmbeddedProvider) -> None:
    """The caller's own `asyncio.timeout` gives the caller's TimeoutError, not an LLMTimeoutError."""
    provider.script(Behaviour(stall="after_headers"))
    async with make() as adapter:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await adapter.async_execute_prompt(PROMPT)


@each_transport
def test_one_adapter_in_one_loop_after_the_other(make: Make, provider: EmbeddedProvider) -> None:
    """Three `asyncio.run` on one adapter, which does not keep closed loops alive when another comes."""
    adapter, loops = make(max_concurrency=1), []

    async def call() -> str:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        responses = await asyncio.gather(*(adapter.async_execute_prompt(PROMPT) for _ in range(3)))
        return responses[0].content

    for _ in range(3):
        assert asyncio.run(call())
    gc.collect()
    assert len(provider.requests) == 9
    assert [loop() for loop in loops[:2]] == [None, None]


@each_transport
def test_one_adapter_in_two_loops_at_once(make: Make, provider: EmbeddedProvider) -> None:
    """Two threads with a loop each share an adapter, and both loops are busy at the same time. (ADAPTER-8)"""
    provider.script(Behaviour(delay=0.05))
    adapter, both = make(), threading.Barrier(2, timeout=20)

    async def calls() -> int:
        both.wait()
        responses = await asyncio.gather(*(adapter.async_execute_prompt(PROMPT) for _ in range(10)))
        both.wait()
        return len(responses)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: asyncio.run(calls()), range(2))) == [10, 10]
    assert len(provider.requests) == 20


def test_32_threads_share_one_adapter(make: Make, provider: EmbeddedProvider) -> None:
    """A first use by 32 threads at the same moment gives 32 answers. (ADAPTER-8)"""
    adapter, start = make(), threading.Barrier(32, timeout=20)

    def call(number: int) -> str:
        start.wait()
        return adapter.execute_prompt(f"question {number}").content

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(call, range(32)))
    assert {request.prompt for request in provider.requests} == {f"question {n}" for n in range(32)}


@each_transport
async def test_200_calls_at_once(make: Make, provider: EmbeddedProvider) -> None:
    """A gather of 200 gives 200 answers from 200 requests. (ADAPTER-8)"""
    async with make() as adapter:
        responses = await asyncio.gather(*(adapter.async_execute_prompt(f"q {n}") for n in range(200)))
    assert sum(response.usage.total_tokens for response in responses) == provider.meter.total_tokens
    assert {request.prompt for request in provider.requests} == {f"q {n}" for n in range(200)}


@each_transport
async def test_places_limit_what_is_under_way(make: Make, provider: EmbeddedProvider) -> None:
    """With three places the fourth request leaves when one of the three is answered. (CALL-7)"""
    provider.script(Behaviour(stall="before_headers"))
    async with make(max_concurrency=3) as adapter:
        config = RunConfig(timeout_seconds=20)
        tasks = [asyncio.create_task(adapter.async_execute_prompt(PROMPT, config)) for _ in range(6)]
        await asyncio.to_thread(provider.wait_for_requests, 3)
        await asyncio.sleep(0.1)
        assert len(provider.requests) == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# Closing


def test_an_adapter_can_be_closed_twice_and_used_again(make: Make, ask: Ask) -> None:
    """Closing gives back connections; it is no end. (CALL-10)"""
    adapter = make()
    adapter.close()
    assert ask(adapter, PROMPT).content
    adapter.close()
    adapter.close()
    assert ask(adapter, PROMPT).content


@each_transport
async def test_an_adapter_can_be_closed_twice_in_a_loop(make: Make) -> None:
    """The async form of closing is no end either. (CALL-10)"""
    adapter = make()
    await adapter.aclose()
    assert (await adapter.async_execute_prompt(PROMPT)).content
    await adapter.aclose()
    await adapter.aclose()
    assert (await adapter.async_execute_prompt(PROMPT)).content
    await adapter.aclose()


def test_a_context_manager_closes(make: Make) -> None:
    """`with` gives the adapter itself, and leaving it with an error passes the error."""
    with make() as adapter:
        assert adapter.execute_prompt(PROMPT).content
    with pytest.raises(KeyError), make() as adapter:
        raise KeyError


@each_transport
def test_an_adapter_that_nobody_closed_leaves_no_warning(wiring: Wiring, provider: EmbeddedProvider) -> None:
    """Garbage collection closes what was open, in threads and in loops, without a ResourceWarning. (CALL-9)"""
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        def forget() -> None:
            adapter = create_adapter(wiring.name, api_key="key-1234", base_url=wiring.url(provider))
            adapter.execute_prompt(PROMPT)
            asyncio.run(call(adapter))

        async def call(adapter: LLMAdapter) -> None:
            await adapter.async_execute_prompt(PROMPT)

        async def forget_inside() -> None:
            await call(create_adapter(wiring.name, api_key="key-1234", base_url=wiring.url(provider)))
            gc.collect()
            await asyncio.sleep(0.05)

        forget()
        asyncio.run(forget_inside())
        gc.collect()
    assert len(provider.requests) == 3


def test_connections_are_reused(make: Make, provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten calls in a row need one connection. (CALL-9)"""
    connects: list[Any] = []
    create = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: connects.append(a) or create(*a, **k))
    adapter = make()
    for _ in range(10):
        adapter.execute_prompt(PROMPT)
    assert len(connects) == 1
    assert len(provider.requests) == 10


# The environment, and what must not leak


def test_proxies_of_the_environment_are_not_used(
    make: Make, ask: Ask, provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy variable, in capitals or not, does not reroute the prompt. (PROVIDER-6)"""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert ask(make(), PROMPT, ONCE).content
    assert len(provider.requests) == 1


def test_the_key_travels_in_a_header_alone(make: Make, ask: Ask) -> None:
    """The line with the address, as it arrives, has no key in it, and a header has. (PROVIDER-4)"""
    key = "sk-in-a-header-123456"
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        server.settimeout(20)
        adapter = make(api_key=key, base_url=f"http://127.0.0.1:{server.getsockname()[1]}")
        error = pool.submit(fails, ask, adapter)
        with server.accept()[0] as connection:
            line, _, headers = connection.recv(65536).partition(b"\r\n")
        assert isinstance(error.result(20), LLMError)
    assert line.startswith(b"POST /")
    assert key.encode() not in line
    assert key.encode() in headers


def test_only_the_first_call_imports_an_sdk(wiring: Wiring, provider: EmbeddedProvider) -> None:
    """A program that makes adapters and uses none of them does not wait for SDKs. (PROVIDER-5)"""
    script = (
        "import sys; from llm_connect import create_adapter\n"
        f"adapter = create_adapter({wiring.name!r}, api_key='key-1234', base_url={wiring.url(provider)!r})\n"
        "print([name for name in ('openai', 'google.genai', 'httpx2', 'httpx') if name in sys.modules])\n"
        "adapter.execute_prompt('hi')\n"
        f"print({wiring.module!r} in sys.modules)\n"
        "adapter.close()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert result.stdout.split() == ["[]", "True"], result.stderr


ECHO = f"You sent '{PROMPT}' under '{SYSTEM}' with key sk-loopback-0123456789abcdef!"


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(status=400, error_message=ECHO, error_code=ECHO, error_type=ECHO),
        Behaviour(status=401, error_message="x" * 250 + " sk-loopback-0123456789abcdef"),
        Behaviour(status=401, error_message="x" * 275 + " sk-loopback-0123456789abcdef"),
        Behaviour(error_in_200=True, error_message=ECHO),
        Behaviour(body=ECHO.encode()),
        Behaviour(cut=5),
        Behaviour(stall="after_headers"),
    ],
    ids=["400", "cut at 300", "cut within the key", "200", "body", "cut", "timeout"],
)
def test_no_key_and_no_prompt_is_in_an_error(
    make: Make, ask: Ask, provider: EmbeddedProvider, behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither text, repr, pickle, traceback nor log of an error holds the key, the prompt or the system prompt.

    (ERROR-5)
    """
    provider.script(behaviour)
    caplog.set_level(logging.DEBUG, logger="llm_connect")
    adapter = make()
    config = RunConfig(max_retries=0, timeout_seconds=0.4, system_prompt=SYSTEM)
    error = fails(ask, adapter, config)
    shown = [str(error), repr(error), repr(vars(error)), repr(adapter), caplog.text]
    shown += ["".join(traceback.format_exception(error)), pickle.dumps(error).decode("latin-1")]
    for text in shown:
        assert "0123456789" not in text
        assert "quick brown fox" not in text
        assert "old sailor" not in text


@pytest.mark.parametrize("status", [401, 429, 500])
def test_errors_of_a_call_survive_pickling(make: Make, ask: Ask, provider: EmbeddedProvider, status: int) -> None:
    """What a worker process raises arrives whole at its parent. (ERROR-4)"""
    provider.script(Behaviour(status=status, retry_after=1))
    error = fails(ask, make())
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error) | {"cause": None}


def test_the_repr_names_the_model_and_no_key(make: Make) -> None:
    """An adapter in a log tells what it is, and no secret. (PROVIDER-4)"""
    text = repr(make())
    assert "test-model" in text
    assert "sk-" not in text
