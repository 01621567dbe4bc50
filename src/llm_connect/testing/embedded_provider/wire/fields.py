"""Reads the fields that the formats have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._faults import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The content of a request. `schema` is the JSON schema of a structured answer, None for plain text."""

    model: str | None
    output_limit: int | None
    system: tuple[str, ...] = ()
    conversation: tuple[str, ...] = ()
    choices: int = 1
    schema: Mapping[str, Any] | None = None


def texts_of(content: Any) -> Iterator[str]:
    """All texts in a message content, at any depth."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from texts_of(part)
    elif isinstance(content, Mapping):
        for key in ("text", "content", "parts"):
            yield from texts_of(content.get(key))


def object_of(body: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The first of these fields that is an object, else an empty one."""
    return next((body[name] for name in names if isinstance(body.get(name), Mapping)), {})


def required_text(body: Mapping[str, Any], name: str) -> str:
    """A field that must be a text and not empty."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"'{name}' is required.", param=name)
    return value


def required_list(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """A field that must be a list of objects and not empty."""
    value = body.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        raise InvalidRequest(f"'{name}' is required and is a list of objects.", param=name)
    return value


def whole_number(body: Mapping[str, Any], *names: str, minimum: int = 1) -> int | None:
    """The least of these fields; None if all of them are absent or null."""
    found = {name: body[name] for name in names if body.get(name) is not None}
    for name, value in found.items():
        if type(value) is not int or value < minimum:
            raise InvalidRequest(f"'{name}' is a whole number of at least {minimum}.", param=name)
    return min(found.values(), default=None)


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token of an Authorization header."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
