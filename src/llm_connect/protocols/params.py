"""The portable part of `model_params`, and the refusal of unknown keys."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.protocols.wire import JSON

#: Keys that every provider's protocol translates.
PORTABLE = frozenset({"json_schema", "json_schema_strict"})
_STRICT_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, slots=True)
class JSONSchema:
    """A schema for the answer. The caller chooses `strict`, because most schemas do not qualify for it."""

    schema: JSON
    strict: bool

    @property
    def name(self) -> str:
        title = self.schema.get("title")
        letters = "".join(c if c.isalnum() and c.isascii() else "_" for c in str(title or "answer"))
        return letters[:64]

    def named(self) -> JSON:
        """The schema as both formats of OpenAI take it."""
        return {"name": self.name, "schema": self.schema, "strict": self.strict}


def check_known(config: RunConfig, known: Iterable[str], provider: str) -> None:
    """Refuse a key that is neither portable nor known to the provider. Dropping or leaking it would surprise."""
    if not config.model_params:
        return
    allowed = PORTABLE | set(known)
    for name in config.model_params:
        if name not in allowed:
            listed = ", ".join(sorted(allowed))
            raise LLMConfigurationError(f"model_params key {name!r} is not known to {provider}; known are: {listed}.")
    if not _is_sendable(config.model_params):
        wrong = [name for name, value in config.model_params.items() if not _is_sendable(value)]
        listed = ", ".join(map(repr, wrong or config.model_params))
        raise LLMConfigurationError(f"model_params[{listed}] cannot be sent: use values that JSON and UTF-8 can hold.")


def _is_sendable(value: object) -> bool:
    try:
        _STRICT_JSON.encode(value).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def json_schema(params: JSON) -> JSONSchema | None:
    """Take the portable schema out of `params`; None if there is no schema."""
    schema = params.pop("json_schema", None)
    strict = params.pop("json_schema_strict", False)
    if schema is None:
        return None
    if not isinstance(schema, dict):
        raise LLMConfigurationError("model_params['json_schema'] must be a JSON Schema as a dict.")
    return JSONSchema(schema, strict is True)


def params_of(config: RunConfig, known: Iterable[str], provider: str) -> tuple[JSON, JSONSchema | None]:
    """The checked `model_params` of a config, without the portable schema, and the schema."""
    check_known(config, known, provider)
    params = dict(config.model_params)
    return params, json_schema(params)
