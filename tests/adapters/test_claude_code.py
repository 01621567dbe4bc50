"""The `claude` command as a model: the real command over loopback, and stubborn stand-ins for its process."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_connect.adapters import claude_code, subprocesses
from llm_connect.adapters.claude_code import ClaudeCodeAdapter
from llm_connect.core.exceptions import (
    LLMAPIError,
    LLMAuthenticationError,
    LLMConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMResponseError,
    LLMSubprocessError,
    LLMTimeoutError,
)
from llm_connect.core.models import LLMResponse, RunConfig
from tests.adapters.claude_binary import find_claude, needs_claude
from tests.adapters.claude_stand_in import stand_in
from tests.adapters.messages_server import MessagesServer, messages_server, texts_of

SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
ONCE = RunConfig(max_retries=0, timeout_seconds=30)
KEY = "sk-ant-test-key"
GOOD_RESULT = json.dumps(
    {"type": "result", "terminal_reason": "completed", "stop_reason": "end_turn", "modelUsage": {"m": {}}}
)

Script = Callable[[str], ClaudeCodeAdapter]


@pytest.fixture
def server() -> Iterator[MessagesServer]:
    with messages_server() as running:
        yield running


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """An adapter whose command is a script of these Python lines; `here` is where it leaves traces."""

    def make(lines: str) -> ClaudeCodeAdapter:
        return ClaudeCodeAdapter(api_key=KEY, cli_path=stand_in(tmp_path, lines), base_url="http://127.0.0.1:9")

    return make


def real(server: MessagesServer, **options: Any) -> ClaudeCodeAdapter:
    return ClaudeCodeAdapter(**{"api_key": KEY, "cli_path": find_claude(), "base_url": server.url, **options})


def error_of(adapter: ClaudeCodeAdapter, config: RunConfig = ONCE) -> LLMError:
    with pytest.raises(LLMError) as caught:
        adapter.execute_prompt("What is 2 + 2?", config)
    return caught.value


async def called(way: str, adapter: ClaudeCodeAdapter, prompt: str, config: RunConfig) -> LLMResponse:
    if way == "async":
        return await adapter.async_execute_prompt(prompt, config)
    return await asyncio.to_thread(adapter.execute_prompt, prompt, config)


def zombie() -> object:
    """A child of this process that has ended and that nobody has waited for."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def pids(directory: Path) -> list[int]:
    return [int(name.name.removeprefix("pid-")) for name in directory.glob("pid-*")]


# --- the real command ---


@needs_claude
async def test_sync_and_async_give_the_same(server: MessagesServer) -> None:
    """One request, its text, usage, cost and request id, whichever way it is called. (ADAPTER-1, CALL-1)"""
    adapter = real(server, model="claude-haiku-4-5-20251001")
    first = await asyncio.to_thread(adapter.execute_prompt, "hi", ONCE)
    second = await adapter.async_execute_prompt("hi", ONCE)
    for response, request_id in ((first, "req_1"), (second, "req_2")):
        assert (response.content, response.finish_reason) == ("Hello from loopback.", "stop")
        assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (100, 20)
        assert (str(response.cost), response.cost_source) == ("0.0002", "claude-cli")
        assert response.metadata["request_id"] == request_id
    assert len(server.requests) == 2


@needs_claude
@pytest.mark.parametrize("model", ["claude-haiku-4-5-20251001", "claude-sonnet-5-5"])
@pytest.mark.parametrize(
    ("behaviour", "content", "finish"),
    [
        ({"stop_reason": "max_tokens"}, "Hello from loopback.", "length"),
        ({"stop_reason": "refusal"}, "Hello from loopback.", "content_filter"),
        ({"stop_reason": "refusal", "text": ""}, "", "content_filter"),
        ({"text": ""}, "", "stop"),
    ],
)
def test_one_request_whatever_the_answer(
    server: MessagesServer, model: str, behaviour: dict[str, Any], content: str, finish: str
) -> None:
    """The command neither continues, nudges nor falls back by itself, and paid text is kept. (PROVIDER-12)"""
    for name, value in behaviour.items():
        setattr(server, name, value)
    response = real(server, model=model).execute_prompt("hi", ONCE)
    assert (response.content, response.finish_reason) == (content, finish)
    assert response.usage.total_tokens == 120
    assert len(server.requests) == 1


@needs_claude
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (307, LLMAPIError),
        (400, LLMAPIError),
        (401, LLMAuthenticationError),
        (404, LLMAPIError),
        (429, LLMRateLimitError),
        (500, LLMAPIError),
        (529, LLMAPIError),
    ],
)
def test_api_errors(server: MessagesServer, status: int, kind: type[LLMError]) -> None:
    """An error of the API comes with its status and request id, after one request. (CALL-5, PROVIDER-12)"""
    server.status = status
    error = error_of(real(server))
    assert type(error) is kind
    assert isinstance(error, LLMAPIError)
    assert (error.status_code, error.request_id) == (status, "req_1")
    assert len(server.requests) == 1


