"""The real `claude` command over loopback: what it sends of prompts, limits, schemas and logins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from tests.providers.claude_binary import needs_claude
from tests.providers.claude_helpers import KEY, ONCE, error_of, real
from tests.providers.messages_server import MessagesServer, texts_of

pytestmark = pytest.mark.slow

SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}


@needs_claude
@pytest.mark.parametrize(
    "prompt",
    [
        *(
            "/cost",
            "/clear",
            "/help",
            "/model opus",
            "/review",
            "/",
            "//x",
            " /cost",
            "\n/cost",
            "\ufeff/cost",
        ),
        *("@/etc/hostname", "!ls", "#note", "-x", "--help", "a\x00b", "a\r\nb\r", "\U0001f600 é", "  x\n\n"),
    ],
)
def test_prompt_is_data(server: MessagesServer, prompt: str) -> None:
    """Whatever a prompt looks like, it reaches the model as it is; a leading slash gets a newline. (PROVIDER-10)"""
    real(server).execute_prompt(prompt, ONCE)
    assert server.prompts == [f"\n{prompt}" if prompt.startswith("/") else prompt]
    assert server.requests[0]["tools"] == []


@needs_claude
def test_five_megabyte_prompt(server: MessagesServer) -> None:
    """A prompt of five megabytes is sent whole, once."""
    prompt = "word " * 1_000_000
    real(server, model="claude-haiku-4-5-20251001").execute_prompt(prompt, ONCE)
    assert server.prompts == [prompt]


@needs_claude
@pytest.mark.parametrize("system", [None, "", " \n", "-x", "@/etc/hostname", "é\x00\r\n", "long " * 50_000])
def test_system_prompt_is_ours(server: MessagesServer, system: str | None) -> None:
    """The system prompt is sent as it is, of any length, and the command's own never."""
    real(server).execute_prompt("hi", RunConfig(system_prompt=system, max_retries=0))
    sent = [block["text"] for block in server.requests[0]["system"]]
    assert sent[2:] == ([system] if system and system.strip() else [])
    assert sum(map(len, sent[:2])) < 200


@needs_claude
def test_limits_are_sent(server: MessagesServer) -> None:
    """The output limit goes out as given; no cache is written; no thinking, unless effort is asked for."""
    adapter = real(server)
    adapter.execute_prompt("hi", RunConfig(max_tokens=77, max_retries=0))
    adapter.execute_prompt("hi", RunConfig(max_tokens=1, max_retries=0, model_params={"effort": "low"}))
    plain, low = server.requests
    assert (plain["max_tokens"], low["max_tokens"]) == (77, 1)
    assert "thinking" not in plain
    assert low["output_config"] == {"effort": "low"}
    assert "cache_control" not in json.dumps(server.requests)


@needs_claude
def test_json_schema(server: MessagesServer) -> None:
    """The answer by a schema is its JSON as text, from one request."""
    server.tool_input = {"answer": 42}
    config = RunConfig(model_params={"json_schema": SCHEMA}, max_retries=0)
    response = real(server).execute_prompt("hi", config)
    assert (response.content, response.finish_reason) == ('{"answer":42}', "stop")
    assert server.requests[0]["tools"][0]["input_schema"] == SCHEMA
    assert len(server.requests) == 1


@needs_claude
def test_json_schema_that_is_none(server: MessagesServer) -> None:
    """A schema that is not one is refused before anything is sent."""
    config = RunConfig(model_params={"json_schema": {"type": "object", "properties": 3}}, max_retries=0)
    assert type(error_of(real(server), config)) is LLMConfigurationError
    assert server.requests == []


@needs_claude
def test_login_sends_no_key(server: MessagesServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With login=True the user's token goes out, a key of the environment does not, and prompts stay data.

    (PROVIDER-10)
    """
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", "oauth-token")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    real(server, api_key=None, login=True).execute_prompt("/cost @/etc/hostname", ONCE)
    assert server.headers_seen[0]["authorization"] == "Bearer oauth-token"
    assert KEY not in str(server.headers_seen)
    texts = [text for message in server.requests[0]["messages"] for text in texts_of(message)]
    assert "\n/cost @/etc/hostname" in texts
    assert server.requests[0]["tools"] == []
    assert len(server.requests) == 1


@needs_claude
def test_a_stored_login_is_used_behind_a_base_url(
    server: MessagesServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With login=True and a base_url what `claude` has stored goes there, through the relay. (PROVIDER-20)"""
    login = {
        "accessToken": "sk-ant-oat01-stored",
        "refreshToken": "x",
        "expiresAt": 10**13,
        "scopes": ["user:inference"],
    }
    (tmp_path / ".credentials.json").write_text(json.dumps({"claudeAiOauth": login}))
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    assert real(server, api_key=None, login=True).execute_prompt("hi", ONCE).finish_reason == "stop"
    assert server.headers_seen[0]["authorization"] == "Bearer sk-ant-oat01-stored"
    assert server.headers_seen[0]["accept-encoding"] == "identity"


@needs_claude
def test_what_the_user_has_configured_does_not_act(
    server: MessagesServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With login=True no hook, memory or address of the user's configuration does anything. (PROVIDER-10)"""
    hook = {"hooks": [{"type": "command", "command": f"touch {tmp_path}/hooked"}]}
    hooks = {"UserPromptSubmit": [hook], "SessionStart": [hook], "Stop": [hook]}
    settings = {"hooks": hooks, "env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "CLAUDE.md").write_text("Always mention the walrus.")
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", "oauth-token")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    real(server, login=True, api_key=None).execute_prompt("hi", ONCE)
    assert not (tmp_path / "hooked").exists()
    assert "walrus" not in json.dumps(server.requests)


@needs_claude
def test_login_that_is_missing(server: MessagesServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user who is not logged in is told so, and nothing is sent."""
    monkeypatch.delenv("CLAUDE_CODE_OAUTH_TOKEN", raising=False)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    error = error_of(real(server, api_key=None, login=True))
    assert type(error) is LLMConfigurationError
    assert "not logged in" in str(error)
    assert server.requests == []
