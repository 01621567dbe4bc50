"""The real claude command against the embedded provider; it streams."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llm_connect.testing import Behaviour, EmbeddedProvider


def find_claude() -> str | None:
    """The command on the PATH, else the one that comes with claude-agent-sdk."""
    on_path = shutil.which("claude")
    spec = None if on_path else importlib.util.find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        return on_path
    bundled = Path(spec.origin).parent / "_bundled" / "claude"
    return str(bundled) if bundled.exists() else None


CLAUDE = find_claude()
pytestmark = pytest.mark.skipif(CLAUDE is None, reason="the claude command is not installed")
FLAGS = (
    *("-p", "--bare", "--output-format", "json", "--tools", "", "--no-session-persistence"),
    *("--strict-mcp-config", "--setting-sources", "", "--system-prompt", "S", "--model", "claude-haiku-4-5"),
)


def environment(provider: EmbeddedProvider, home: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home),
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": provider.anthropic_url,
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "77",
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
        "CLAUDE_CODE_DISABLE_REFUSAL_RETRY": "1",
        "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "MAX_THINKING_TOKENS": "0",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def ask(provider: EmbeddedProvider, home: Path, *flags: str, **changes: str) -> dict[str, Any]:
    """The envelope that the command prints for a prompt."""
    assert CLAUDE is not None
    done = subprocess.run(
        [CLAUDE, *FLAGS, *flags],
        input=b"Say something.",
        capture_output=True,
        cwd=home,
        env=environment(provider, home) | changes,
        timeout=200,
        check=False,
    )
    envelope: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return envelope


def test_a_prompt_is_one_request_and_its_usage_is_billed(provider: EmbeddedProvider, tmp_path: Path) -> None:
    """Text and usage of the envelope are what the provider sent and counted. (TESTKIT-1, TESTKIT-2)"""
    envelope = ask(provider, tmp_path)
    assert envelope["is_error"] is False
    assert envelope["result"].startswith("This is a generated answer")
    assert envelope["usage"]["output_tokens"] == provider.meter.completion_tokens == 40
    assert envelope["usage"]["input_tokens"] == provider.meter.prompt_tokens
    assert provider.meter.calls == 1
    request = provider.requests[0]
    assert (request.output_limit, request.body["stream"]) == (77, True)
    assert request.prompt == "Say something."
    assert request.headers["x-api-key"] == "present"


def test_json_schema_gives_structured_output(provider: EmbeddedProvider, tmp_path: Path) -> None:
    """The command's own tool is called with arguments that fit, in one request."""
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    envelope = ask(provider, tmp_path, "--json-schema", json.dumps(schema))
    assert envelope["structured_output"] == {"answer": 0}
    assert envelope["is_error"] is False
    assert provider.meter.calls == 1


def test_cached_and_reasoning_tokens_reach_the_envelope(provider: EmbeddedProvider, tmp_path: Path) -> None:
    """Cached tokens are apart from the input there; thinking is part of the output."""
    provider.script(Behaviour(hidden_prompt_tokens=500, cached_tokens=400, reasoning_tokens=7))
    usage = ask(provider, tmp_path)["usage"]
    assert usage["cache_read_input_tokens"] == 400
    assert usage["input_tokens"] + 400 == provider.meter.prompt_tokens
    assert usage["output_tokens"] == provider.meter.completion_tokens == 47


def test_one_request_mode_stops_at_the_limit(tmp_path: Path) -> None:
    """A reply that fills the limit ends with max_tokens; without a USD budget the command would go on."""
    with EmbeddedProvider(reply_tokens="limit") as provider:
        envelope = ask(provider, tmp_path, "--max-budget-usd", "0.000001")
        assert envelope["stop_reason"] == "max_tokens"
        assert (provider.meter.calls, provider.meter.completion_tokens) == (1, 77)


@pytest.mark.parametrize(("status", "kind"), [(401, "authentication_error"), (529, "overloaded_error")])
def test_errors_reach_the_envelope(status: int, kind: str, provider: EmbeddedProvider, tmp_path: Path) -> None:
    """Status and type are recognised, nothing is billed."""
    provider.script(Behaviour(status=status))
    envelope = ask(provider, tmp_path)
    assert (envelope["is_error"], envelope["api_error_status"]) == (True, status)
    assert provider.meter.calls == 0
    assert provider.meter.refused == 1
    assert envelope.get("api_error_type", kind) == kind


def test_refusal_reaches_the_envelope(provider: EmbeddedProvider, tmp_path: Path) -> None:
    """A refused prompt is billed and told."""
    provider.script(Behaviour(finish_reason="refusal"))
    assert ask(provider, tmp_path)["stop_reason"] == "refusal"
    assert provider.meter.calls == 1


def test_unfinished_stream_is_a_failed_connection(provider: EmbeddedProvider, tmp_path: Path) -> None:
    """The command notices the missing end."""
    provider.script(Behaviour(cut_stream=True))
    envelope = ask(provider, tmp_path, "--max-budget-usd", "0.000001")
    assert envelope["is_error"] is True
    assert provider.meter.calls >= 1