@needs_claude
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("login", [False, True])
async def test_a_redirect_is_not_followed(
    server: MessagesServer, monkeypatch: pytest.MonkeyPatch, way: str, login: bool
) -> None:
    """Where a redirect leads to gets no request, and so neither prompt nor key. (CALL-5)"""
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", "oauth-token")
    with messages_server() as elsewhere:
        server.status = 307
        server.headers = {"location": f"{elsewhere.url}/v1/messages"}
        with pytest.raises(LLMAPIError, match="a redirect, which is not followed"):
            await called(way, real(server, login=login, api_key=None if login else KEY), "hi", ONCE)
        assert (len(server.requests), len(elsewhere.requests)) == (1, 0)


@needs_claude
def test_retries_are_ours(server: MessagesServer) -> None:
    """The call path retries, and counts, what the command does not."""
    server.turns = [{"status": 529}, {"status": 200}]
    response = real(server).execute_prompt("hi", RunConfig(max_retries=1, timeout_seconds=30))
    assert (response.metadata["attempts"], len(server.requests)) == (2, 2)


@needs_claude
@pytest.mark.parametrize("cut", ["stream", "socket"])
def test_cut_stream_is_no_answer(server: MessagesServer, cut: str) -> None:
    """Text whose end never came is not passed on as an answer."""
    server.cut = cut
    assert type(error_of(real(server))) is LLMConnectionError
    assert len(server.requests) == 1


@needs_claude
def test_no_server_is_a_connection_error() -> None:
    """Nobody at base_url: no connection, and nothing sent."""
    adapter = ClaudeCodeAdapter(api_key=KEY, cli_path=find_claude(), base_url="http://127.0.0.1:9")
    assert type(error_of(adapter)) is LLMConnectionError


@needs_claude
def test_reply_of_another_kind(server: MessagesServer) -> None:
    """HTML under a good status is a reply that cannot be read."""
    server.body = b"<html>hello</html>"
    assert type(error_of(real(server))) is LLMResponseError


@needs_claude
@pytest.mark.parametrize("way", ["sync", "async"])
async def test_stalled_stream_ends_at_the_deadline(server: MessagesServer, way: str) -> None:
    """A server that stops in the middle costs no more than timeout_seconds and a tenth. (ADAPTER-6, CALL-2)"""
    server.stall = True
    config = RunConfig(timeout_seconds=5)
    adapter = real(server)
    started = time.monotonic()
    with pytest.raises(LLMTimeoutError):
        await called(way, adapter, "hi", config)
    assert time.monotonic() - started < 5.5 + 0.5
    assert len(server.requests) == 1


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


# --- the process ---

STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(2):
    open(f"{here}/pid-{os.getpid()}", "w").close()
    if os.fork():
        break
