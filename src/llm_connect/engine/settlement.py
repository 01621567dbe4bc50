"""Turns the outcome of an attempt into the end of its hold, a response, or an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from llm_connect.budget.accounting.bounds import utf8_bytes
from llm_connect.budget.accounting.money import nano_usd_of
from llm_connect.budget.accounting.prices import Price, cost_of
from llm_connect.budget.admission.holds import Ending, Hold, tell_of_settlement
from llm_connect.errors import LLMError, LLMResponseError
from llm_connect.interface.outcomes import end_hold, log_unreadable, presume_unreadable
from llm_connect.interface.reservation import cut_by
from llm_connect.protocols.wire import Answer, Failure, Reply
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import Usage

if TYPE_CHECKING:
    from llm_connect.engine.exchange import CallSoFar, Exchange, Outcome


def read(adapter: Exchange, reply: Reply) -> Outcome:
    """Parse `reply`; shorten the names in it, and keep keys out of them."""
    outcome = adapter.parse(reply)
    request_id, model = adapter.scrubber.name(outcome.request_id), adapter.scrubber.name(outcome.model)
    if (request_id, model) == (outcome.request_id, outcome.model):
        return outcome
    return replace(outcome, request_id=request_id, model=model)


def end_attempt(hold: Hold, outcome: Outcome) -> None:
    """End the hold of an attempt by its outcome; it stays open if nobody knows whether a failure is billed."""
    if outcome.usage is None and outcome.billed is not False:
        _settle_least(hold, outcome)
    if not hold.ended:
        end_hold(hold, outcome)


def end_cut(hold: Hold, so_far: Outcome) -> None:
    """End the hold of a reply that was not read to its end; a no-op if it has ended.

    The provider may go on and bill the whole answer. So its count up to now matters only if that count, with the whole
    output limit, is more than the hold.
    """
    _settle_least(hold, so_far)
    hold.end_unsettled()


def _settle_least(hold: Hold, outcome: Outcome) -> None:
    try:
        _settle_above(hold, outcome)
    except Exception as error:
        presume_unreadable(hold, error)


def _settle_above(hold: Hold, outcome: Outcome) -> None:
    """Settle by the least usage that is known plus the rest of the bound, if that is more than the hold."""
    least = outcome.usage or outcome.used_at_least
    if hold.state != "dispatched" or (least is None and not outcome.cost):
        return
    bound, price, most = hold.bound, hold.facts.price, _with_bound(hold, least or _NOTHING)
    nano_usd = max(bound.nano_usd, nano_usd_of("cost", outcome.cost or 0))
    if most.total_tokens > bound.tokens and price is not None:
        nano_usd = max(nano_usd, price.at_most(most.prompt_tokens, most.completion_tokens, 1))
    if most.total_tokens > bound.tokens or nano_usd > bound.nano_usd:
        amount = bound.but(max(most.total_tokens, bound.tokens), None, nano_usd)
        ending = Ending("settled", amount, most)
        hold.keeper.end(hold, ending)
        tell_of_settlement(hold, ending)


def _with_bound(hold: Hold, least: Usage) -> Usage:
    """The larger of `least` and the hold, for each part."""
    limit = min(hold.max_tokens or 0, hold.bound.tokens)
    return Usage(
        prompt_tokens=max(least.prompt_tokens, hold.bound.tokens - limit),
        completion_tokens=max(least.completion_tokens, limit),
        estimated=True,
    )


def outcome_of(parse: Callable[[], Outcome]) -> Outcome:
    """Return the result of `parse`, or a failure if it cannot read the reply."""
    try:
        return parse()
    except Exception as error:
        return not_read(error)


def not_read(error: Exception) -> Failure:
    """The failure for an unreadable reply, which may have been billed."""
    return Failure(
        kind=LLMResponseError,
        message=f"The reply cannot be read ({type(error).__name__}): check that base_url names the provider's API.",
    )


def response_of(call: CallSoFar, answer: Answer) -> LLMResponse:
    """The response for an answer."""
    metadata: dict[str, Any] = {
        "provider": call.adapter.provider,
        "latency_seconds": time.monotonic() - call.started,
        "attempts": call.attempts,
    }
    if answer.request_id is not None:
        metadata["request_id"] = answer.request_id
    cut = None if call.hold is None else cut_by(call.hold, call.config, answer.finish_reason)
    if answer.hint is not None or cut is not None:
        metadata["hint"] = " ".join(filter(None, (answer.hint, cut)))
    if call.hold is not None:
        metadata["ledger_entry"] = call.hold.entry_id
    cost, source = _cost_told(call, answer)
    return LLMResponse(
        content=answer.content,
        model=answer.model or call.model,
        usage=answer.usage or _estimate(call, answer),
        finish_reason=answer.finish_reason,
        cost=cost,
        cost_source=source,
        metadata=metadata,
    )


def error_of(call: CallSoFar, failure: Failure) -> LLMError:
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


def _cut_response(call: CallSoFar, failure: Failure) -> LLMResponse | None:
    """The text that had arrived, as a response, because it was paid for; None if there was none."""
    content = call.text or failure.content
    if not content:
        return None
    name = call.adapter.scrubber.name
    cut = Answer(
        content=content,
        model=name(failure.model),
        usage=failure.usage,
        used_at_least=failure.used_at_least,
        finish_reason="unknown",
        cost=failure.cost,
        cost_source=failure.cost_source,
        service_tier=failure.service_tier,
        request_id=name(failure.request_id),
    )
    return response_of(call, cut)


def error_for(
    adapter: Exchange, failure: Failure, *, model: str, prompts: Iterable[str | None] = (), **facts: Any
) -> LLMError:
    """The error for a failure, without any key or prompt."""
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


def _cost(outcome: Outcome, price: Price | None) -> tuple[Decimal | None, str | None]:
    return cost_of(outcome.cost, outcome.cost_source, outcome.usage, price, outcome.service_tier)


def _cost_told(call: CallSoFar, answer: Answer) -> tuple[Decimal | None, str | None]:
    """The cost for the response, and its source; None for both if it cannot be computed."""
    try:
        return _cost(answer, call.price)
    except Exception as error:
        log_unreadable("cost", error, call.owed)
        return None, None


def _estimate(call: CallSoFar, answer: Answer) -> Usage:
    least = answer.used_at_least or _NOTHING
    return Usage(
        prompt_tokens=max(_prompt_bound(call), least.prompt_tokens),
        completion_tokens=max(utf8_bytes(answer.content), least.completion_tokens),
        estimated=True,
    )


def _prompt_bound(call: CallSoFar) -> int:
    if call.bound is not None:
        return call.bound.prompt_tokens
    try:
        return call.adapter.bound_of(call.adapter.render(call.prompt, call.config, None), 0).prompt_tokens
    except Exception as error:
        log_unreadable("bound", error, call.owed)
        return utf8_bytes(call.prompt)


_NOTHING = Usage(prompt_tokens=0, completion_tokens=0)
