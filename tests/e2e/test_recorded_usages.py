"""Accounts of tokens that real providers gave, of many models: they come to what genai-prices reads in them.

The recordings are not part of the project: LLM_CONNECT_RECORDINGS names their folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llm_connect.protocols import chat_completions, claude_cli, generate_content, responses
from llm_connect.protocols.wire import Answer, Failure, Reply

if not os.environ.get("LLM_CONNECT_RECORDINGS"):
    pytest.skip("LLM_CONNECT_RECORDINGS names no folder", allow_module_level=True)

RECORDED: list[Any] = json.loads((Path(os.environ["LLM_CONNECT_RECORDINGS"]) / "usages.json").read_text("utf-8"))


def read(usage: dict[str, Any]) -> Answer | Failure | None:
    """A reply with such an account, in the format that has its names; None where none of ours has them."""
    if "promptTokenCount" in usage:
        candidate = {"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}
        return generate_content.parse(written({"candidates": [candidate], "usageMetadata": usage}))
    if "prompt_tokens" in usage:
        choice = {"message": {"content": "x"}, "finish_reason": "stop"}
        return chat_completions.parse(written({"choices": [choice], "usage": usage}))
    if "total_tokens" in usage:
        item = {"type": "message", "content": [{"type": "output_text", "text": "x"}]}
        return responses.parse(written({"status": "completed", "output": [item], "usage": usage}))
    if "cache_creation_input_tokens" in usage:
        message = {"type": "assistant", "message": {"model": "m", "content": [{"type": "text", "text": "x"}]}}
        result = {"type": "result", "terminal_reason": "completed", "stop_reason": "end_turn", "usage": usage}
        return claude_cli.parse(Reply(0, {}, f"{json.dumps(message)}\n{json.dumps(result)}".encode()))
    return None


def written(body: dict[str, Any]) -> Reply:
    return Reply(200, {}, json.dumps(body).encode())


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_a_recorded_account_is_read_in_full(number: int) -> None:
    """Input and output are those that were recorded; an account without output, beside text, is not known.
    (WIRE-8, WIRE-31)"""
    usage, extracted = RECORDED[number]["usage"], RECORDED[number]["extracted"][0]["usage"]
    answer = read(usage)
    if answer is None:
        return
    assert isinstance(answer, Answer)
    if not extracted.get("output_tokens"):
        assert answer.usage is None
        assert answer.used_at_least is not None
        assert answer.used_at_least.prompt_tokens == extracted["input_tokens"]
        return
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        extracted["input_tokens"],
        max(extracted["output_tokens"], (usage.get("totalTokenCount") or 0) - extracted["input_tokens"]),
    )
