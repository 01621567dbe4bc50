"""OpenAI's published OpenAPI document, where it is at hand: what it says against a value, and which names it knows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def document() -> dict[str, Any]:
    """The document; skips the test when there is none."""
    folder = os.environ.get("LLM_CONNECT_SCHEMAS")
    path = Path(folder) / "openai.json" if folder else None
    if path is None or not path.exists():
        pytest.skip("LLM_CONNECT_SCHEMAS names no folder with openai.json")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def errors_in(value: Any, name: str) -> list[str]:
    """What the schema `name` says against a value."""
    return [f"{list(error.path)}: {error.message[:300]}" for error in validator(name).iter_errors(value)]


def unknown_fields(value: dict[str, Any], name: str) -> set[str]:
    """The fields of an object that the schema `name` does not have; the schemas themselves let any pass."""
    return set(value) - set(_properties({"$ref": f"#/components/schemas/{name}"}))


@cache
def validator(name: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft202012Validator(document() | {"$ref": f"#/components/schemas/{name}"})


def _properties(schema: dict[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield from schema.get("properties", ())
    for part in schema.get("allOf", ()):
        yield from _properties(part)
