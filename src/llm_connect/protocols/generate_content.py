"""generateContent: the wire format of Gemini.

Sources: the Gemini API reference; recorded replies, in which prompt, candidate, thought and tool tokens add up to
the total.
"""

from __future__ import annotations

from collections.abc import Mapping

from llm_connect.budget.accounting.bounds import Bound, TokenCounter
from llm_connect.interface.config import RunConfig
from llm_connect.protocols import replies
from llm_connect.protocols.hidden_prompts import hidden_prompt_tokens
from llm_connect.protocols.params import params_of
from llm_connect.protocols.prompt_sizes import STYLE_TOKENS, PromptSizes, are_objects, several, with_count
from llm_connect.protocols.replies import Format, Said, counted_in, unreadable
from llm_connect.protocols.stream_reading import EventReading, Reading
from llm_connect.protocols.usage_figures import FigureNames, StreamedFigures
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply, count, first, mapping, objects, text, with_field
from llm_connect.types.response import FinishReason, Prompt

#: Names that `model_params` may have, and their places in `generationConfig`.
_GENERATION_PARAMS = {
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "response_mime_type": "responseMimeType",
    "seed": "seed",
    "stop": "stopSequences",
    "thinking_config": "thinkingConfig",
    "top_k": "topK",
    "top_p": "topP",
}
_REQUEST_PARAMS = {"safety_settings": "safetySettings"}
#: Fields that the model reads besides texts, as JSON.
_SCHEMAS = ("responseJsonSchema", "responseSchema")
#: All fields of a request that `bound` knows. Any other field may make the model read or write without limit.
_BOUNDED = frozenset({"contents", "generationConfig", "safetySettings", "systemInstruction", "toolConfig", "tools"})
_BOUNDED_GENERATION = frozenset(
    {
        *_GENERATION_PARAMS.values(),
        *_SCHEMAS,
        "candidateCount",
        "logprobs",
        "maxOutputTokens",
        "responseLogprobs",
        "responseModalities",
        "temperature",
    }
)
_BOUNDED_PARTS = frozenset({"functionCall", "functionResponse", "text", "thought", "thoughtSignature"})
_FINISH: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MALFORMED_FUNCTION_CALL": "error",
}


def render(prompt: Prompt, config: RunConfig, *, max_tokens: int | None) -> JSON:
    """Render the request body for one prompt; the model is in the path."""
    params, schema = params_of(config, _GENERATION_PARAMS | _REQUEST_PARAMS, "gemini")
    body: JSON = {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}
    if config.system_prompt:
        body["systemInstruction"] = {"parts": [{"text": config.system_prompt}]}
    generation: JSON = {
        field: params[name] for name, field in _GENERATION_PARAMS.items() if params.get(name) is not None
    }
    if isinstance(generation.get("stopSequences"), str):
        generation["stopSequences"] = [generation["stopSequences"]]
    if schema is not None:
        generation |= {"responseMimeType": "application/json", "responseJsonSchema": schema.schema}
    if config.temperature is not None:
        generation["temperature"] = config.temperature
    if max_tokens is not None:
        generation["maxOutputTokens"] = max_tokens
    if generation:
        body["generationConfig"] = generation
    for name, field in _REQUEST_PARAMS.items():
        if name in params:
            body[field] = params[name]
    return body


def limited(body: JSON, max_tokens: int | None) -> JSON:
    """The same request with another output limit, or without one."""
    generation = with_field(mapping(body.get("generationConfig")), "maxOutputTokens", max_tokens)
    return with_field(body, "generationConfig", generation or None)


def bound(body: JSON, max_tokens: int, *, model: str, counter: TokenCounter | None = None) -> Bound:
    """The upper bound of a request, always an estimate.

    `maxOutputTokens` covers thoughts and candidates together: none of 299 recorded calls with a limit passed it, but
    the documentation has said otherwise. The grade is `unbounded` if the request has something that is not counted
    here: images, cached contents, Google's own tools, or an unknown field.
    """
    sizes = PromptSizes(model, counter)
    generation, tools = mapping(body.get("generationConfig")), several(body.get("tools"))
    parts = [part for turn in _turns(body) for part in several(turn.get("parts"))]
    texts = [text(part["text"]) for part in parts if "text" in part]
    as_json: list[JSON] = [mapping(generation.get(name)) for name in _SCHEMAS if generation.get(name)]
    as_json += tools + [part for part in parts if "text" not in part]
    return Bound(
        prompt_tokens=sizes.prompt(texts, as_json, added=_style_tokens(generation)),
        max_tokens=max_tokens,
        outputs=count(generation.get("candidateCount")) or 1,
        grade=sizes.grade(limited=_is_limited(body, generation, tools, parts), plain=False),
    )


def counting_body(body: JSON, *, model: str) -> JSON:
    """The body that asks Gemini to count the tokens of the request `body`, including its system instruction."""
    return {"generateContentRequest": {"model": model if "/" in model else f"models/{model}", **body}}


def counted_bound(bound: Bound, reply: Reply, model: str) -> Bound:
    """Tighten `bound` by Gemini's count."""
    return with_count(bound, counted_in(reply, "totalTokens"), hidden=hidden_prompt_tokens(model), exact=False)


