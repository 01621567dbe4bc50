"""Replies that real providers gave, replayed: what they say is what our adapters and protocols make of them.

The recordings are not part of the project: LLM_CONNECT_RECORDINGS names their folder.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from llm_connect import GeminiAdapter, LLMError, LLMResponse, OpenAIAdapter, OpenRouterAdapter, RunConfig
from llm_connect.budget.accounting.bounds import Bound
from llm_connect.protocols import chat_completions, generate_content, responses
from llm_connect.protocols.hidden_prompts import hidden_prompt_tokens
from llm_connect.protocols.openrouter_replies import cost_in
from llm_connect.protocols.wire import Answer, Reply
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.e2e.recordings import Recording, asked, recordings

if not os.environ.get("LLM_CONNECT_RECORDINGS"):
    pytest.skip("LLM_CONNECT_RECORDINGS names no folder", allow_module_level=True)

KEY = "key-0123456789"
RECORDINGS = recordings()
#: Those that our adapters can ask, and the embedded provider can reply.
ONE_PROMPT = [one for one in RECORDINGS if one.asked.is_one_prompt and (one.status == 200 or 400 <= one.status < 600)]
PARSERS = {
    "chat_completions": chat_completions.parse,
    "responses": responses.parse,
    "generate_content": generate_content.parse,
}
#: Responses takes no smaller output limit.
LEAST_LIMIT = {"responses": 16}

each = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
each_prompt = pytest.mark.parametrize("recording", ONE_PROMPT, ids=lambda recording: recording.name)


class Adapters:
    """One adapter for each provider and format, made on first use; all ask the embedded provider."""

    def __init__(self, provider: EmbeddedProvider) -> None:
        self._provider = provider
        self._made: dict[tuple[str, str], Any] = {}

    def of(self, recording: Recording) -> Any:
        kind = (recording.provider, recording.wire)
        if kind not in self._made:
            self._made[kind] = adapter_for(recording, base_url=getattr(self._provider, f"{recording.provider}_url"))
        return self._made[kind]

    def close(self) -> None:
        for adapter in self._made.values():
            adapter.close()


def adapter_for(recording: Recording, **options: Any) -> Any:
    """The adapter that speaks to the provider of a recording in its format."""
    match recording.provider:
        case "openai":
            return OpenAIAdapter(api=recording.wire, api_key=KEY, **options)  # type: ignore[arg-type]
        case "gemini":
            return GeminiAdapter(api_key=KEY, **options)
    return OpenRouterAdapter(api_key=KEY, **options)


def config_for(recording: Recording) -> RunConfig:
    """What our side of the request takes from the recorded one."""
    wanted = recording.asked
    params = {"json_schema": wanted.schema} if wanted.schema else {}
    return RunConfig(
        model_name=recording.model,
        system_prompt=wanted.system or None,
        max_tokens=wanted.limit,
        model_params=params,
        max_retries=0,
    )


def prompt_of(recording: Recording) -> str:
    return recording.asked.turns[0][1]


def bound_of(recording: Recording) -> Bound:
    """The bound at the provider's own endpoint, where it may be graded proven."""
    return adapter_for(recording).bound(prompt_of(recording), config_for(recording))  # type: ignore[no-any-return]


def ask_sync(adapter: Any, *arguments: Any) -> LLMResponse:
    return adapter.execute_prompt(*arguments)  # type: ignore[no-any-return]


def ask_async(adapter: Any, *arguments: Any) -> LLMResponse:
    return asyncio.run(adapter.async_execute_prompt(*arguments))


def outcome_of(ask: Callable[..., LLMResponse], adapter: Any, recording: Recording) -> LLMResponse | LLMError:
    """The response to what the recording asked, or the error instead of it."""
    try:
        return ask(adapter, prompt_of(recording), config_for(recording))
    except LLMError as error:
        return error


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[EmbeddedProvider, Adapters]]:
    """A provider on loopback that replies with what is recorded, and the adapters that ask it."""
    with EmbeddedProvider() as provider:
        adapters = Adapters(provider)
        yield provider, adapters
        adapters.close()


@each
def test_a_reply_means_what_it_says(recording: Recording) -> None:
    """Text, model, usage, finish reason and cost of an answer, and the class of an error, are the recorded ones.

    (WIRE-6, WIRE-7, WIRE-8, WIRE-9, WIRE-12)
    """
    parse = (
        partial(chat_completions.parse, cost_in=cost_in)
        if recording.provider == "openrouter"
        else PARSERS[recording.wire]
    )
    said, parsed = recording.said, parse(Reply(recording.status, {}, recording.body))
    if not isinstance(parsed, Answer):
        assert parsed.kind is said.error
        return
    assert said.error is None
    assert (parsed.content, parsed.model, parsed.finish_reason) == (said.text, said.model, said.finish)
    assert (parsed.usage, parsed.cost) == (said.usage, said.cost)
    assert (parsed.hint is None) == bool(parsed.content or parsed.finish_reason != "length")


