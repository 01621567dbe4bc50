"""The smallest JSON value that fits a simple JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DEEP = 8
_TOO_DEEP = 40
_FORMATS = {"date": "2026-01-01", "date-time": "2026-01-01T00:00:00Z", "email": "a@example.com"}


def sample_json(schema: Mapping[str, Any]) -> Any:
    """A value that fits `schema`.

        sample_json({"type": "object", "properties": {"answer": {"type": "integer"}}})     # {"answer": 0}

    Knows objects, arrays, strings, numbers, booleans, null, enum, const, anyOf, oneOf, allOf, local $ref, the
    minimum of lengths and values, and Gemini's upper-case type names. Ignores patterns, maxima and `not`.
    """
    return _sample(schema, schema, 0)


def _sample(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _TOO_DEEP:
        return None
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return _sample(schema[key][0], root, depth + 1)
    return _of_type(_type_of(schema), schema, root, depth)


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(_TOO_DEEP):
        if "$ref" not in schema:
            break
        schema = _referred(str(schema["$ref"]), root)
    if schema.get("allOf"):
        return _merged([part for part in schema["allOf"] if isinstance(part, Mapping)], root, schema)
    return schema


def _referred(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    for name in reference.lstrip("#/").split("/") if reference.strip("#/") else ():
        found = found.get(name, {}) if isinstance(found, Mapping) else {}
    return found if isinstance(found, Mapping) else {}


def _merged(parts: list[Mapping[str, Any]], root: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties: dict[str, Any] = dict(schema.get("properties", {}))
    whole: dict[str, Any] = {}
    for part in parts:
        part = _referred(str(part["$ref"]), root) if "$ref" in part else part
        properties |= part.get("properties", {})
        whole |= part
    own = {key: value for key, value in schema.items() if key != "allOf"}
    return whole | own | {"properties": properties}


def _type_of(schema: Mapping[str, Any]) -> str:
    declared = schema.get("type")
    if isinstance(declared, list):
        declared = declared[0] if declared else None
    if isinstance(declared, str):
        return declared.lower()
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _of_type(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    match kind:
        case "object":
            return _object(schema, root, depth)
        case "array":
            return _array(schema, root, depth)
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return True
        case "null":
            return None
    return _string(schema)


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    required = schema.get("required") or ()
    wanted = properties if depth < _DEEP else [name for name in properties if name in required]
    return {name: _sample(properties[name], root, depth + 1) for name in wanted}


def _array(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> list[Any]:
    first = schema.get("prefixItems") or []
    rest = max(0, int(schema.get("minItems", 0 if first or depth >= _DEEP else 1)) - len(first))
    items = [*first, *([schema.get("items", {"type": "string"})] * rest)]
    return [_sample(item, root, depth + 1) for item in items]


def _number(schema: Mapping[str, Any]) -> Any:
    if "exclusiveMinimum" in schema:
        return schema["exclusiveMinimum"] + 1
    return schema.get("minimum", min(0, schema.get("maximum", 0)))


def _string(schema: Mapping[str, Any]) -> str:
    text = _FORMATS.get(str(schema.get("format")), "text")
    return text.ljust(int(schema.get("minLength", 0)), ".")[: schema.get("maxLength")]
