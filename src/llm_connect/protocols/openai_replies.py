"""What the replies of chat completions and of responses have in common: answers, usage and cost."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from llm_connect.core.models import FinishReason, Usage
from llm_connect.protocols.wire import (
    JSON,
    Answer,
    Reply,
    count,
    mapping,
    request_id,
    said_count,
    spent_on_thinking,
    text,
    whole_usage,
)

#: Beyond it a figure is no price of one call, and sums could overflow.
_MOST_USD = 1_000_000


def answer_of(reply: Reply, body: JSON, usage: Usage | None, content: str, finish: FinishReason) -> Answer:
    """The answer that a good reply stands for, with what both formats say in the same place."""
    cost = cost_of(body)
    return Answer(
        content=content,
        model=text(body.get("model")),
        usage=usage,
        finish_reason=finish,
        cost=cost,
        cost_source=None if cost is None else "provider",
        service_tier=text(body.get("service_tier")) or None,
        request_id=request_id(reply) or text(body.get("id")) or None,
        hint=spent_on_thinking(content, finish),
    )


def usage_in(body: JSON, prompt_name: str, completion_name: str) -> Usage | None:
    """Usage in the normal form; None when the reply gives none. The two formats name input and output differently."""
    usage = mapping(body.get("usage"))
    prompt = said_count(usage.get(f"{prompt_name}_tokens"))
    completion = said_count(usage.get(f"{completion_name}_tokens"))
    total = said_count(usage.get("total_tokens"))
    if prompt is None or (completion is None and total is None):
        return None
    inputs = mapping(usage.get(f"{prompt_name}_tokens_details"))
    outputs = mapping(usage.get(f"{completion_name}_tokens_details"))
    return whole_usage(
        prompt=prompt,
        completion=completion or 0,
        total=total or 0,
        cached=count(inputs.get("cached_tokens")),
        cache_write=count(inputs.get("cache_write_tokens")),
        reasoning=count(outputs.get("reasoning_tokens")),
    )


def cost_of(body: JSON) -> Decimal | None:
    """USD as OpenRouter reports it; None elsewhere."""
    usage = mapping(body.get("usage"))
    upstream = mapping(usage.get("cost_details")).get("upstream_inference_cost")
    return openrouter_cost(usage.get("cost"), is_byok=usage.get("is_byok") is True, upstream=upstream)


def openrouter_cost(cost: Any, *, is_byok: bool, upstream: Any) -> Decimal | None:
    """USD; with a key of the user's own `cost` is OpenRouter's fee alone, and the provider's price comes on top."""
    charged, paid = _decimal(cost), _decimal(upstream)
    if charged is None or not is_byok:
        return charged
    return None if paid is None else charged + paid


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and 0 <= number < _MOST_USD else None
