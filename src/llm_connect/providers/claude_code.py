"""Claude, through the `claude` command."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from llm_connect.budget.accounting.bounds import Bound, CountTokens, TokenCounter
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine.deadline import Deadline, awaited_head, note_sent
from llm_connect.engine.endpoints import base_url_from, same_endpoint
from llm_connect.engine.exchange import Request
from llm_connect.engine.provider_adapter import ProviderAdapter, api_key_from
from llm_connect.errors import LLMConfigurationError, LLMSubprocessError
from llm_connect.interface.config import RunConfig
from llm_connect.protocols import claude_cli
from llm_connect.protocols.claude_output import LinesReading
from llm_connect.protocols.stream_reading import Reading
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply
from llm_connect.providers.relay import Endpoint, Relay
from llm_connect.providers.relay_streams import Addresses
from llm_connect.providers.strands import RunFailed, Strands
from llm_connect.providers.subprocesses import Command, CommandStream, starting
from llm_connect.providers.workplaces import workplace
from llm_connect.types.response import Prompt

BASE_URL = "https://api.anthropic.com"
DEFAULT_MODEL = "claude-sonnet-5-5"

_ARGUMENTS = (
    "-p",
    *("--output-format", "stream-json", "--verbose"),
    *("--tools", ""),
    "--no-session-persistence",
    "--strict-mcp-config",
    *("--setting-sources", ""),
    # Any request exceeds it, so the command ends after the first one instead of going on by itself.
    *("--max-budget-usd", "0.000001"),
)
_SWITCHES = {
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
    "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
    # With experimental betas or the refusal fallback on, the command repeats a request after a 400 without them.
    "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_REFUSAL_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_REFUSAL_RETRY": "1",
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    # Input that is written to a cache costs more than its list price.
    "DISABLE_PROMPT_CACHING": "1",
    "DISABLE_TELEMETRY": "1",
    # A thinking budget above the output limit is a 400; models that think by effort ignore it.
    "MAX_THINKING_TOKENS": "0",
}
#: Without it, settings of the machine's administrator may name another endpoint or a proxy, which bypass the relay.
#: With it, the command does not see its stored login.
_NO_OTHER_WAY = {"CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST": "1"}
_LONGEST_TIMER_MS = 2**31 - 1


class ClaudeCodeAdapter(ProviderAdapter):
    """Claude models through the Claude Code command: a model call, not an agent.

        adapter = ClaudeCodeAdapter(model="claude-haiku-4-5-20251001")
        print(adapter.execute_prompt("Hello").content)

    api_key: else the environment variable ANTHROPIC_API_KEY; without one, LLMConfigurationError.
    login: True uses the user's login (CLAUDE_CODE_OAUTH_TOKEN, or the one that `claude` has stored) and no key.
        `response.cost` is then the amount that the API would have charged.
    cli_path: else `claude` on the PATH.
    base_url: else the environment variable ANTHROPIC_BASE_URL, else Anthropic's.
    max_concurrency: processes at once, for all threads and for each event loop; one takes about 200 MB.
    budget_tracker: the budget of calls without one in their config.
    price: the price of `model`, for a budget that limits USD; else the budget's `prices`, else, at Anthropic's own
        endpoint, the list price.
    count_tokens: a tokenizer, which makes the bound of a prompt tighter than its bytes.

    One call is one process and one request: the process reaches its provider through a relay on loopback, which
    blocks a second request and follows no redirects. Only a login without a base_url does without the relay. The
    prompt is data: no file mention, command, hook, project file or tool takes effect. The process gets an environment
    made for it, an empty directory, and nothing of the user's except the login. Temperature cannot be sent.
    `model_params` may have `effort` (low to max; without it, thinking is off where the command can turn it off)
    and `json_schema`, whose answer is the model's own JSON, not checked against the schema. Proxies of the
    environment are not used. POSIX only.
    """

    provider: ClassVar[str] = "claude-code"
    marks_sent: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        api_key: str | None = None,
        cli_path: str | os.PathLike[str] | None = None,
        base_url: str | None = None,
        login: bool = False,
        max_concurrency: int = 16,
        budget_tracker: BudgetTracker | None = None,
        price: Price | None = None,
        count_tokens: CountTokens = None,
    ) -> None:
        _check_system()
        self._login = login
        self._credentials = _credentials(api_key, login)
        self._endpoint = _endpoint(base_url, login)
        self._cli_path = _find_command(cli_path)
        secrets = tuple(self._credentials.values())
        super().__init__(
            model=model,
            max_concurrency=max_concurrency,
            secrets=secrets,
            budget_tracker=budget_tracker,
            price=price,
            count_tokens=count_tokens,
        )

    @property
    def price_list(self) -> str | None:
        return "anthropic" if self._endpoint is None or same_endpoint(self._endpoint.url, BASE_URL) else None

    def render(self, prompt: Prompt, config: RunConfig, max_tokens: int | None) -> Request:
        model = config.model_name or self.model
        body = claude_cli.render(prompt, config, model=model, max_tokens=max_tokens)
        return Request("", model, body)

    def limited(self, request: Request, max_tokens: int | None) -> Request:
        return replace(request, body=claude_cli.limited(request.body, max_tokens))

    def bound_of(self, request: Request, max_tokens: int, counter: TokenCounter | None = None) -> Bound:
        return claude_cli.bound(request.body, max_tokens, login=self._login, counter=counter)

    def parse(self, reply: Reply) -> Answer | Failure:
        return claude_cli.parse(reply)

    def send(self, request: Request, deadline: Deadline) -> Reply:
        with closing(self.open(request, deadline)) as run:
            output = b"".join(iter(partial(run.read, deadline), b""))
            return Reply(run.status, run.headers, output)

    async def asend(self, request: Request, deadline: Deadline) -> Reply:
        run, pieces = await self.aopen(request, deadline), []
        try:
            while piece := await run.aread():
                pieces.append(piece)
        except GeneratorExit:
            # The event loop is gone: nothing can be awaited any more.
            run.abandon()
            raise
        except BaseException:
            await run.aclose()
            raise
        await run.aclose()
        return Reply(run.status, run.headers, b"".join(pieces))

    def streamed(self, request: Request) -> Request:
        return replace(request, body={**request.body, "partial_messages": True})

    def reading(self) -> Reading:
        return LinesReading()

    def open(self, request: Request, deadline: Deadline) -> CommandStream:
        addresses = self._endpoint.addresses(deadline) if self._endpoint else ()
        return self._opened(request.body, deadline, addresses)

    async def aopen(self, request: Request, deadline: Deadline) -> CommandStream:
        addresses = await self._endpoint.aaddresses() if self._endpoint else ()
        return self._opened(request.body, deadline, addresses)

    def transport_failure(self, error: Exception) -> Failure:
        if isinstance(error, RunFailed):
            return error.failure
        return Failure(kind=LLMSubprocessError, message=f"The command could not be run to its end: {error}.")

    def _opened(self, body: JSON, deadline: Deadline, addresses: Addresses) -> CommandStream:
        """Start the command for one request, with its directory and its relay while it runs."""
        with ExitStack() as ends:
            with starting(self._cli_path):
                place = ends.enter_context(workplace())
                strands = ends.enter_context(Strands())
                (place / "work").mkdir()
                # In a file, because arguments are limited in length, and visible to every user of the machine.
                (place / "system-prompt").write_bytes(body["system_prompt"].encode())
                relay = self._relay(body, addresses, strands)
            command = Command(
                argv=self._argv(body, place),
                environment=self._environment(body, place, deadline, relay),
                cwd=str(place / "work"),
                stdin=body["prompt"].encode(),
            )
            if relay is None and not deadline.passed:
                # The command connects to its provider by itself, and nobody sees when.
                note_sent()
            return CommandStream(command, deadline, strands, facts=relay.facts if relay else dict, ends=ends)

    def _relay(self, body: JSON, addresses: Addresses, strands: Strands) -> Relay | None:
        if self._endpoint is None:
            return None
        return Relay(self._endpoint, addresses, partial(claude_cli.keeps_the_limit, body), strands, awaited_head())

    def _argv(self, body: JSON, place: Path) -> tuple[str, ...]:
        chosen = {"--effort": body.get("effort"), "--json-schema": body.get("json_schema")}
        return (
            self._cli_path,
            *_ARGUMENTS,
            "--safe-mode" if self._login else "--bare",
            *(("--include-partial-messages",) if "partial_messages" in body else ()),
            *("--model", body["model"]),
            *("--system-prompt-file", str(place / "system-prompt")),
            *(word for name, value in chosen.items() if value is not None for word in (name, value)),
        )

    def _environment(self, body: JSON, place: Path, deadline: Deadline, relay: Relay | None) -> dict[str, str]:
        environment = _SWITCHES | self._credentials | ({} if self._login else _NO_OTHER_WAY)
        if relay is not None:
            environment["ANTHROPIC_BASE_URL"] = relay.url
        environment |= _users_own() if self._login else {"HOME": str(place), "CLAUDE_CONFIG_DIR": str(place)}
        environment["PATH"] = os.environ.get("PATH", os.defpath)
        environment["API_TIMEOUT_MS"] = str(min(int(deadline.remaining() * 1000) + 1000, _LONGEST_TIMER_MS))
        if "max_tokens" in body:
            environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(body["max_tokens"])
        if "effort" not in body:
            environment["CLAUDE_CODE_DISABLE_THINKING"] = "1"
        return environment


def _check_system() -> None:
    if not hasattr(os, "killpg"):
        raise LLMConfigurationError("ClaudeCodeAdapter needs POSIX, as on Linux, macOS or WSL.")


def _credentials(api_key: str | None, login: bool) -> dict[str, str]:
    if login and api_key is not None:
        raise LLMConfigurationError("Pass api_key= or login=True, not both: a login uses no key.")
    if login:
        return _taken_over("CLAUDE_CODE_OAUTH_TOKEN")
    try:
        return {"ANTHROPIC_API_KEY": api_key_from(api_key, "ANTHROPIC_API_KEY")}
    except LLMConfigurationError as error:
        raise LLMConfigurationError(f"{error} With a login of the claude command, pass login=True.") from None


def _find_command(cli_path: str | os.PathLike[str] | None) -> str:
    found = shutil.which("claude" if cli_path is None else os.fspath(cli_path))
    if found is not None:
        return os.path.abspath(found)
    where = "no `claude` on the PATH" if cli_path is None else f"no command at {os.fspath(cli_path)!r}"
    raise LLMConfigurationError(
        f"There is {where}: run `npm install -g @anthropic-ai/claude-code`, or pass cli_path= for the one "
        "that the package claude-agent-sdk carries (claude_agent_sdk/_bundled/claude)."
    )


def _taken_over(*names: str) -> dict[str, str]:
    return {name: value for name in names if (value := os.environ.get(name, "").strip())}


def _users_own() -> dict[str, str]:
    return _taken_over("CLAUDE_CONFIG_DIR") | {"HOME": str(Path.home())}


def _endpoint(base_url: str | None, login: bool) -> Endpoint | None:
    """The target of the relay; None if the command itself connects to Anthropic, for which its login is."""
    named = base_url_from(base_url, "ANTHROPIC_BASE_URL")
    return None if login and not named else Endpoint.of(named or BASE_URL)
