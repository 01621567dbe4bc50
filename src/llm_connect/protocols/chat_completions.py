"""Chat completions: the wire format of OpenAI, OpenRouter and every compatible server.

Sources: OpenAI's API reference and OpenAPI document (2.3.0); OpenRouter's documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeAlias

from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.accounting.token_counters import TokenCounter
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.protocols.http_failures import error_reply, read_answer
from llm_connect.protocols.openai_replies import answer_of, told_by
from llm_connect.protocols.params import check_known, json_schema
from llm_connect.protocols.prompt_sizes import (
    FRAMING_TOKENS,
    STYLE_TOKENS,
    PromptSizes,
    are_functions,
    are_objects,
    is_text,
    several,
    texts_of,
)
from llm_connect.protocols.streamed_figures import StreamedFigures, merged
from llm_connect.protocols.wire import (
    JSON,
    Answer,
    AnyOutcome,
    Failure,
    Reply,
    count,
    first,
    mapping,
    objects,
    text,
    unreadable,
    with_field,
    with_figures,
)
from llm_connect.types.response import FinishReason, Prompt

#: Parameters that change neither the number of answers nor the reading of the reply.
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
    # From compatible servers: Mistral, TGI and Together; DeepSeek and vLLM if the model was stopped halfway.
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "model_length": "length",
    "max_tokens": "length",
    "insufficient_system_resource": "error",
    "abort": "error",
}
#: Fields that the model reads besides the messages, as JSON.
_READ_AS_JSON = frozenset({"response_format", "tools", "functions"})
#: Parameters that make a provider add a few words.
_STYLE_PARAMS = frozenset({"reasoning", "reasoning_effort", "verbosity"})
#: All fields of a request that `bound` knows. Any other field may make the model read or write without limit.
_BOUNDED = SHARED_PARAMS | frozenset(
    {
        *_READ_AS_JSON,
        "function_call",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "min_p",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "provider",
        "reasoning",
        "repetition_penalty",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "top_a",
        "top_k",
        "top_logprobs",
        "usage",
    }
)
#: Fields of a message that count as text, and those that count as JSON.
_TEXT_FIELDS = ("name", "refusal")
_JSON_FIELDS = frozenset({"tool_calls", "tool_call_id", "function_call"})
_MESSAGE_FIELDS = frozenset({*_TEXT_FIELDS, *_JSON_FIELDS, "role", "content"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one provider's chat completions differ from another's.

    limit_field: the name of the output limit.
    params: the names that `model_params` may have, beside the portable ones.
    fixed: the fields that every request of this provider carries.
    """

    provider: str
    limit_field: str = "max_completion_tokens"
    params: frozenset[str] = SHARED_PARAMS
    fixed: JSON = field(default_factory=dict)


def render(prompt: Prompt, config: RunConfig, *, model: str, max_tokens: int | None, dialect: Dialect) -> JSON:
    """Render the request body for one prompt."""
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


def limited(body: JSON, max_tokens: int | None, *, dialect: Dialect) -> JSON:
    """The same request with another output limit, or without one."""
    return with_field(body, dialect.limit_field, max_tokens)


def bound(body: JSON, max_tokens: int, *, own_endpoint: bool, counter: TokenCounter | None = None) -> Bound:
    """The upper bound of a request.

    A schema counts with its bytes. The grade is `proven` only at the provider's own endpoint, for text, and for a model
    to whose prompt the provider is known to add nothing. It is `unbounded` if the request has something that is not
    counted here: images, a provider's own tools, or an unknown field.
    """
    sizes = PromptSizes(text(body.get("model")), counter)
    messages = several(body.get("messages"))
    as_json = _read_as_json(body, messages)
    style = STYLE_TOKENS if _STYLE_PARAMS & body.keys() else 0
    added = FRAMING_TOKENS * (1 + len(messages)) + style + sizes.tools(body.get("tools")) + sizes.hidden
    return Bound(
        prompt_tokens=sizes.framed(_texts(messages)) + sizes.json(as_json) + added,
        max_tokens=max_tokens,
        outputs=count(body.get("n")) or 1,
        grade=sizes.grade(limited=_is_limited(body, messages), plain=own_endpoint and not as_json),
    )


#: Reads the cost from the usage of a call, given the model that answered; None if there is no cost.
CostIn: TypeAlias = Callable[[JSON, str], Decimal | None]


def parse(reply: Reply, cost_in: CostIn | None = None) -> Answer | Failure:
    """Parse a reply into an answer or a failure."""

    def figured(outcome: AnyOutcome, body: JSON) -> AnyOutcome:
        usage = _usage_in(body)
        cost = None if cost_in is None else cost_in(usage, text(body.get("model")))
        said = told_by(usage, body, "prompt_tokens", "completion_tokens", lambda: _wrote(body))
        return with_figures(outcome, said, cost)

    body = read_answer(reply, figured)
    return body if isinstance(body, Failure) else figured(_outcome(reply, body), body)


def _outcome(reply: Reply, body: JSON) -> Answer | Failure:
    choice = first(body.get("choices"))
    if error := _error_in(choice):
        failure = error_reply(reply, {"error": error})
        return replace(failure, content=_content(mapping(choice.get("message")).get("content")))
    if not isinstance(choice.get("message"), dict):
        return unreadable(reply, "has no choices with a message in them")
    return _answer(reply, body, choice)


def _usage_in(body: JSON) -> JSON:
    """The usage object of a body. Some servers put it into a choice, and Groq into a field of its own."""
    said, choice = mapping(body.get("usage")), first(body.get("choices"))
    if "x_groq" not in body and "usage" not in choice:
        return said
    return merged((said, mapping(body.get("x_groq")).get("usage"), choice.get("usage")))