@each_prompt
@pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])
def test_a_call_gives_what_was_recorded(
    recording: Recording, ask: Callable[..., LLMResponse], server: tuple[EmbeddedProvider, Adapters]
) -> None:
    """Asked the same through an adapter, a provider that replies the same gives the recorded response or error, and
    the request has the model, the texts and the limit of the recorded one. (WIRE-2)"""
    provider, adapters = server
    provider.reset()
    provider.script(Behaviour(status=None if recording.status == 200 else recording.status, body=recording.body))
    adapter, said = adapters.of(recording), recording.said
    response = outcome_of(ask, adapter, recording)
    if isinstance(response, LLMError):
        assert type(response) is said.error
    else:
        assert said.error is None
        assert (response.content, response.finish_reason, response.cost) == (said.text, said.finish, said.cost)
        assert said.usage in (response.usage, None)
        assert response.usage.estimated is (said.usage is None)
        assert response.model == (said.model or recording.model)
    check_request(provider, recording)


def check_request(provider: EmbeddedProvider, recording: Recording) -> None:
    (request,) = provider.requests
    sent, wanted = asked(dict(request.body)), recording.asked
    assert request.model == recording.model
    assert (sent.system, sent.turns, sent.schema) == (wanted.system, wanted.turns, wanted.schema)
    least = LEAST_LIMIT.get(recording.wire, 0)
    assert sent.limit == (None if wanted.limit is None else max(wanted.limit, least))


@each_prompt
def test_the_bound_covers_what_was_counted(recording: Recording) -> None:
    """What a provider counted for plain texts is within the bound: always where that is proven, and elsewhere unless
    the model is one of which nobody knows what is added to a prompt. (WIRE-15)"""
    used, bound = recording.said.usage, bound_of(recording)
    if used is None or not recording.is_plain:
        return
    known = bound.grade == "proven" or not hidden_prompt_tokens(recording.model)
    assert used.prompt_tokens <= bound.prompt_tokens or not known
    assert recording.asked.limit is None or used.completion_tokens <= bound.max_tokens


def bound_of_body(recording: Recording) -> Bound:
    """The bound of the recorded request itself, whatever it carries, at the provider's own endpoint."""
    body, limit, own = recording.request, recording.asked.limit or 0, recording.provider == "openai"
    match recording.wire:
        case "chat_completions":
            return chat_completions.bound(body, limit, own_endpoint=own)
        case "responses":
            return responses.bound(body, limit, own_endpoint=own)
    return generate_content.bound(body, limit, model=recording.model)


@each
def test_no_recorded_call_used_more_than_its_bound(recording: Recording) -> None:
    """Over all recorded calls, also those that our adapters would not send: what was used is within the bound, unless
    the bound itself says that it is none; where it is proven, there is no exception. (WIRE-15, WIRE-30)"""
    used, bound = recording.said.usage, bound_of_body(recording)
    if used is None or bound.grade == "unbounded":
        return
    assert used.prompt_tokens <= bound.prompt_tokens
    if type(recording.asked.limit) is int:
        assert used.completion_tokens <= bound.completion_tokens


def test_the_recordings_have_bounds_of_every_grade() -> None:
    """The test above is about something: many recorded calls are proven, many estimated, few unbounded."""
    used = [recording for recording in RECORDINGS if recording.said.usage is not None]
    grades = Counter(bound_of_body(recording).grade for recording in used)
    assert grades["proven"] > 10
    assert grades["estimated"] > 10
    assert grades["unbounded"] < len(used) / 2


def test_prompts_that_a_provider_added_are_covered_or_estimated(record_property: Any) -> None:
    """Where more was counted than the texts and their framing can be, the bound allows for it or says that it is an
    estimate; the report names these recordings. (WIRE-15)"""
    for recording in ONE_PROMPT:
        used, bound = recording.said.usage, bound_of(recording)
        sent = bound.prompt_tokens - hidden_prompt_tokens(recording.model)
        if used is not None and used.prompt_tokens > sent:
            record_property(recording.name, f"{used.prompt_tokens} counted, {bound.prompt_tokens} {bound.grade}")
            print(f"{recording.name}: {used.prompt_tokens} counted, {bound.prompt_tokens} {bound.grade}")
            assert used.prompt_tokens <= bound.prompt_tokens or bound.grade == "estimated" or not recording.is_plain
