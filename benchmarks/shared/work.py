"""The requests of every contender: the same prompts, options and limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

KEY = "sk-performance-is-measured-without-any"
MODEL = "gpt-4.1-mini"
GEMINI_MODEL = "gemini-2.5-flash"
MAX_TOKENS = 100


@dataclass(frozen=True, slots=True)
class Work:
    """One question. options: further parameters, by the names of chat completions."""

    prompt: str = "Name a colour."
    system: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def messages(self) -> list[dict[str, str]]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.prompt}]

    def body(self) -> dict[str, Any]:
        """The request in the format of chat completions."""
        return {"model": MODEL, "messages": self.messages(), "max_completion_tokens": MAX_TOKENS, **self.options}


SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string"}, "reason": {"type": "string"}},
    "required": ["colour", "reason"],
    "additionalProperties": False,
}
WORKS = {
    "short": Work(),
    "long": Work(
        system="You are a careful assistant who answers briefly and never guesses. " * 60,
        options={
            "temperature": 0.2,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["END"],
            "user": "user-1",
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        },
    ),
    "megabyte": Work(prompt="The quick brown fox jumps over the lazy dog; " * 23_300),
}
