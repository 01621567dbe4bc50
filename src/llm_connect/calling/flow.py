"""The one call path, without I/O: a generator that yields what it waits for.

render request -> send -> parse -> LLMResponse
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from llm_connect.calling.deadline import Deadline
from llm_connect.calling.drivers import Step
from llm_connect.calling.retry import pause_before_retry
from llm_connect.calling.scrub import Scrubber
from llm_connect.calling.steps import Pause, Send, TakeSlot, timed_out
from llm_connect.core.exceptions import LLMError
from llm_connect.core.models import LLMResponse, Prompt, RunConfig, Usage, check_prompt
from llm_connect.protocols.wire import Answer, Failure

if TYPE_CHECKING:
    from llm_connect.calling.provider import ProviderAdapter, Request


def call(adapter: ProviderAdapter, prompt: Prompt, config: RunConfig) -> Generator[Step, Any, LLMResponse]:
    """Make one call: attempts until one succeeds, none can help any more, or the deadline has come."""
    check_prompt(prompt)
    started = time.monotonic()
    deadline = Deadline(started + config.timeout_seconds)
    request = adapter.render(prompt, config, config.max_tokens)
    attempt = 1
    while True:
        outcome = yield from _attempt(adapter, request, deadline)
        if isinstance(outcome, Answer):
            return _response(adapter, outcome, attempt, time.monotonic() - started)
        pause = pause_before_retry(outcome, attempt, config.max_retries, deadline)
        if pause is None:
            scrubber = Scrubber(adapter.secrets, (prompt, config.system_prompt))
            raise _error(adapter, request.model, outcome, attempt, scrubber)
        yield Pause(pause)
        attempt += 1


def _attempt(adapter: ProviderAdapter, request: Request, deadline: Deadline) -> Generator[Step, Any, Answer | Failure]:
    release = yield TakeSlot(adapter.slots, deadline)
    if release is None:
        return timed_out("no place came free among the adapter's concurrent requests", maybe_billed=False)
    try:
        reply = yield Send(adapter, request, deadline)
    finally:
        release()
    return reply if isinstance(reply, Failure) else adapter.parse(reply)


def _response(adapter: ProviderAdapter, answer: Answer, attempts: int, seconds: float) -> LLMResponse:
    metadata = {"provider": adapter.provider, "latency_seconds": seconds, "attempts": attempts}
    for name in ("request_id", "hint"):
        if (value := getattr(answer, name)) is not None:
            metadata[name] = value
    return LLMResponse(
        content=answer.content,
        model=answer.model,
        usage=answer.usage or Usage(prompt_tokens=0, completion_tokens=0, estimated=True),
        finish_reason=answer.finish_reason,
        cost=answer.cost,
        cost_source=answer.cost_source,
        metadata=metadata,
    )


def _error(adapter: ProviderAdapter, model: str, failure: Failure, attempts: int, scrubber: Scrubber) -> LLMError:
    return failure.kind(
        f"{adapter.provider} {model}: {scrubber.clean(failure.message)}",
        provider=adapter.provider,
        model=model,
        request_id=scrubber.clean(failure.request_id),
        retry_after=failure.retry_after,
        attempts=attempts,
        **scrubber.clean(dict(failure.details)),
    )