time.sleep(60)
"""


def test_stubborn_group_is_ended(script: Script, tmp_path: Path) -> None:
    """A command that ignores SIGTERM, and its child, are gone soon after the deadline. (ADAPTER-6, PROVIDER-13)"""
    started = time.monotonic()
    error = error_of(script(STUBBORN), RunConfig(timeout_seconds=2))
    assert type(error) is LLMTimeoutError
    assert time.monotonic() - started < 2.2 + 0.5
    assert len(pids(tmp_path)) == 2
    assert wait_for(lambda: not any(map(alive, pids(tmp_path))))


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_cancellation_ends_the_group(script: Script, tmp_path: Path, cancellations: int) -> None:
    """A cancelled call leaves no process, even when it is cancelled again while it cleans up. (CALL-8, PROVIDER-13)"""
    task = asyncio.create_task(script(STUBBORN).async_execute_prompt("hi", RunConfig(timeout_seconds=60)))
    await asyncio.to_thread(wait_for, lambda: len(pids(tmp_path)) == 2)
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(wait_for, lambda: not any(map(alive, pids(tmp_path))))


def test_loop_that_ends_leaves_no_process(script: Script, tmp_path: Path) -> None:
    """`asyncio.run` that ends with a call under way ends its process, too. (PROVIDER-13)"""
    adapter = script(STUBBORN)

    async def main() -> None:
        asyncio.create_task(adapter.async_execute_prompt("hi", RunConfig(timeout_seconds=60)))  # noqa: RUF006
        await asyncio.to_thread(wait_for, lambda: len(pids(tmp_path)) == 2)

    asyncio.run(main())
    assert wait_for(lambda: not any(map(alive, pids(tmp_path))))


def test_loop_that_is_dropped_leaves_no_process(script: Script, tmp_path: Path) -> None:
    """A loop closed under a call, without a cancellation, ends the process when the call is dropped."""
    call = script(STUBBORN).async_execute_prompt("hi", RunConfig(timeout_seconds=60))

    async def main() -> None:
        call.send(None)
        await asyncio.to_thread(wait_for, lambda: len(pids(tmp_path)) == 2)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    call.close()
    gc.collect()
    assert wait_for(lambda: not any(map(alive, pids(tmp_path))))


async def test_call_that_is_closed_leaves_no_process(script: Script, tmp_path: Path) -> None:
    """A coroutine that is closed, which may await nothing any more, ends its process at once."""
    call = script(STUBBORN).async_execute_prompt("hi", RunConfig(timeout_seconds=60))
    call.send(None)
    await asyncio.to_thread(wait_for, lambda: len(pids(tmp_path)) == 2)
    call.close()
    assert await asyncio.to_thread(wait_for, lambda: not any(map(alive, pids(tmp_path))))


def test_left_behind_child_is_ended(script: Script, tmp_path: Path) -> None:
    """A child that outlives a command that ended well is ended, and the answer is not lost. (PROVIDER-13)"""
    adapter = script(
        "if os.fork():\n"
        f"    print({GOOD_RESULT!r})\n"
        "else:\n"
        "    os.close(1)\n"
        "    open(f'{here}/pid-{os.getpid()}', 'w').close()\n"
        "    time.sleep(60)\n"
        "while not [name for name in os.listdir(here) if name.startswith('pid-')]: time.sleep(0.01)\n"
    )
    adapter.execute_prompt("hi", ONCE)
    assert wait_for(lambda: not any(map(alive, pids(tmp_path))))


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_command_that_fails_leaves_no_process(script: Script, tmp_path: Path, way: str) -> None:
    """A child that outlives a command that ended with an error is ended, too. (PROVIDER-13)"""
    adapter = script(
        "if not os.fork():\n"
        "    os.close(1)\n"
        "    os.close(2)\n"
        "    open(f'{here}/pid-{os.getpid()}', 'w').close()\n"
        "    time.sleep(60)\n"
        "while not [name for name in os.listdir(here) if name.startswith('pid-')]: time.sleep(0.01)\n"
        "sys.exit(3)\n"
    )
    with pytest.raises(LLMSubprocessError):
        await called(way, adapter, "hi", ONCE)
    assert len(pids(tmp_path)) == 1
    assert await asyncio.to_thread(wait_for, lambda: not any(map(alive, pids(tmp_path))))


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_early_exit_with_an_unread_prompt(script: Script, way: str) -> None:
    """A command that ends without reading its prompt fails with its exit code and stderr."""
    adapter = script("sys.stderr.write('no such model\\n')\nsys.exit(3)\n")
    prompt = "x" * 5_000_000
    with pytest.raises(LLMSubprocessError) as caught:
        await called(way, adapter, prompt, ONCE)
    assert (caught.value.return_code, caught.value.stderr) == (3, "no such model")


def test_endless_output_is_ended(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that writes without end is ended at a cap."""
    monkeypatch.setattr(subprocesses, "MOST_OUTPUT_BYTES", 1_000_000)
    error = error_of(script("while True: os.write(1, b'x' * 60000)\n"))
    assert type(error) is LLMSubprocessError
    assert "without end" in str(error)


def test_loud_stderr_does_not_block(script: Script) -> None:
    """Megabytes on standard error neither block the command nor are kept; a key in them is hidden."""
    adapter = script("sys.stderr.write('x' * 5_000_000 + os.environ['ANTHROPIC_API_KEY'])\nsys.exit(2)\n")
    error = error_of(adapter)
    assert isinstance(error, LLMSubprocessError)
    assert len(error.stderr) < 5_000
    assert error.stderr.endswith("[key]")
    assert KEY not in str(error)


def test_environment_is_made_for_the_command(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's environment but PATH is passed on, and HOME is gone afterwards. (PROVIDER-11)"""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("CLAUDECODE", "1")
    adapter = script("sys.stderr.write(repr(dict(os.environ)) + '|' + repr(os.listdir('.')))\nsys.exit(2)\n")
    error = error_of(adapter)
    assert isinstance(error, LLMSubprocessError)
    seen, listed = error.stderr.split("|")
    environment = eval(seen)
    assert listed == "[]"
    assert not {"OPENAI_API_KEY", "CLAUDECODE", "PYTHONPATH"} & environment.keys()
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["HOME"] == environment["CLAUDE_CONFIG_DIR"]
    # Without it, settings of the machine's administrator would give the command another address or a proxy.
    assert environment["CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST"] == "1"
    assert not Path(environment["HOME"]).exists()


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


async def test_many_at_once(script: Script) -> None:
    """Calls beyond max_concurrency wait, all end well, and no zombie is left. (ADAPTER-8)"""
    adapter = script(f"print({GOOD_RESULT!r})\n")
    responses = await asyncio.gather(*(adapter.async_execute_prompt("hi", ONCE) for _ in range(40)))
    assert {response.finish_reason for response in responses} == {"stop"}
    assert zombie() is None


def test_command_that_vanishes(script: Script, tmp_path: Path) -> None:
    """A command that cannot be started any more is a configuration error: nothing was sent."""
    adapter = script("")
    (tmp_path / "claude").unlink()
    assert type(error_of(adapter)) is LLMConfigurationError
    failure = adapter.transport_failure(subprocesses.NotStarted())
    assert not failure.maybe_billed


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
