"""Chat completions: the wire format of OpenAI, OpenRouter and every compatible server.

Sources: OpenAI's API reference and OpenAPI document (2.3.0); OpenRouter's documentation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from llm_connect.core.bounds import Bound, normalized_utf8_bytes
from llm_connect.core.exceptions import LLMConfigurationError
from llm_connect.core.models import FinishReason, Prompt, RunConfig, Usage
from llm_connect.protocols.hidden_prompts import hidden_prompt_tokens
from llm_connect.protocols.http_failures import ErrorFields, from_status
from llm_connect.protocols.params import check_known, json_schema
from llm_connect.protocols.wire import (
    JSON,
    Answer,
    Failure,
    Reply,
    count,
    first,
    json_bytes,
    mapping,
    read_json,
    request_id,
    said_count,
    spent_on_thinking,
    text,
    unreadable,
    whole_usage,
)

#: Parameters that change neither how many answers there are nor how the reply is read.
SHARED_PARAMS = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "top_p",
        "user",
        "verbosity",
    }
)
_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "error": "error",
}
#: Beyond it a figure is no price of one call, and sums could overflow.
_MOST_USD = 1_000_000
#: Parameters whose JSON becomes part of the prompt.
_READ_BY_THE_MODEL = frozenset({"response_format", "tools", "functions"})
_FRAMING_TOKENS = 8
_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one provider's chat completions differ from another's.

    limit_field: the name of the output limit.
    params: the names that `model_params` may have, beside the portable ones.
    fixed: what every request of this provider carries.
    """

    provider: str
    limit_field: str = "max_completion_tokens"
    params: frozenset[str] = SHARED_PARAMS
    fixed: JSON = field(default_factory=dict)


def render(prompt: Prompt, config: RunConfig, *, model: str, max_tokens: int | None, dialect: Dialect) -> JSON:
    """The request body for one prompt."""
    check_known(config, dialect.params, dialect.provider)
    messages = [{"role": "user", "content": prompt}]
    if config.system_prompt:
        messages.insert(0, {"role": "system", "content": config.system_prompt})
    body: JSON = {"model": model, "messages": messages, **dialect.fixed}
    if config.temperature is not None:
        body["temperature"] = config.temperature
    if max_tokens is not None:
        body[dialect.limit_field] = max_tokens
    return _with_params(body, config)


def bound(body: JSON, max_tokens: int, *, own_endpoint: bool) -> Bound:
    """What a request may use at most.

    A message is framed by three or four tokens and a reply primed by three (OpenAI's cookbook); twice that is allowed.
    A schema counts with its bytes. `proven` only at the provider's own endpoint and for a model that is known to be
    given no further prompt.
    """
    messages = body.get("messages") or []
    texts = [part for message in messages for part in (text(message.get("role")), _prompt_text(message))]
    text_tokens = sum(_FRAMING_TOKENS + normalized_utf8_bytes(part) for part in texts)
    extra = {name: value for name, value in body.items() if name in _READ_BY_THE_MODEL}
    hidden = hidden_prompt_tokens(text(body.get("model")))
    known = own_endpoint and not hidden and not extra
    return Bound(
        prompt_tokens=text_tokens + _FRAMING_TOKENS + json_bytes(extra) + hidden,
        max_tokens=max_tokens,
        outputs=count(body.get("n")) or 1,
        grade="proven" if known else "estimated",
    )


def parse(reply: Reply) -> Answer | Failure:
    """What a reply says: an answer, or why there is none."""
    body = read_json(reply)
    if reply.status != 200:
        return error_reply(reply, {} if isinstance(body, Failure) else body)
    if isinstance(body, Failure):
        return body
    if body.get("error"):
        return error_reply(reply, body)
    choice = first(body.get("choices"))
    if choice.get("error"):
        return error_reply(reply, {**choice, "usage": body.get("usage")})
    if not isinstance(choice.get("message"), dict):
        return unreadable(reply, "has no choices with a message in them", usage_of(body))
    return _answer(reply, body, choice)