def streamed(body: JSON) -> JSON:
    """The body of the same request, for a stream whose last event has the usage."""
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


class StreamAssembly:
    """Assembles chunks into a `chat.completion`."""

    def __init__(self) -> None:
        self._seen: JSON = {}
        self._choice: JSON = {}
        self._texts: dict[str, list[str]] = {"content": [], "refusal": []}
        self._others: JSON = {}
        self._figures = StreamedFigures(("completion_tokens", None), ("total_tokens", "prompt_tokens"))

    def add(self, event: JSON) -> str:
        choice = first(event.get("choices"))
        self._seen |= {name: event[name] for name in _OF_THE_WHOLE if event.get(name)}
        if choice.get("finish_reason"):
            self._choice["finish_reason"] = choice["finish_reason"]
        if error := _error_in(choice):
            self._choice["error"] = error
        delta = self._delta(choice)
        for name, pieces in self._texts.items():
            pieces.append(_raw_content(delta.get(name)))
        # Of parts that are not text it only matters that there were some.
        others = {name: delta[name] for name in delta if name not in _NO_OTHERS and delta[name]}
        if delta.get("content") and not self._texts["content"][-1]:
            others["content_parts"] = delta["content"]
        self._others |= others
        if others or any(pieces[-1] for pieces in self._texts.values()) or (self.ended and not self._choice):
            self._figures.wrote()
        if event.get("usage") or "x_groq" in event or "usage" in choice:
            self._figures.take(_usage_in(event))
        return self._texts["content"][-1]

    def owns(self, event: JSON) -> bool:
        return "choices" in event or bool(event.get("usage"))

    @property
    def body(self) -> JSON:
        message = {**self._others, **{name: "".join(pieces) for name, pieces in self._texts.items()}}
        choice = {**self._failed, **self._choice, "message": message}
        return {**self._seen, **self._figures.named("usage", whole=self.whole), "choices": [choice]}

    @property
    def whole(self) -> bool:
        return bool(self._choice) or self.ended

    @property
    def ended(self) -> bool:
        return bool(self._seen.get("error") or self._choice.get("error"))

    @property
    def _failed(self) -> JSON:
        """The error that a stream reports only by its finish reason: its text was cut off."""
        reason = text(self._choice.get("finish_reason"))
        cut = _FINISH.get(reason) == "error"
        return {"error": f"The answer was cut: its finish reason is {reason!r}."} if cut else {}

    def _delta(self, choice: JSON) -> JSON:
        """The piece that a choice adds. A server may send a whole message at the end, with or without pieces before."""
        delta = choice.get("delta")
        if isinstance(delta, dict) or any(self._texts["content"]):
            return mapping(delta)
        return mapping(choice.get("message"))


#: Fields of a chunk that are about the whole reply; the last value counts.
_OF_THE_WHOLE = ("id", "model", "service_tier", "error")
_NO_OTHERS = frozenset({"role", "content", "refusal"})


def _wrote(body: JSON) -> bool:
    """True if the model wrote anything: text, calls, thinking, or as much as its limit allowed."""
    return any(
        _finish_of(choice) == "length" or any(message[name] for name in message if name != "role")
        for choice in objects(body.get("choices"))
        for message in (mapping(choice.get("message")),)
    )


def _texts(messages: list[JSON]) -> list[str]:
    named = [text(message.get(name)) for message in messages for name in _TEXT_FIELDS if message.get(name)]
    return named + [part for message in messages for part in texts_of(message.get("content"))]


def _read_as_json(body: JSON, messages: list[JSON]) -> JSON:
    named = _READ_AS_JSON & body.keys()
    wanted: JSON = {name: body[name] for name in named if body[name] not in (None, {"type": "text"})}
    calls = [message[name] for message in messages for name in _JSON_FIELDS & message.keys() if message[name]]
    return wanted | ({"calls": calls} if calls else {})


def _is_limited(body: JSON, messages: list[JSON]) -> bool:
    plain = all(_MESSAGE_FIELDS.issuperset(message) and is_text(message.get("content")) for message in messages)
    return (
        plain and are_objects(body.get("messages")) and _BOUNDED.issuperset(body) and are_functions(body.get("tools"))
    )


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
    """Merge parameters; the fixed ones win. Otherwise a provider could ignore the output limit, for example."""
    if not isinstance(value, dict):
        raise LLMConfigurationError(f"model_params[{name!r}] must be a dict here.")
    return {**value, **fixed}


def _answer(reply: Reply, body: JSON, choice: JSON) -> Answer:
    message = choice["message"]
    finish = _finish_of(choice)
    content = _content(message.get("content"))
    if not content and text(message.get("refusal")):
        content, finish = text(message["refusal"]), "content_filter"
    return answer_of(reply, body, content, finish)


def _error_in(choice: JSON) -> Any:
    """The error in a choice, or in its message."""
    inner = choice.get("message") or choice.get("delta")
    return choice.get("error") or mapping(inner).get("error")


def _finish_of(choice: JSON) -> FinishReason:
    return _FINISH.get(text(choice.get("finish_reason")), "unknown")


def _content(content: Any) -> str:
    """The text of a message."""
    return text(_raw_content(content))


def _raw_content(content: Any) -> str:
    """The same, unchanged. Some servers send it in parts."""
    if isinstance(content, list):
        return "".join(map(_raw_content, (mapping(part).get("text") for part in content)))
    return content if isinstance(content, str) else ""
