"""OpenRouter's later report on one request: `GET /generation?id=`.

Source: OpenRouter's API reference. A generation is known some seconds after its reply; until then it is a 404.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from urllib.parse import quote

from llm_connect._validation import check_encodable
from llm_connect.errors import LLMConfigurationError
from llm_connect.protocols.http_failures import read_answer
from llm_connect.protocols.openrouter_costs import charged
from llm_connect.protocols.usage_figures import Figures, clipped, figure
from llm_connect.protocols.wire import (
    JSON,
    Failure,
    Reply,
    mapping,
    text,
    unreadable,
)
from llm_connect.types.usage import Usage


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


def path_of(request_id: str) -> str:
    """The path of a generation. Raises LLMConfigurationError for an invalid id."""
    if not isinstance(request_id, str) or not request_id.strip():
        raise LLMConfigurationError("request_id must name the request, as metadata or an error gives it.")
    check_encodable("request_id", request_id)
    return f"/generation?id={quote(request_id, safe='')}"


def parse(reply: Reply) -> Generation | Failure:
    """Parse a reply into a generation or a failure."""
    body = read_answer(reply, lambda failure, _: failure)
    if isinstance(body, Failure):
        return _asked_too_early(body)
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
    prompt, completion = (figure(data.get(f"native_tokens_{name}")) for name in ("prompt", "completion"))
    if prompt is None and completion is None:
        return None
    said = Figures(
        prompt=prompt,
        completion=completion,
        cached=figure(data.get("native_tokens_cached")),
        reasoning=figure(data.get("native_tokens_reasoning")),
    )
    return clipped(said, max(prompt or 0, said.cached or 0), max(completion or 0, said.reasoning or 0))