def usage_of(body: JSON) -> Usage | None:
    """Usage in the normal form; None when the reply gives none."""
    usage = mapping(body.get("usage"))
    prompt, completion, total = (said_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    if prompt is None or (completion is None and total is None):
        return None
    inputs = mapping(usage.get("prompt_tokens_details"))
    outputs = mapping(usage.get("completion_tokens_details"))
    return whole_usage(
        prompt=prompt,
        completion=completion or 0,
        total=total or 0,
        cached=count(inputs.get("cached_tokens")),
        cache_write=count(inputs.get("cache_write_tokens")),
        reasoning=count(outputs.get("reasoning_tokens")),
    )


def error_reply(reply: Reply, body: JSON) -> Failure:
    """The failure that an error body stands for, whatever the HTTP status says."""
    fields = error_fields(body)
    used_up = fields.code in _QUOTA_CODES or fields.type in _QUOTA_CODES
    return from_status(
        reply,
        fields,
        status=fields.code,
        retryable=False if used_up else None,
        usage=usage_of(body),
    )


def error_fields(body: JSON) -> ErrorFields:
    """`error` of a reply, which some servers give as plain text."""
    error = body.get("error")
    if isinstance(error, str):
        return ErrorFields(message=text(error))
    error = mapping(error)
    code = error.get("code")
    return ErrorFields(
        message=text(error.get("message")),
        code=code if isinstance(code, int) and not isinstance(code, bool) else text(code) or None,
        type=text(error.get("type")) or None,
        param=text(error.get("param")) or None,
    )


def cost_of(body: JSON) -> Decimal | None:
    """USD as OpenRouter reports it; None elsewhere.

    With a key of the user's own (`is_byok`) `cost` is OpenRouter's fee alone, and the provider's price comes on top.
    """
    usage = mapping(body.get("usage"))
    cost = _decimal(usage.get("cost"))
    if cost is None or usage.get("is_byok") is not True:
        return cost
    upstream = _decimal(mapping(usage.get("cost_details")).get("upstream_inference_cost"))
    return None if upstream is None else cost + upstream


def _prompt_text(message: JSON) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _with_params(body: JSON, config: RunConfig) -> JSON:
    params = dict(config.model_params)
    schema = json_schema(params)
    if schema is not None:
        wrapped = {"name": schema.name, "schema": schema.schema, "strict": schema.strict}
        body["response_format"] = {"type": "json_schema", "json_schema": wrapped}
    for name, value in params.items():
        body[name] = _merged(name, value, body[name]) if name in body else value
    return body


def _merged(name: str, value: Any, fixed: JSON) -> JSON:
    """What is fixed wins: an output limit that a provider may ignore, for one, would not be a limit."""
    if not isinstance(value, dict):
        raise LLMConfigurationError(f"model_params[{name!r}] must be a dict here.")
    return {**value, **fixed}


def _answer(reply: Reply, body: JSON, choice: JSON) -> Answer:
    message = choice["message"]
    finish = _FINISH.get(text(choice.get("finish_reason")), "unknown")
    content = _content(message.get("content"))
    if not content and text(message.get("refusal")):
        content, finish = text(message["refusal"]), "content_filter"
    cost = cost_of(body)
    return Answer(
        content=content,
        model=text(body.get("model")),
        usage=usage_of(body),
        finish_reason=finish,
        cost=cost,
        cost_source=None if cost is None else "provider",
        request_id=request_id(reply) or text(body.get("id")) or None,
        hint=spent_on_thinking(content, finish),
    )


def _content(content: Any) -> str:
    """The text of a message, which some servers give in parts."""
    if isinstance(content, list):
        return "".join(text(mapping(part).get("text")) for part in content)
    return text(content)


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and 0 <= number < _MOST_USD else None
