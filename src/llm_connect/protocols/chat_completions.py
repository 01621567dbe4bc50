"""Chat completions: the wire format of OpenAI, OpenRouter and every compatible server.

Sources: OpenAI's API reference and OpenAPI document (2.3.0); OpenRouter's documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llm_connect.budget.accounting.bounds import Bound, TokenCounter
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.protocols import replies
from llm_connect.protocols.http_failures import error_reply
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
)
from llm_connect.protocols.replies import CostIn, Format, Said, unreadable
from llm_connect.protocols.stream_reading import EventReading, Reading
from llm_connect.protocols.usage_figures import StreamedFigures, figures_at_openai, merged
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply, count, mapping, text, with_field
from llm_connect.types.response import FinishReason, Prompt

PATH: str = "/chat/completions"
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
_BOUNDED = (
    BOUNDED_AT_OPENAI
    | SHARED_PARAMS
    | _READ_AS_JSON
    | {
        "function_call",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "min_p",
        "n",
        "provider",
        "repetition_penalty",
        "top_a",
        "top_k",
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


OPENAIS: Dialect = Dialect(
    provider="openai",
    params=SHARED_PARAMS | {"prompt_cache_key", "safety_identifier", "service_tier", "store"},
)


def render(
    prompt: Prompt, config: RunConfig, *, model: str, max_tokens: int | None, dialect: Dialect = OPENAIS
) -> JSON:
    """Render the request body for one prompt."""
    messages = [{"role": "user", "content": prompt}]
    if config.system_prompt:
        messages.insert(0, {"role": "system", "content": config.system_prompt})
    body: JSON = {"model": model, "messages": messages, **dialect.fixed}
    if config.temperature is not None:
        body["temperature"] = config.temperature
    if max_tokens is not None:
        body[dialect.limit_field] = max_tokens
    return _with_params(body, config, dialect) if config.model_params else body


def _with_params(body: JSON, config: RunConfig, dialect: Dialect) -> JSON:
    params, schema = params_of(config, dialect.params, dialect.provider)
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": schema.named()}
    for name, value in params.items():
        body[name] = _merged(name, value, body[name]) if name in body else value
    return body


def limited(body: JSON, max_tokens: int | None, dialect: Dialect = OPENAIS) -> JSON:
    """The same request with another output limit, or without one."""
    return with_field(body, dialect.limit_field, max_tokens)


def bound(body: JSON, max_tokens: int, *, own_endpoint: bool, counter: TokenCounter | None = None) -> Bound:
    """The upper bound of a request.

    A schema counts with its bytes. The grade is `proven` only at the provider's own endpoint, for text, and for a model
    to whose prompt the provider is known to add nothing. It is `unbounded` if the request has something that is not
    counted here: images, a provider's own tools, or an unknown field.
    """
    sizes, outputs = PromptSizes(text(body.get("model")), counter), count(body.get("n")) or 1
    tools, messages = body.get("tools"), several(body.get("messages"))
    texts, readable = texts_in(messages)
    readable = readable and are_objects(body.get("messages")) and are_functions(tools)
    known = _BOUNDED.issuperset(body) and all(map(_MESSAGE_FIELDS.issuperset, messages))
    as_json = _read_as_json(body, messages)
    style = STYLE_TOKENS if _STYLE_PARAMS & body.keys() else 0
    return Bound(
        prompt_tokens=sizes.prompt(
            [*_named(messages), *texts], as_json, tools=tools, added=FRAMING_TOKENS * (1 + len(messages)) + style
        ),
        max_tokens=max_tokens,
        outputs=outputs,
        grade=sizes.grade(limited=readable and known, plain=own_endpoint and not as_json),
    )


def parse(reply: Reply, cost_in: CostIn | None = None) -> Answer | Failure:
    """Parse a reply into an answer or a failure."""
    return replies.parse(reply, _FORMAT, cost_in)


def _answer(reply: Reply, body: JSON, choices: list[JSON]) -> Said | Failure:
    choice = choices[0] if choices else {}
    message = choice.get("message")
    if error := _error_in(choice):
        failure = error_reply(reply, {"error": error})
        return replace(failure, content=text(_content(mapping(message).get("content"))))
    if not isinstance(message, dict):
        return unreadable(reply, "has no choices with a message in them")
    return Said(_content(message.get("content")), _finish_of(choice), message.get("refusal"))


def _usage_in(body: JSON, choices: list[JSON]) -> JSON:
    """The usage object of a body. Some servers put it into a choice, and Groq into a field of its own."""
    said, choice = body.get("usage"), choices[0] if choices else {}
    if "x_groq" not in body and "usage" not in choice:
        return said if isinstance(said, dict) else {}
    return merged((said, mapping(body.get("x_groq")).get("usage"), choice.get("usage")))


def streamed(body: JSON) -> JSON:
    """The body of the same request, for a stream whose last event has the usage."""
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


def reading() -> Reading:
    """Make the reader of a streamed reply."""
    return EventReading(StreamAssembly())


class StreamAssembly:
    """Assembles chunks into a `chat.completion`."""

    def __init__(self) -> None:
        self._seen: JSON = {}
        self._choice: JSON = {}
        self._texts: dict[str, list[str]] = {"content": [], "refusal": []}
        self._others: JSON = {}
        self._figures = StreamedFigures(("completion_tokens", None), ("total_tokens", "prompt_tokens"))
        self.ended: bool = False

    def add(self, event: JSON) -> str:
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        self._seen |= {name: event[name] for name in _OF_THE_WHOLE if event.get(name)}
        if choice.get("finish_reason"):
            self._choice["finish_reason"] = choice["finish_reason"]
        if error := _error_in(choice):
            self._choice["error"] = error
        self.ended = bool(self._seen.get("error") or self._choice.get("error"))
        delta = self._delta(choice)
        for name, pieces in self._texts.items():
            pieces.append(_content(delta.get(name)))
        # Of parts that are not text it only matters that there were some.
        others = {name: delta[name] for name in delta if name not in _NO_OTHERS and delta[name]}
        if delta.get("content") and not self._texts["content"][-1]:
            others["content_parts"] = delta["content"]
        self._others |= others
        if others or any(pieces[-1] for pieces in self._texts.values()) or (self.ended and not self._choice):
            self._figures.wrote()
        if event.get("usage") or "x_groq" in event or "usage" in choice:
            self._figures.take(_usage_in(event, [choice]))
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
    def _failed(self) -> JSON:
        """The error that a stream reports only by its finish reason: its text was cut off."""
        reason = text(self._choice.get("finish_reason"))
        cut = _FINISH.get(reason) == "error"
        return {"error": f"The answer was cut: its finish reason is {reason!r}."} if cut else {}

    def _delta(self, choice: JSON) -> JSON:
        """The piece that a choice adds. A server may send a whole message at the end, with or without pieces before."""
        delta = choice.get("delta")
        if isinstance(delta, dict):
            return delta
        return {} if any(self._texts["content"]) else mapping(choice.get("message"))


#: Fields of a chunk that are about the whole reply; the last value counts.
_OF_THE_WHOLE = ("id", "model", "service_tier", "error")
_NO_OTHERS = frozenset({"role", "content", "refusal"})


def _wrote(body: JSON, choices: list[JSON]) -> bool:
    """True if the model wrote anything: text, calls, thinking, or as much as its limit allowed."""
    return any(
        _finish_of(choice) == "length" or any(message[name] for name in message if name != "role")
        for choice in choices
        for message in (mapping(choice.get("message")),)
    )


def _named(messages: list[JSON]) -> list[str]:
    """The texts in messages outside of their contents."""
    return [text(message.get(name)) for message in messages for name in _TEXT_FIELDS if message.get(name)]


def _read_as_json(body: JSON, messages: list[JSON]) -> JSON:
    named = _READ_AS_JSON & body.keys()
    wanted: JSON = {name: body[name] for name in named if body[name] not in (None, {"type": "text"})}
    calls = [message[name] for message in messages for name in _JSON_FIELDS & message.keys() if message[name]]
    return wanted | ({"calls": calls} if calls else {})


def _merged(name: str, value: Any, fixed: JSON) -> JSON:
    """Merge parameters; the fixed ones win. Otherwise a provider could ignore the output limit, for example."""
    if not isinstance(value, dict):
        raise LLMConfigurationError(f"model_params[{name!r}] must be a dict here.")
    return {**value, **fixed}


def _error_in(choice: JSON) -> Any:
    """The error in a choice, or in its message."""
    inner = choice.get("message") or choice.get("delta")
    return choice.get("error") or (inner.get("error") if isinstance(inner, dict) else None)


def _finish_of(choice: JSON) -> FinishReason:
    reason = choice.get("finish_reason")
    return _FINISH.get(reason, "unknown") if isinstance(reason, str) else "unknown"


def _content(content: Any) -> str:
    """The text of a message, unchanged. Some servers send it in parts."""
    if isinstance(content, list):
        return "".join(map(_content, (mapping(part).get("text") for part in content)))
    return content if isinstance(content, str) else ""


_FORMAT = Format(
    choices="choices",
    answer=_answer,
    wrote=_wrote,
    usage=_usage_in,
    figures=figures_at_openai("prompt", "completion"),
)
