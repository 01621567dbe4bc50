"""Responses: the wire format of OpenAI's newer models.

Sources: OpenAI's API reference and OpenAPI document (2.3.0); recorded replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.accounting.token_counters import TokenCounter
from llm_connect.interface.config import RunConfig
from llm_connect.protocols.hidden_prompts import hidden_prompt_tokens
from llm_connect.protocols.http_failures import read_answer
from llm_connect.protocols.openai_replies import answer_of, told_by
from llm_connect.protocols.params import JSONSchema, check_known, json_schema
from llm_connect.protocols.prompt_sizes import (
    FRAMING_TOKENS,
    STYLE_TOKENS,
    PromptSizes,
    are_functions,
    are_objects,
    is_text,
    several,
    texts_of,
    with_count,
)
from llm_connect.protocols.streamed_figures import merged
from llm_connect.protocols.usage_figures import figure
from llm_connect.protocols.wire import (
    JSON,
    Answer,
    AnyOutcome,
    Failure,
    Reply,
    mapping,
    objects,
    read_json,
    text,
    unreadable,
    with_field,
    with_figures,
)
from llm_connect.types.response import FinishReason, Prompt

#: The smallest output limit that the format takes (OpenAPI document 2.3.0).
LEAST_MAX_TOKENS = 16

#: Names that `model_params` may have, and their places in the body. `reasoning` as a whole is not one of them,
#: because its mode "pro" adds a prompt of about 1,500 tokens.
_PARAMS: Mapping[str, tuple[str, ...]] = {
    "metadata": ("metadata",),
    "prompt_cache_key": ("prompt_cache_key",),
    "reasoning_effort": ("reasoning", "effort"),
    "safety_identifier": ("safety_identifier",),
    "service_tier": ("service_tier",),
    "store": ("store",),
    "top_p": ("top_p",),
    "user": ("user",),
    "verbosity": ("text", "verbosity"),
}
#: All fields of a request that `bound` knows. Any other field may make the model read or write without limit.
_BOUNDED = frozenset(
    {
        "background",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "metadata",
        "model",
        "moderation",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    }
)
#: Those of `reasoning`, without its mode "pro".
_BOUNDED_REASONING = frozenset({"context", "effort", "summary"})
#: The fields that the counting endpoint accepts as well (openai 3.54, InputTokenCountParams).
_COUNTED = (
    "input",
    "instructions",
    "model",
    "parallel_tool_calls",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
    "truncation",
)
_FINISH: Mapping[str, FinishReason] = {
    "completed": "stop",
    "max_output_tokens": "length",
    "content_filter": "content_filter",
}
#: States of a reply without an answer: it failed, or is still to come.
_NO_ANSWER = frozenset({"failed", "cancelled", "queued", "in_progress"})


def render(prompt: Prompt, config: RunConfig, *, model: str, max_tokens: int | None) -> JSON:
    """Render the request body for one prompt. OpenAI does not store the reply unless `model_params` says so.

    The format does not accept a limit below 16. A smaller one is sent as 16, and `bound` counts it as that.
    """
    check_known(config, _PARAMS, "OpenAI's responses")
    body: JSON = {"model": model, "input": [{"role": "user", "content": prompt}], "store": False}
    if config.system_prompt:
        body["instructions"] = config.system_prompt
    if config.temperature is not None:
        body["temperature"] = config.temperature
    if max_tokens is not None:
        body["max_output_tokens"] = max(max_tokens, LEAST_MAX_TOKENS)
    return _with_params(body, config)


def limited(body: JSON, max_tokens: int | None) -> JSON:
    """The same request with another output limit, or without one."""
    return with_field(body, "max_output_tokens", None if max_tokens is None else max(max_tokens, LEAST_MAX_TOKENS))


def bound(body: JSON, max_tokens: int, *, own_endpoint: bool, counter: TokenCounter | None = None) -> Bound:
    """The upper bound of a request.

    A schema counts with its bytes. The grade is `proven` only at the provider's own endpoint, for text, and for a model
    to whose prompt the provider is known to add nothing. It is `unbounded` if the request has something that is not
    counted here: images, a provider's own tools, a conversation that the provider keeps, or an unknown field.
    """
    sizes = PromptSizes(text(body.get("model")), counter)
    items = _items(body.get("input"))
    texts = [text(body.get("instructions")), *_texts(items)]
    as_json = _read_as_json(body, items)
    style = STYLE_TOKENS if "reasoning" in body or mapping(body.get("text")).get("verbosity") else 0
    added = FRAMING_TOKENS * (1 + len(items)) + style + sizes.tools(body.get("tools")) + sizes.hidden
    return Bound(
        prompt_tokens=sizes.framed(texts) + sizes.json(as_json) + added,
        max_tokens=max(max_tokens, LEAST_MAX_TOKENS),
        least_max_tokens=LEAST_MAX_TOKENS,
        grade=sizes.grade(limited=_is_limited(body, items), plain=own_endpoint and not as_json),
    )


def counting_body(body: JSON) -> JSON:
    """The body that asks OpenAI to count the tokens of the request `body`."""
    return {name: body[name] for name in _COUNTED if name in body}


def counted_bound(bound: Bound, reply: Reply, model: str, *, own_endpoint: bool) -> Bound:
    """Tighten `bound` by OpenAI's count: "the exact count the model will receive", by its guide to counting tokens."""
    said = read_json(reply)
    counted = None if isinstance(said, Failure) or not reply.good else figure(said.get("input_tokens"))
    return with_count(bound, counted, hidden=hidden_prompt_tokens(model), exact=own_endpoint)


