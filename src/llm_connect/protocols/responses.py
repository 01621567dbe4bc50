"""Responses: the wire format of OpenAI's newer models.

Sources: OpenAI's API reference and OpenAPI document (2.3.0); recorded replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_connect.budget.accounting.bounds import Bound, TokenCounter
from llm_connect.interface.config import RunConfig
from llm_connect.protocols import replies
from llm_connect.protocols.hidden_prompts import hidden_prompt_tokens
from llm_connect.protocols.params import params_of
from llm_connect.protocols.prompt_sizes import (
    BOUNDED_AT_OPENAI,
    FRAMING_TOKENS,
    STYLE_TOKENS,
    PromptSizes,
    are_functions,
    are_objects,
    several,
    texts_in,
    with_count,
)
from llm_connect.protocols.replies import Format, Said, counted_in, unreadable
from llm_connect.protocols.stream_reading import EventReading, Reading
from llm_connect.protocols.usage_figures import figures_at_openai, merged
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply, mapping, objects, text, with_field
from llm_connect.types.response import FinishReason, Prompt

PATH: str = "/responses"
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
#: All fields of a request that `bound` knows. Any other field may make the model read or write without limit.
_BOUNDED = BOUNDED_AT_OPENAI | {*_COUNTED, "background", "include", "max_output_tokens"}
#: Those of `reasoning`, without its mode "pro".
_BOUNDED_REASONING = frozenset({"context", "effort", "summary"})
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
    body: JSON = {"model": model, "input": [{"role": "user", "content": prompt}], "store": False}
    if config.system_prompt:
        body["instructions"] = config.system_prompt
    if config.temperature is not None:
        body["temperature"] = config.temperature
    if max_tokens is not None:
        body["max_output_tokens"] = max(max_tokens, LEAST_MAX_TOKENS)
    return _with_params(body, config) if config.model_params else body


def _with_params(body: JSON, config: RunConfig) -> JSON:
    params, schema = params_of(config, _PARAMS, "OpenAI's responses")
    if schema is not None:
        body["text"] = {"format": {"type": "json_schema", **schema.named()}}
    for name, value in params.items():
        *outer, field = _PARAMS[name]
        place = body
        for part in outer:
            place = place.setdefault(part, {})
        place[field] = value
    return body


def limited(body: JSON, max_tokens: int | None) -> JSON:
    """The same request with another output limit, or without one."""
    return with_field(body, "max_output_tokens", None if max_tokens is None else max(max_tokens, LEAST_MAX_TOKENS))


def bound(body: JSON, max_tokens: int, *, own_endpoint: bool, counter: TokenCounter | None = None) -> Bound:
    """The upper bound of a request.

    A schema counts with its bytes. The grade is `proven` only at the provider's own endpoint, for text, and for a model
    to whose prompt the provider is known to add nothing. It is `unbounded` if the request has something that is not
    counted here: images, a provider's own tools, a conversation that the provider keeps, or an unknown field.
    """
    sizes, tools = PromptSizes(text(body.get("model")), counter), body.get("tools")
    items = _items(body.get("input"))
    texts, readable = texts_in(list(filter(_is_message, items)))
    as_json = _read_as_json(body, items)
    style = STYLE_TOKENS if "reasoning" in body or mapping(body.get("text")).get("verbosity") else 0
    return Bound(
        prompt_tokens=sizes.prompt(
            [text(body.get("instructions")), *texts],
            as_json,
            tools=tools,
            added=FRAMING_TOKENS * (1 + len(items)) + style,
        ),
        max_tokens=max(max_tokens, LEAST_MAX_TOKENS),
        least_max_tokens=LEAST_MAX_TOKENS,
        grade=sizes.grade(limited=readable and _is_limited(body, items), plain=own_endpoint and not as_json),
    )


def counting_body(body: JSON) -> JSON:
    """The body that asks OpenAI to count the tokens of the request `body`."""
    return {name: body[name] for name in _COUNTED if name in body}


def counted_bound(bound: Bound, reply: Reply, model: str, *, own_endpoint: bool) -> Bound:
    """Tighten `bound` by OpenAI's count: "the exact count the model will receive", by its guide to counting tokens."""
    counted = counted_in(reply, "input_tokens")
    return with_count(bound, counted, hidden=hidden_prompt_tokens(model), exact=own_endpoint)


def parse(reply: Reply) -> Answer | Failure:
    """Parse a reply into an answer or a failure."""
    return replies.parse(reply, _FORMAT)


def streamed(body: JSON) -> JSON:
    """The body of the same request, for a stream."""
    return {**body, "stream": True}


def reading() -> Reading:
    """Make the reader of a streamed reply."""
    return EventReading(StreamAssembly())


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


def _wrote(body: JSON, items: list[JSON]) -> bool:
    """True if the model wrote anything: text, calls, thinking, or as much as its limit allowed."""
    reason = mapping(body.get("incomplete_details")).get("reason")
    return reason == "max_output_tokens" or any(map(_is_written, items))


def _is_written(item: JSON) -> bool:
    return not _is_message(item) or _has_words(item)


def _has_words(item: JSON) -> bool:
    return _is_message(item) and any(part.get("text") or part.get("refusal") for part in objects(item.get("content")))


def _items(said: Any) -> list[JSON]:
    return [{"role": "user", "content": said}] if isinstance(said, str) else several(said)


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
    """True if an item has all that the model reads of it; texts are checked as such."""
    whole = {"function_call": "arguments", "function_call_output": "output", "reasoning": "encrypted_content"}
    return _is_message(item) or isinstance(item.get(whole.get(text(item.get("type")), "")), str)


def _answer(reply: Reply, body: JSON, items: list[JSON]) -> Said | Failure:
    status = text(body.get("status"))
    if status in _NO_ANSWER or not (items or status in ("completed", "incomplete")):
        return unreadable(reply, f"has no answer in it, and its status is {status or None!r}")
    parts = [part for item in items if item.get("type") == "message" for part in objects(item.get("content"))]
    content = "".join(text(part.get("text")) for part in parts if part.get("type") == "output_text")
    return Said(content, _finish(body, items), "".join(text(part.get("refusal")) for part in parts))


def _finish(body: JSON, items: list[JSON]) -> FinishReason:
    status = text(body.get("status"))
    if status == "completed" and any(item.get("type") == "function_call" for item in items):
        return "tool_calls"
    reason = mapping(body.get("incomplete_details")).get("reason")
    return _FINISH.get(text(reason) if status == "incomplete" else status, "unknown")


_FORMAT = Format(
    choices="output",
    answer=_answer,
    wrote=_wrote,
    usage=lambda body, _: mapping(body.get("usage")),
    figures=figures_at_openai("input", "output"),
)
