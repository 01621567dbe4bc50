"""How the `claude` command is set up: the options of its adapter, its arguments and its environment."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from llm_connect.errors import LLMConfigurationError, LLMSubprocessError
from llm_connect.interface.config import RunConfig
from llm_connect.providers import claude_code
from llm_connect.providers.claude_code import ClaudeCodeAdapter
from tests.providers.claude_helpers import GOOD_RESULT, KEY, ONCE, Script, called, error_of


def test_prompts_are_not_in_the_process_list(script: Script) -> None:
    """Arguments, which every user of the machine can read, hold neither prompt."""
    adapter = script("sys.stderr.write(repr(sys.argv))\nsys.exit(2)\n")
    error = error_of(adapter, RunConfig(system_prompt="secret instructions", max_retries=0))
    assert isinstance(error, LLMSubprocessError)
    assert "--system-prompt-file" in error.stderr
    assert "secret" not in error.stderr
    assert "2 + 2" not in error.stderr


TRACE = """
import json
open(f"{here}/start-{os.getpid()}", "w").write(json.dumps([sys.argv, dict(os.environ), os.listdir(".")]))
"""


def started(directory: Path) -> tuple[list[str], dict[str, str], list[str]]:
    """Arguments, environment and working directory of the one process that was started."""
    (trace,) = directory.glob("start-*")
    return tuple(json.loads(trace.read_text()))  # type: ignore[return-value]


def test_environment_is_made_for_the_command(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the caller's environment but PATH is passed on, and HOME is gone afterwards. (PROVIDER-11)"""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("CLAUDECODE", "1")
    assert isinstance(error_of(script(f"{TRACE}sys.exit(2)\n")), LLMSubprocessError)
    _, environment, listed = started(tmp_path)
    assert listed == []
    assert not {"OPENAI_API_KEY", "CLAUDECODE", "PYTHONPATH"} & environment.keys()
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["HOME"] == environment["CLAUDE_CONFIG_DIR"]
    # Without it, settings of the machine's administrator would give the command another address or a proxy.
    assert environment["CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST"] == "1"
    assert not Path(environment["HOME"]).exists()


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_one_call_is_one_process(script: Script, tmp_path: Path, way: str) -> None:
    """The command is started once for a call, with the call's own model. (PROVIDER-3, PROVIDER-12)"""
    adapter = script(f"{TRACE}print({GOOD_RESULT!r})\n")
    await called(way, adapter, "hi", RunConfig(model_name="other-model", max_retries=0))
    argv, _, _ = started(tmp_path)
    assert argv[argv.index("--model") + 1] == "other-model"


def test_the_key_is_in_the_environment_and_in_no_argument(script: Script, tmp_path: Path) -> None:
    """Arguments, which every user of the machine can read, do not hold the key. (PROVIDER-4)"""
    script(f"{TRACE}print({GOOD_RESULT!r})\n").execute_prompt("hi", ONCE)
    argv, environment, _ = started(tmp_path)
    assert environment["ANTHROPIC_API_KEY"] == KEY
    assert not any(KEY in argument for argument in argv)


MINE = (
    *("HTTP_PROXY", "https_proxy", "ALL_PROXY", "NODE_OPTIONS", "NODE_EXTRA_CA_CERTS", "ANTHROPIC_AUTH_TOKEN"),
    *("ANTHROPIC_MODEL", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_BEDROCK", "AWS_PROFILE", "XDG_CONFIG_HOME"),
)


def test_nothing_of_the_callers_environment_but_the_path_is_passed_on(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No proxy, no other credential and no setting of the caller reaches the command. (PROVIDER-6, PROVIDER-11)"""
    for name in MINE:
        monkeypatch.setenv(name, "the-callers-own")
    script(f"{TRACE}print({GOOD_RESULT!r})\n").execute_prompt("hi", ONCE)
    _, environment, listed = started(tmp_path)
    passed_on = {name for name, value in environment.items() if os.environ.get(name) == value}
    assert passed_on - {"LC_CTYPE"} == {"PATH"}
    assert "the-callers-own" not in environment.values()
    assert listed == []


def test_a_login_passes_on_the_home_and_the_commands_configuration(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With login=True the token, the home and the configuration are the user's, and nothing else. (PROVIDER-11)"""
    for name in MINE:
        monkeypatch.setenv(name, "the-callers-own")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    script(f"{TRACE}print({GOOD_RESULT!r})\n")
    ClaudeCodeAdapter(login=True, cli_path=tmp_path / "claude").execute_prompt("hi", ONCE)
    _, environment, listed = started(tmp_path)
    passed_on = {name for name, value in environment.items() if os.environ.get(name) == value}
    assert passed_on - {"LC_CTYPE"} == {"CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR", "HOME", "PATH"}
    assert listed == []


def test_text_that_no_argument_can_hold() -> None:
    """A model name with a zero byte is refused like any other that cannot be meant."""
    with pytest.raises(LLMConfigurationError, match="model_name"):
        RunConfig(model_name="a\x00b")


# --- the constructor ---


def test_missing_key_names_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key the error names the variable and the login. (PROVIDER-1)"""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(LLMConfigurationError, match=r"ANTHROPIC_API_KEY.*login=True"):
        ClaudeCodeAdapter(cli_path=sys.executable)


def test_key_and_login_exclude_each_other() -> None:
    """A key beside a login would leave open who pays."""
    with pytest.raises(LLMConfigurationError, match="not both"):
        ClaudeCodeAdapter(api_key=KEY, login=True, cli_path=sys.executable)


def test_missing_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the command the error names where it comes from. (PROVIDER-2)"""
    monkeypatch.setenv("PATH", str(tmp_path))
    for cli_path in (None, tmp_path / "claude"):
        with pytest.raises(LLMConfigurationError, match=r"@anthropic-ai/claude-code.*claude-agent-sdk"):
            ClaudeCodeAdapter(api_key=KEY, cli_path=cli_path)


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and endpoint come from the environment when they are not given, and the key is never shown.

    (PROVIDER-1, PROVIDER-4)
    """
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    adapter = ClaudeCodeAdapter(cli_path=sys.executable)
    assert adapter.model == claude_code.DEFAULT_MODEL
    assert adapter.secrets == (KEY,)
    assert KEY not in repr(adapter)


def test_validate_config(script: Script) -> None:
    """A config with what cannot be sent is told before a call. (ADAPTER-4, PROVIDER-14)"""
    adapter = script("")
    assert adapter.validate_config(RunConfig(model_params={"effort": "high"}))
    assert not adapter.validate_config(RunConfig(temperature=0.5))
