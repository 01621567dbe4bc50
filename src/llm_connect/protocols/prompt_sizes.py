"""Bounds for the parts of a prompt in tokens, and their grade."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llm_connect.budget.accounting.bounds import (
    Bound,
    Grade,
    Size,
    TokenCounter,
    measured,
    normalized_utf8_bytes,
    utf8_bytes,
)
from llm_connect.protocols.hidden_prompts import hidden_prompt_tokens, is_openais, reads_more
from llm_connect.protocols.wire import JSON, mapping, objects, text

#: Twice the three or four tokens that frame a message, and the three that prime a reply (OpenAI's cookbook).
FRAMING_TOKENS = 8
#: For parameters that make a provider add a few words: Claude counted about 30 tokens more when told to think.
STYLE_TOKENS = 64
#: Anthropic's additional prompt for tools: hundreds of tokens, by its documentation.
TOOL_PROMPT_TOKENS = 1_024
#: The fields of a request that chat completions and responses have in common, and that their `bound` knows.
BOUNDED_AT_OPENAI = frozenset(
    {
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
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
    }
)
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})


@dataclass(slots=True)
class PromptSizes:
    """Bounds for texts as input of one model.

    Byte-level tokenizers (OpenAI's) make no more tokens than bytes. Others may normalize first: SentencePiece (Gemini,
    Gemma, Llama) does, and so does the tokenizer that Anthropic has published. Unknown models count like these.
    """

    model: str
    counter: TokenCounter | None = None

    @property
    def hidden(self) -> int:
        """The allowance for a prompt that the provider adds."""
        return hidden_prompt_tokens(self.model)

    def prompt(
        self, texts: Iterable[str], as_json: Mapping[str, Any] | list[Any], *, tools: Any = None, added: int = 0
    ) -> int:
        """A prompt: its texts, each with its framing, by the tokenizer if there is one; the rest by its bytes as JSON.

        tools: those in it; their prompt is added. added: what is added besides.
        """
        size = measured(self._bytes, self.counter)
        framed = sum([FRAMING_TOKENS + size(part) for part in texts])
        # A provider writes JSON in its own way.
        written = self._bytes(json.dumps(as_json, ensure_ascii=False)) if as_json else 0
        prompt_of_tools = TOOL_PROMPT_TOKENS if tools and not is_openais(self.model) else 0
        return framed + written + prompt_of_tools + self.hidden + added

    def grade(self, *, limited: bool, plain: bool) -> Grade:
        """The grade of a bound.

        limited: True if the request contains all that the model will read. plain: True if that is text at the
        provider's own endpoint, and the output limit is certain to hold.
        """
        if not limited or reads_more(self.model):
            return "unbounded"
        sure = self.counter is None or self.counter.exact
        return "proven" if plain and sure and not self.hidden else "estimated"

    @property
    def _bytes(self) -> Size:
        return utf8_bytes if is_openais(self.model) else normalized_utf8_bytes


def several(value: Any) -> list[JSON]:
    """The objects in `value`. Instead of a list, some servers also accept a single object."""
    values = value if isinstance(value, list) else (value,)
    return [item for item in values if isinstance(item, dict)]


def are_objects(value: Any) -> bool:
    """True if `several` leaves nothing out."""
    return value is None or isinstance(value, dict) or (isinstance(value, list) and len(several(value)) == len(value))


def texts_in(messages: list[JSON]) -> tuple[list[str], bool]:
    """The texts in the contents of messages, and True if they are only text."""
    contents = [message.get("content") for message in messages]
    return [part for content in contents for part in texts_of(content)], all(map(is_text, contents))


def texts_of(content: Any) -> list[str]:
    """The texts in the content of a message, which is a text or has some among its parts."""
    if isinstance(content, str):
        return [content]
    return [text(part.get(name)) for part in objects(content) for name in ("text", "refusal") if part.get(name)]


def is_text(content: Any) -> bool:
    """True if the content of a message is only text: no image or file, whose bytes do not show its size."""
    if content is None or isinstance(content, str):
        return True
    return isinstance(content, list) and all(mapping(part).get("type") in _TEXT_PARTS for part in content)


def are_functions(tools: Any) -> bool:
    """True if the caller runs all `tools`. The provider's own tools read and write without a limit."""
    return tools is None or (isinstance(tools, list) and all(mapping(tool).get("type") == "function" for tool in tools))


def with_count(bound: Bound, counted: int | None, *, hidden: int, exact: bool) -> Bound:
    """Tighten `bound` by the provider's own token count, if that is less than the bytes.

    A count of 0 means nothing, since there is a prompt.
    exact: True if the provider promises that it will read exactly this. A count above the bytes shows that something
    of unknown size is added.
    """
    if not counted or bound.grade == "unbounded":
        return bound
    tokens = counted + hidden
    if tokens > bound.prompt_tokens:
        return replace(bound, grade="estimated")
    return replace(bound, prompt_tokens=tokens, grade="proven" if exact and not hidden else bound.grade)
