"""What an attempt's outcome means: for its hold, for the response, for the error."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from llm_connect.core.bounds import utf8_bytes
from llm_connect.core.exceptions import LLMError
from llm_connect.core.holds import Ending, Hold
from llm_connect.core.models import LLMResponse
from llm_connect.core.price import Price, cost_of
from llm_connect.core.usage import Usage
from llm_connect.protocols.wire import Answer, Failure

if TYPE_CHECKING:
    from llm_connect.calling.flow import Call
    from llm_connect.calling.provider import ProviderAdapter


def end_hold(hold: Hold, outcome: Answer | Failure) -> None:
    """Settle by the usage that the reply gives; without one, an answer was paid for, and a failure may have been."""
    if outcome.usage is not None:
        cost, source = _cost(outcome, hold.facts.price)
        hold.settle(usage=outcome.usage, usd=cost, cost_source=source, model=outcome.model or None)
    elif isinstance(outcome, Answer):
        hold.presume()
    elif not outcome.maybe_billed:
        hold.release()


def end_cut(hold: Hold, counted: Usage | None) -> None:
    """End the hold of a reply that was not read to its end; nothing when it has ended.

    The provider may go on and bill all of it, so what it had `counted` by then matters only where that, with all of the
    output, is more.
    """
    if counted is not None:
        completion = max(counted.completion_tokens, hold.max_tokens or 0)
        _settle_above(hold, replace(counted, completion_tokens=completion, estimated=True))
    hold.end_unsettled()


def _settle_above(hold: Hold, most: Usage) -> None:
    """Settle by an estimate that is more than what is held; else nothing."""
    if hold.state == "dispatched" and most.total_tokens > hold.bound.tokens:
        price = hold.facts.price
        priced = 0 if price is None else price.at_most(most.prompt_tokens, most.completion_tokens, 1)
        amount = hold.bound.but(most.total_tokens, None, max(priced, hold.bound.nano_usd))
        hold.tracker.gate.end(hold, Ending("settled", amount, most))


def response_of(call: Call, answer: Answer) -> LLMResponse:
    """The response for an answer."""
    metadata: dict[str, Any] = {
        "provider": call.adapter.provider,
        "latency_seconds": time.monotonic() - call.started,
        "attempts": call.attempts,
    }
    if answer.request_id is not None:
        metadata["request_id"] = answer.request_id
    if answer.hint is not None:
        metadata["hint"] = answer.hint
    if call.hold is not None:
        metadata["ledger_entry"] = call.hold.entry_id
    cost, source = _cost(answer, call.price)
    return LLMResponse(
        content=answer.content,
        model=answer.model or call.model,
        usage=answer.usage or _estimate(call, answer),
        finish_reason=answer.finish_reason,
        cost=cost,
        cost_source=source,
        metadata=metadata,
    )


def error_of(call: Call, failure: Failure) -> LLMError:
    """The error for a failure of a call."""
    return error_for(
        call.adapter,
        failure,
        model=call.model,
        prompts=(call.prompt, call.config.system_prompt),
        attempts=call.attempts,
        maybe_billed=failure.maybe_billed,
        booked=None if call.tracker is None else call.booked,
        ledger_entry=None if call.hold is None else call.hold.entry_id or None,
        response=_cut_response(call, failure),
    )


def _cut_response(call: Call, failure: Failure) -> LLMResponse | None:
    """What had come of the answer, when that was text; it was paid for."""
    content = call.text or failure.content
    if not content:
        return None
    cut = Answer(
        content=content,
        model=failure.model,
        usage=failure.usage,
        finish_reason="unknown",
        cost=failure.cost,
        cost_source=failure.cost_source,
        service_tier=failure.service_tier,
        request_id=failure.request_id,
    )
    return response_of(call, cut)


def error_for(
    adapter: ProviderAdapter, failure: Failure, *, model: str, prompts: Iterable[str | None] = (), **facts: Any
) -> LLMError:
    """The error for a failure, without key and prompt."""
    scrubber = adapter.scrubber.beside(prompts)
    return failure.kind(
        f"{' '.join(filter(None, (adapter.provider, model)))}: {scrubber.clean(failure.message)}",
        provider=adapter.provider,
        model=model or None,
        request_id=scrubber.name(failure.request_id),
        retry_after=failure.retry_after,
        **facts,
        **scrubber.clean(dict(failure.details)),
    )


def _cost(outcome: Answer | Failure, price: Price | None) -> tuple[Decimal | None, str | None]:
    return cost_of(outcome.cost, outcome.cost_source, outcome.usage, price, outcome.service_tier)


def _estimate(call: Call, answer: Answer) -> Usage:
    bound = call.bound or call.adapter.bound_of(call.adapter.render(call.prompt, call.config, None), 0)
    return Usage(prompt_tokens=bound.prompt_tokens, completion_tokens=utf8_bytes(answer.content), estimated=True)
