"""What becomes of a call over HTTP that goes wrong at the provider: its error, and whether it is tried again."""

from __future__ import annotations

import pickle
import socket
import time
from typing import Any

import pytest

from llm_connect import (
    BudgetTracker,
    LLMAPIError,
    LLMAuthenticationError,
    LLMConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMResponseError,
    RunConfig,
    create_adapter,
)
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.conftest import Ask, Make, Wiring
from tests.providers.http_helpers import PROMPT, each_format, fails

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
@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain; charset=utf-8", "application/json; charset=utf-16"]
)
def test_an_error_in_another_charset_keeps_its_status(
    make: Make, ask: Ask, provider: EmbeddedProvider, content_type: str
) -> None:
    """A complete 4xx is released, and its words are kept, in whatever charset they are. (WIRE-11, WIRE-42)"""
    provider.script(Behaviour(status=400, body="caf\u00e9 is closed".encode("latin-1"), content_type=content_type))
    tracker = BudgetTracker(100_000)
    error = fails(ask, make(), RunConfig(max_retries=0, budget_tracker=tracker))
    assert isinstance(error, LLMAPIError)
    assert (error.status_code, error.maybe_billed, tracker.spent) == (400, False, 0)
    assert "is closed" in str(error)


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


@pytest.mark.parametrize("status", [401, 429, 500])
def test_errors_of_a_call_survive_pickling(make: Make, ask: Ask, provider: EmbeddedProvider, status: int) -> None:
    """What a worker process raises arrives whole at its parent. (ERROR-4)"""
    provider.script(Behaviour(status=status, retry_after=1))
    error = fails(ask, make())
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error) | {"cause": None}
