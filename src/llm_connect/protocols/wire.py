"""The types that pass between a protocol and its carrier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from llm_connect._validation import encodable
from llm_connect.errors import LLMError
from llm_connect.types.response import FinishReason
from llm_connect.types.usage import Usage

JSON: TypeAlias = dict[str, Any]

#: The most of a request id or model name that is kept.
LONGEST_NAME = 200
_SHOWN_CHARACTERS = 300
#: The characters of a provider's words that are read: a text of megabytes must not keep an event loop busy.
MOST_READ = 8_192


@dataclass(slots=True)
class Reply:
    """A raw reply. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def is_good(status: int) -> bool:
    """True if a status is a success: any 2xx may have an answer."""
    return 200 <= status < 300


@dataclass(slots=True, kw_only=True)
class Answer:
    """The content of a good reply.

    usage: the usage of the call; None if it is unknown. used_at_least: the least usage that is certain then.
    service_tier: the tier by whose prices the provider served the request, if it names one.
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

    @property
    def billed(self) -> bool:
        """True: the provider charges for every answer."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The meaning of a bad reply, or of a missing one.

    kind: the error to raise.
    retryable: True if the same request may succeed later.
    maybe_billed: False only if the provider certainly charges nothing: no byte of the request was sent, or the reply
        is complete and of a kind that is not billed.
    usage, used_at_least: the usage of the failed call, if the reply has it; as for an answer.
    content: the text that had arrived by then.
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

    @property
    def billed(self) -> bool | None:
        """False if the provider certainly charges nothing; else None, because nobody knows."""
        return None if self.maybe_billed else False


def loaded(text: str | bytes) -> Any:
    """Parse JSON. A whole number with more digits than Python reads becomes infinite.

    Raises ValueError or RecursionError for invalid JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=_int_or_infinite)


def object_in(text: str | bytes) -> JSON | None:
    """The JSON object in a text; None if it is something else."""
    try:
        value = loaded(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def with_field(body: JSON, name: str, value: object) -> JSON:
    """A copy of a body with another value of a field; None leaves the field out."""
    others = {field: other for field, other in body.items() if field != name}
    return others if value is None else {**others, name: value}


def request_id_in(headers: Mapping[str, str]) -> str | None:
    """The request id in the headers of a reply; for OpenRouter the id of its later report."""
    found = headers.get("x-generation-id") or headers.get("x-request-id") or headers.get("request-id")
    return text(found[:LONGEST_NAME]) if found else None


def count(value: object) -> int:
    """A whole number in a request, which may be written as `2.0`; 0 for anything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else 0


def text(value: object) -> str:
    """A text in a reply, without half characters left by a cut; empty for anything else."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else encodable(value)


def mapping(value: object) -> JSON:
    """An object in a reply; empty for anything else."""
    return value if isinstance(value, dict) else {}


def first(value: object) -> JSON:
    """The first object of a list in a reply; empty if there is no object."""
    return mapping(value[0]) if isinstance(value, list) and value else {}


def objects(value: object) -> list[JSON]:
    """The objects of a list in a reply; none for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def shown(value: object) -> str:
    """A provider's text, shortened to one line and without control characters."""
    line = " ".join(str(value)[:MOST_READ].split())
    if not line.isprintable():
        line = "".join(sign if sign.isprintable() else "?" for sign in line[: _SHOWN_CHARACTERS + 1])
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"


def _int_or_infinite(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float("inf")