def parse(reply: Reply) -> Answer | Failure:
    """Parse a reply into an answer or a failure."""
    body = read_answer(reply, _figured)
    return body if isinstance(body, Failure) else _figured(_outcome(reply, body), body)


def _figured(outcome: AnyOutcome, body: JSON) -> AnyOutcome:
    usage = mapping(body.get("usage"))
    return with_figures(outcome, told_by(usage, body, "input_tokens", "output_tokens", lambda: _wrote(body)))


def _outcome(reply: Reply, body: JSON) -> Answer | Failure:
    status, items = text(body.get("status")), objects(body.get("output"))
    if status in _NO_ANSWER or not (items or status in ("completed", "incomplete")):
        return unreadable(reply, f"has no answer in it, and its status is {status or None!r}")
    return _answer(reply, body, items)


def streamed(body: JSON) -> JSON:
    """The body of the same request, for a stream."""
    return {**body, "stream": True}


class StreamAssembly:
    """Reads events as they arrive. The last one has the whole reply, but some servers leave the output out of it."""

    def __init__(self) -> None:
        self._reply: JSON = {}
        self._items: dict[str, JSON] = {}
        self._texts: list[str] = []
        self.ended: bool = False

    def add(self, event: JSON) -> str:
        kind, delta = text(event.get("type")), event.get("delta")
        if kind == "error" or (event.get("error") and not kind):
            # The fields of the error are in the event itself, or in an object there as elsewhere.
            self._reply, self.ended = {"error": event.get("error") or event}, True
        elif kind in _STATES:
            # The name of the event tells the state of a reply that does not.
            self._reply = {"status": kind.removeprefix("response."), **mapping(event.get("response"))}
            self.ended = kind in _LAST_STATES
            self._reply |= {"usage": merged((self._reply.get("usage"), event.get("usage")))}
        elif kind == "response.output_text.delta":
            self._texts.append(delta if isinstance(delta, str) else "")
            return self._texts[-1]
        elif kind in _ITEMS:
            self._items[str(event.get("output_index"))] = mapping(event.get("item"))
        elif delta:
            # Of parts that are not text it only matters that there were some.
            self._items.setdefault(kind, {"type": kind})
        return ""

    def owns(self, event: JSON) -> bool:
        return text(event.get("type")).startswith("response.")

    @property
    def body(self) -> JSON:
        output = self._output() if self.ended else []
        return {**self._reply, "output": output} if output else self._reply

    @property
    def whole(self) -> bool:
        return self.ended

    def _output(self) -> list[JSON]:
        """The output in the last event, completed by the events before it."""
        output = list(filter(_is_written, objects(self._reply.get("output"))))
        if not any(map(_has_words, output)):
            output += filter(_is_written, self._items.values())
        streamed = "".join(self._texts)
        if streamed and not any(map(_has_words, output)):
            output.append({"type": "message", "content": [{"type": "output_text", "text": streamed}]})
        return output


