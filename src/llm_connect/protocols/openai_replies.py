"""Answers and usage, which replies of chat completions and of responses have in common."""

from __future__ import annotations

from collections.abc import Callable

from llm_connect.protocols.streamed_figures import SO_FAR
from llm_connect.protocols.usage_figures import SILENT, Figures, Told, before_the_end, figure, figures, told
from llm_connect.protocols.wire import (
    JSON,
    Answer,
    Reply,
    mapping,
    request_id,
    spent_on_thinking,
    text,
)
from llm_connect.types.response import FinishReason


def answer_of(reply: Reply, body: JSON, content: str, finish: FinishReason) -> Answer:
    """The answer in a good reply, with the fields that are the same in both formats."""
    return Answer(
        content=content,
        model=text(body.get("model")),
        finish_reason=finish,
        service_tier=text(body.get("service_tier")) or None,
        request_id=request_id(reply) or text(body.get("id")) or None,
        hint=spent_on_thinking(content, finish),
    )


def told_by(usage: JSON, body: JSON, prompt_name: str, completion_name: str, wrote: Callable[[], bool]) -> Told:
    """Read the usage of a body. The two formats name input and output differently."""
    if usage:
        return _told(usage, prompt_name, completion_name, wrote)
    so_far = mapping(body.get(SO_FAR))
    return before_the_end(_told(so_far, prompt_name, completion_name, _no)) if so_far else SILENT


def _told(usage: JSON, prompt_name: str, completion_name: str, wrote: Callable[[], bool]) -> Told:
    prompt, completion, total = figures(usage, prompt_name, completion_name, "total_tokens")
    cached, cache_write = figures(mapping(usage.get(f"{prompt_name}_details")), "cached_tokens", "cache_write_tokens")
    reasoning = figure(mapping(usage.get(f"{completion_name}_details")).get("reasoning_tokens"))
    return told(Figures(prompt, completion, total, cached, cache_write, reasoning), wrote)


def _no() -> bool:
    return False
