"""What passes between a protocol and whoever carries it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeAlias, TypeVar

from llm_connect.core.checks import encodable
from llm_connect.core.exceptions import LLMError, LLMResponseError
from llm_connect.core.response import FinishReason
from llm_connect.core.usage import Usage
from llm_connect.protocols.pages import words_of_page
from llm_connect.protocols.usage_figures import Told

JSON: TypeAlias = dict[str, Any]

#: More of a request id or of the name of a model is not kept.
LONGEST_NAME = 200
_SHOWN_CHARACTERS = 300


@dataclass(slots=True)
class Reply:
    """What came back over the wire. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def good(self) -> bool:
        """Whether its status says that all went well: any 2xx may hold an answer."""
        return is_good(self.status)


def is_good(status: int) -> bool:
    """Whether a status says that all went well."""
    return 200 <= status < 300


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a good reply says.

    usage: what the call used; None when that is not known. used_at_least: what is known of it then.
    service_tier: at whose prices the provider has served the request, where it says so.
    """

    content: str
    model: str
    finish_reason: FinishReason
    usage: Usage | None = None
    used_at_least: Usage | None = None
    cost: Decimal | None = None
    cost_source: str | None = None
    service_tier: str | None = None
    request_id: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a bad reply, or none, says.

    kind: the error to raise.
    retryable: whether the same request may go through later.
    maybe_billed: False only where it is known that the provider charges nothing: no byte of the request was
        sent, or a complete reply of a kind that is not billed.
    usage, used_at_least: what the failed call used, where the reply says so, as of an answer.
    content: the text that had come by then.
    """

    kind: type[LLMError]
    message: str
    retryable: bool = False
    maybe_billed: bool = True
    retry_after: float | None = None
    request_id: str | None = None
    usage: Usage | None = None
    used_at_least: Usage | None = None
    cost: Decimal | None = None
    cost_source: str | None = None
    service_tier: str | None = None
    model: str = ""
    content: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def read_json(reply: Reply) -> JSON | Failure:
    """The body as a JSON object, or why it is none."""
    try:
        value = loaded(reply.body)
    except (ValueError, RecursionError):
        return unreadable(reply, f"is not JSON but {_describe(reply.body)}")
    if not isinstance(value, dict):
        return unreadable(reply, f"is a JSON {type(value).__name__}, not an object")
    return value


def loaded(text: str | bytes) -> Any:
    """JSON as Python's objects. A whole number with more digits than Python reads is infinite.

    Raises ValueError and RecursionError for what is no JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=_int_or_infinite)


AnyOutcome = TypeVar("AnyOutcome", bound=Answer | Failure)


def with_figures(outcome: AnyOutcome, said: Told, cost: Decimal | None = None) -> AnyOutcome:
    """The same, with what the reply says of its tokens and of its cost."""
    source = None if cost is None else "provider"
    if isinstance(outcome, Failure):
        return replace(outcome, usage=said.usage, used_at_least=said.least, cost=cost, cost_source=source)
    outcome.usage, outcome.used_at_least, outcome.cost, outcome.cost_source = said.usage, said.least, cost, source
    return outcome


def unreadable(reply: Reply, what: str) -> Failure:
    """A reply under a good status that holds no answer; it may have been billed."""
    return Failure(
        kind=LLMResponseError,
        message=f"The reply (HTTP {reply.status}) {what}: check that base_url names the provider's API.",
        request_id=request_id(reply),
        details={"status_code": reply.status},
    )


def request_id(reply: Reply) -> str | None:
    """The id under which the provider knows the request."""
    return request_id_in(reply.headers)


def request_id_in(headers: Mapping[str, str]) -> str | None:
    """The id in the headers of a reply; of OpenRouter the one by which it tells later what was billed."""
    found = headers.get("x-generation-id") or headers.get("x-request-id") or headers.get("request-id")
    return encodable(found[:LONGEST_NAME]) if found else None


def spent_on_thinking(content: str, finish: FinishReason) -> str | None:
    """The hint for an answer without text that ended at its limit."""
    if content or finish != "length":
        return None
    return "The output limit was used up before any text was written, for example by thinking: raise max_tokens."


def count(value: object) -> int:
    """A number of a request, which may be written as `2.0`; what is no such number is 0."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else 0


def text(value: object) -> str:
    """A text of a reply, without halves of characters that a cut left; what is no text is empty."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else encodable(value)


def mapping(value: object) -> JSON:
    """An object of a reply; what is no object is empty."""
    return value if isinstance(value, dict) else {}


def first(value: object) -> JSON:
    """The first object of a list in a reply; empty when there is none."""
    return mapping(value[0]) if isinstance(value, list) and value else {}


def objects(value: object) -> list[JSON]:
    """The objects of a list in a reply; what is no list has none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def shown(value: object) -> str:
    """A provider's text, short and on one line, without what a terminal obeys."""
    line = " ".join(str(value).split())
    if not line.isprintable():
        line = "".join(sign if sign.isprintable() else "?" for sign in line[: _SHOWN_CHARACTERS + 1])
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"


def _describe(body: bytes) -> str:
    if not body.strip():
        return "empty"
    kind = "HTML" if body.lstrip()[:1] == b"<" else "broken or other text"
    words = shown(words_of_page(body))
    return f"{kind} ({words})" if words and body.lstrip()[:1] not in b"{[" else kind


def _int_or_infinite(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float("inf")
