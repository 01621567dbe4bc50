"""The tool that a request forces the model to call, independent of the format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .._answer import Answer
from .._faults import InvalidRequest


@dataclass(frozen=True, slots=True)
class Tool:
    """An offered tool: its name, and the JSON schema of its arguments."""

    name: str
    schema: Mapping[str, Any]


def listed(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list; none if it is not a list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def chosen(tools: Iterable[Tool], names: list[Any] | None) -> Tool:
    """The first tool among `names`, or (None) the first of all. Raises InvalidRequest if there is none."""
    tool = next((tool for tool in tools if names is None or tool.name in names), None)
    if tool is not None:
        return tool
    missing = "no tools are given" if names is None else f"no tool is named {' or '.join(map(repr, names))}"
    raise InvalidRequest(f"The choice of a tool cannot be kept: {missing}.", param="tool_choice")


def arguments_of(text: str, answer: Answer) -> str | None:
    """The arguments of a call as JSON, which the output limit may have cut; None if the text is not an object."""
    return text if answer.cut or _object(text) is not None else None


def object_of_arguments(text: str, answer: Answer) -> dict[str, Any] | None:
    """The same as an object; empty if the output limit has cut it."""
    found = _object(text)
    return {} if found is None and answer.cut else found


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
