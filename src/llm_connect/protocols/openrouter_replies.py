"""OpenRouter's additions to chat completions: the charge for a call, the words of its errors, and its later report.

Sources: OpenRouter's documentation of usage accounting, of the user's own provider keys (BYOK), and of its limits and
errors; its API reference for `GET /generation?id=`. A 402 for lack of credits is final; a 402 because the requests
under way use up the account's allowance is temporary. A generation is known some seconds after its reply; until then it
is a 404.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from llm_connect._validation import check_encodable
from llm_connect.errors import LLMConfigurationError
from llm_connect.protocols import chat_completions
from llm_connect.protocols.error_bodies import seconds
from llm_connect.protocols.replies import answer_in, unreadable
from llm_connect.protocols.usage_figures import FigureNames, clipped, figures_in, usd_figure
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply, first, mapping, object_in, text
from llm_connect.types.usage import Usage

#: The suffix of models that cost nothing.
_FREE = ":free"
#: The spellings by which a reply says that the key was the user's own.
_YES = (True, "true", "True")
_IN_FLIGHT = "openrouter_in_flight_budget"
_GENERATION_FIGURES = FigureNames(
    "native_tokens_prompt",
    "native_tokens_completion",
    cached="native_tokens_cached",
    reasoning="native_tokens_reasoning",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """OpenRouter's record of one request.

    request_id: the id in the question.
    usage: tokens by the tokenizer of the model, as they are billed.
    cost: USD; with the user's own key, OpenRouter's fee plus the provider's price; None if it is unknown.
    cancelled: True if the sender cut the request short.
    """

    request_id: str
    model: str
    usage: Usage
    cost: Decimal | None
    cancelled: bool


def parse(reply: Reply) -> Answer | Failure:
    """Parse a reply as chat completions do, with its cost; an error says better when to retry."""
    outcome = chat_completions.parse(reply, cost_in)
    return with_openrouters_words(outcome, reply) if isinstance(outcome, Failure) else outcome


def cost_in(usage: JSON, model: str) -> Decimal | None:
    """USD of a call of `model` by the usage in its reply; None if it is unknown.

    Only calls of free models cost nothing. A cost of 0 with a price of the provider beside it means a key of the
    user's own; any other 0 means nothing.
    """
    upstream = mapping(usage.get("cost_details")).get("upstream_inference_cost")
    cost = charged(usage.get("cost"), is_byok=usage.get("is_byok") in _YES, upstream=upstream)
    if cost is None or cost or model.endswith(_FREE):
        return cost
    return usd_figure(upstream) or None


def charged(cost: Any, *, is_byok: bool, upstream: Any) -> Decimal | None:
    """USD charged. With the user's own key, `cost` is only OpenRouter's fee, and the provider's price is added."""
    fee = usd_figure(cost)
    if fee is None or not is_byok:
        return fee
    paid = usd_figure(upstream)
    return fee + paid if paid else None


def with_openrouters_words(failure: Failure, reply: Reply) -> Failure:
    """Amend `failure` by the metadata and the availability in the error of `reply`."""
    error = _error_of(reply)
    metadata, availability = mapping(error.get("metadata")), mapping(error.get("availability"))
    if not metadata and not availability:
        return failure
    waits = (failure.retry_after, seconds(metadata.get("retry_after")), seconds(availability.get("retry_after")))
    return replace(
        failure,
        retryable=_may_pass(failure, metadata, availability),
        retry_after=next((wait for wait in waits if wait is not None), None),
    )


def _error_of(reply: Reply) -> JSON:
    body = object_in(reply.body) or {}
    return mapping(body.get("error") or first(body.get("choices")).get("error"))


def _may_pass(failure: Failure, metadata: JSON, availability: JSON) -> bool:
    said = availability.get("retryable")
    if isinstance(said, bool):
        return said
    return failure.retryable or metadata.get("limit_source") == _IN_FLIGHT


def path_of(request_id: str) -> str:
    """The path of a generation. Raises LLMConfigurationError for an invalid id."""
    if not isinstance(request_id, str) or not request_id.strip():
        raise LLMConfigurationError("request_id must name the request, as metadata or an error gives it.")
    check_encodable("request_id", request_id)
    return f"/generation?id={quote(request_id, safe='')}"


def generation_in(reply: Reply) -> Generation | Failure:
    """Parse a reply into a generation or a failure."""
    body, failure = answer_in(reply)
    if failure is not None:
        return _asked_too_early(failure)
    data = mapping(body.get("data"))
    usage = _usage_of(data)
    if usage is None:
        return unreadable(reply, "does not describe a generation")
    return Generation(
        request_id=text(data.get("id")),
        model=text(data.get("model")),
        usage=usage,
        cost=charged(
            data.get("total_cost"), is_byok=data.get("is_byok") is True, upstream=data.get("upstream_inference_cost")
        ),
        cancelled=data.get("cancelled") is True,
    )


def _asked_too_early(failure: Failure) -> Failure:
    if failure.details.get("status_code") != 404:
        return failure
    message = "OpenRouter does not know this generation, or not yet (it takes some seconds): ask again later."
    return replace(failure, message=message, retryable=True)


def _usage_of(data: JSON) -> Usage | None:
    said = figures_in(data, _GENERATION_FIGURES)
    if said.prompt is None and said.completion is None:
        return None
    return clipped(said, max(said.prompt or 0, said.cached or 0), max(said.completion or 0, said.reasoning or 0))