def parse(reply: Reply) -> Answer | Failure:
    """Parse a reply into an answer or a failure."""
    return replies.parse(reply, _FORMAT)


def reading() -> Reading:
    """Make the reader of a streamed reply."""
    return EventReading(StreamAssembly())


class StreamAssembly:
    """Assembles replies, each with a piece, into one."""

    def __init__(self) -> None:
        self._seen: JSON = {}
        self._finish: JSON = {}
        self._texts: list[str] = []
        self._others: list[JSON] = []
        self._figures = StreamedFigures(
            ("candidatesTokenCount", None), ("thoughtsTokenCount", None), ("totalTokenCount", "promptTokenCount")
        )

    def add(self, event: JSON) -> str:
        candidate = first(event.get("candidates"))
        self._seen |= {name: event[name] for name in _OF_THE_WHOLE if event.get(name)}
        if candidate.get("finishReason"):
            self._finish = {"finishReason": candidate["finishReason"]}
        parts = _parts(candidate)
        if any(map(_is_written, parts)) or (event.get("error") and not self._finish):
            self._figures.wrote()
        # Of parts that are not text it only matters that there were some.
        self._others = [part for part in parts if not _is_text(part)][-1:] or self._others
        self._figures.take(event.get("usageMetadata"))
        self._texts.append("".join(part["text"] for part in parts if _is_text(part)))
        return self._texts[-1]

    def owns(self, event: JSON) -> bool:
        return not _OF_A_PIECE.isdisjoint(event)

    @property
    def ended(self) -> bool:
        """True only after an error. For an answer, only the end of the connection shows that nothing follows."""
        return "error" in self._seen

    @property
    def body(self) -> JSON:
        parts = [{"text": "".join(self._texts)}, *self._others]
        candidate = {"content": {"parts": parts}, **self._finish}
        figures = self._figures.named("usageMetadata", whole=self.whole)
        return {**self._seen, **figures, "candidates": [candidate]}

    @property
    def whole(self) -> bool:
        stopped = self._seen.get("error") or mapping(self._seen.get("promptFeedback")).get("blockReason")
        return bool(self._finish or stopped)


#: Fields of a piece that are about the whole reply.
_OF_THE_WHOLE = ("error", "modelVersion", "promptFeedback", "responseId")
_OF_A_PIECE = frozenset({*_OF_THE_WHOLE, "candidates", "usageMetadata"})


def _wrote(_: JSON, candidates: list[JSON]) -> bool:
    """True if the model wrote anything: text, calls, thinking, or as much as its limit allowed."""
    return any(
        candidate.get("finishReason") == "MAX_TOKENS" or any(map(_is_written, _parts(candidate)))
        for candidate in candidates
    )


def _turns(body: JSON) -> list[JSON]:
    return [*several(body.get("contents")), *several(body.get("systemInstruction"))]


def _style_tokens(generation: JSON) -> int:
    return STYLE_TOKENS if "thinkingConfig" in generation or "responseMimeType" in generation else 0


def _is_limited(body: JSON, generation: JSON, tools: list[JSON], parts: list[JSON]) -> bool:
    known = _BOUNDED.issuperset(body) and _BOUNDED_GENERATION.issuperset(generation)
    only_text = generation.get("responseModalities") in (None, ["TEXT"])
    lists = [body.get(name) for name in ("contents", "systemInstruction", "tools")]
    known = known and all(map(are_objects, [*lists, *(turn.get("parts") for turn in _turns(body))]))
    functions = all(tool.keys() == {"functionDeclarations"} for tool in tools)
    return known and only_text and functions and all(map(_BOUNDED_PARTS.issuperset, parts))


def _answer(reply: Reply, body: JSON, candidates: list[JSON]) -> Said | Failure:
    if mapping(body.get("promptFeedback")).get("blockReason"):
        return Said("", "content_filter")
    if not candidates or not candidates[0]:
        return unreadable(reply, "has no candidates in it")
    content = "".join([part["text"] for part in _parts(candidates[0]) if _is_text(part)])
    return Said(content, _FINISH.get(text(candidates[0].get("finishReason")), "unknown"))


def _parts(candidate: JSON) -> list[JSON]:
    return objects(mapping(candidate.get("content")).get("parts"))


def _is_text(part: JSON) -> bool:
    return part.get("thought") is not True and isinstance(part.get("text"), str)


def _is_written(part: JSON) -> bool:
    return any(part[name] for name in part if name != "thought")


_FORMAT = Format(
    choices="candidates",
    answer=_answer,
    wrote=_wrote,
    usage=lambda body, _: mapping(body.get("usageMetadata")),
    # This format leaves zeros out.
    figures=FigureNames(
        "promptTokenCount",
        "candidatesTokenCount",
        "totalTokenCount",
        cached="cachedContentTokenCount",
        reasoning="thoughtsTokenCount",
        tools="toolUsePromptTokenCount",
        unsaid=0,
        thinks_apart=True,
    ),
    model="modelVersion",
    request_id="responseId",
    service_tier=None,
)