_ITEMS = frozenset({"response.output_item.added", "response.output_item.done"})
_LAST_STATES = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_STATES = _LAST_STATES | {"response.created", "response.queued", "response.in_progress"}


def _wrote(body: JSON) -> bool:
    """True if the model wrote anything: text, calls, thinking, or as much as its limit allowed."""
    reason = mapping(body.get("incomplete_details")).get("reason")
    return reason == "max_output_tokens" or any(map(_is_written, objects(body.get("output"))))


def _is_written(item: JSON) -> bool:
    return not _is_message(item) or _has_words(item)


def _has_words(item: JSON) -> bool:
    return _is_message(item) and any(part.get("text") or part.get("refusal") for part in objects(item.get("content")))


def _with_params(body: JSON, config: RunConfig) -> JSON:
    params = dict(config.model_params)
    schema = json_schema(params)
    if schema is not None:
        body["text"] = {"format": _format(schema)}
    for name, value in params.items():
        *outer, field = _PARAMS[name]
        place = body
        for part in outer:
            place = place.setdefault(part, {})
        place[field] = value
    return body


def _format(schema: JSONSchema) -> JSON:
    return {"type": "json_schema", "name": schema.name, "schema": schema.schema, "strict": schema.strict}


def _items(said: Any) -> list[JSON]:
    return [{"role": "user", "content": said}] if isinstance(said, str) else several(said)


def _texts(items: list[JSON]) -> list[str]:
    return [part for item in items if _is_message(item) for part in texts_of(item.get("content"))]


def _read_as_json(body: JSON, items: list[JSON]) -> JSON:
    """The model's other input besides texts: a format other than text, functions and their calls, its own thoughts."""
    others = [item for item in items if not _is_message(item)]
    wanted = {"format": mapping(body.get("text")).get("format"), "tools": body.get("tools"), "others": others}
    return {name: value for name, value in wanted.items() if value and value != {"type": "text"}}


def _is_limited(body: JSON, items: list[JSON]) -> bool:
    known = _BOUNDED.issuperset(body) and _BOUNDED_REASONING.issuperset(mapping(body.get("reasoning")))
    said, instructions = body.get("input"), body.get("instructions")
    readable = (isinstance(said, str) or are_objects(said)) and isinstance(instructions, str | None)
    return known and readable and are_functions(body.get("tools")) and all(map(_is_limited_item, items))


def _is_message(item: JSON) -> bool:
    return text(item.get("type")) in ("", "message")


def _is_limited_item(item: JSON) -> bool:
    if _is_message(item):
        return is_text(item.get("content"))
    whole = {"function_call": "arguments", "function_call_output": "output", "reasoning": "encrypted_content"}
    return isinstance(item.get(whole.get(text(item.get("type")), "")), str)


def _answer(reply: Reply, body: JSON, items: list[JSON]) -> Answer:
    parts = [part for item in items if item.get("type") == "message" for part in objects(item.get("content"))]
    content = "".join(text(part.get("text")) for part in parts if part.get("type") == "output_text")
    refusal = "".join(text(part.get("refusal")) for part in parts)
    finish = _finish(body, items)
    if refusal and not content:
        content, finish = refusal, "content_filter"
    return answer_of(reply, body, content, finish)


def _finish(body: JSON, items: list[JSON]) -> FinishReason:
    status = text(body.get("status"))
    if status == "completed" and any(item.get("type") == "function_call" for item in items):
        return "tool_calls"
    reason = mapping(body.get("incomplete_details")).get("reason")
    return _FINISH.get(text(reason) if status == "incomplete" else status, "unknown")
