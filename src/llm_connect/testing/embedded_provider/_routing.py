"""The wire format of each path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from ._received import Question, WireFormat

_PATHS: Mapping[str, WireFormat] = {
    "/v1/chat/completions": "openai_chat",
    "/v1/responses": "openai_responses",
    "/api/v1/chat/completions": "openrouter",
    "/v1/messages": "anthropic_messages",
}
_COUNTING_PATHS: Mapping[str, WireFormat] = {
    "/v1/responses/input_tokens": "openai_responses",
    "/v1/messages/count_tokens": "anthropic_messages",
}
_GENERATION = "/api/v1/generation"
_GEMINI = re.compile(
    r"/v1[a-z0-9]*/(?:models/)?(?P<model>[^:]+):(?P<what>generateContent|streamGenerateContent|countTokens)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The target of a request. `known` is False for a path that does not exist: its error has a shape, too.

    `question` names a request that is not a call of a model; `method` is the only one that the path accepts.
    """

    path: str
    wire_format: WireFormat
    known: bool = True
    model: str | None = None
    question: Question | None = None
    method: str = "POST"
    query: Mapping[str, str] = field(default_factory=dict)


def route_of(target: str) -> Route:
    """The route of a request target."""
    parts = urlsplit(target)
    path, query = parts.path, dict(parse_qsl(parts.query))
    if path in _PATHS:
        return Route(path=path, wire_format=_PATHS[path], query=query)
    if path in _COUNTING_PATHS:
        return Route(path=path, wire_format=_COUNTING_PATHS[path], question="count_tokens", query=query)
    if path == _GENERATION:
        return Route(path=path, wire_format="openrouter", question="generation", method="GET", query=query)
    if match := _GEMINI.fullmatch(path):
        model, counts = unquote(match["model"]), match["what"] == "countTokens"
        question: Question | None = "count_tokens" if counts else None
        return Route(path=path, wire_format="generate_content", model=model, question=question, query=query)
    return Route(path=path, wire_format=_likely_format(path), known=False)


def _likely_format(path: str) -> WireFormat:
    if path.startswith("/api/"):
        return "openrouter"
    if path.startswith("/v1/messages"):
        return "anthropic_messages"
    return "generate_content" if ":" in path or path.startswith("/v1beta") else "openai_chat"
