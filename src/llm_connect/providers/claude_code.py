"""Claude, through the `claude` command."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.accounting.token_counters import CountTokens, TokenCounter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine.deadline import Deadline, awaited_head, note_sent
from llm_connect.engine.endpoints import base_url_from, same_endpoint
from llm_connect.engine.exchange import Request
from llm_connect.engine.provider_adapter import ProviderAdapter, api_key_from
from llm_connect.errors import LLMConfigurationError, LLMSubprocessError
from llm_connect.interface.config import RunConfig
from llm_connect.protocols import claude_cli, claude_stream
from llm_connect.protocols.http_failures import no_reply
from llm_connect.protocols.stream_reading import Reading
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply, shown
from llm_connect.providers import subprocesses
from llm_connect.providers.command_stream import CommandStream
from llm_connect.providers.relay import ConnectionBroke, Endpoint, ErrorReply, NotAdmitted, NotConnected, Relay
from llm_connect.providers.relay_streams import Addresses
from llm_connect.providers.strands import Strands
from llm_connect.providers.subprocesses import Command, Finished, NotStarted, OutputTooLong
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
        addresses = self._endpoint.addresses(deadline) if self._endpoint else ()
        with self._run(request.body, deadline, addresses) as run:
            run.ended(subprocesses.run(run.command, deadline, run.strands))
        return run.reply

    async def asend(self, request: Request, deadline: Deadline) -> Reply:
        addresses = await self._endpoint.aaddresses() if self._endpoint else ()
        with self._run(request.body, deadline, addresses) as run:
            run.ended(await subprocesses.arun(run.command, deadline, run.strands))
        return run.reply

    def streamed(self, request: Request) -> Request:
        return replace(request, body={**request.body, "partial_messages": True})

    def reading(self) -> Reading:
        return claude_stream.LinesReading()

    def open(self, request: Request, deadline: Deadline) -> CommandStream:
        addresses = self._endpoint.addresses(deadline) if self._endpoint else ()
        return self._opened(request.body, deadline, addresses)

    async def aopen(self, request: Request, deadline: Deadline) -> CommandStream:
        addresses = await self._endpoint.aaddresses() if self._endpoint else ()
        return self._opened(request.body, deadline, addresses)

    def transport_failure(self, error: Exception) -> Failure:
        if isinstance(error, ErrorReply) and isinstance(said := self.parse(error.reply), Failure):
            return said
        if isinstance(error, NotStarted):
            return _not_started(self._cli_path, error.__cause__)
        if isinstance(error, NotConnected | ConnectionBroke):
            return no_reply(
                shown(f"{type(error.__cause__).__name__}: {error.__cause__}"), unsent=isinstance(error, NotConnected)
            )
        if isinstance(error, NotAdmitted):
            message = "The claude command asked for more output than it was told to, so its request was blocked."
            return Failure(kind=LLMSubprocessError, message=message, maybe_billed=False)
        if isinstance(error, OutputTooLong):
            return Failure(kind=LLMSubprocessError, message="The command wrote too much output and was ended.")
        return Failure(kind=LLMSubprocessError, message=f"The command could not be run to its end: {error}.")

    def _opened(self, body: JSON, deadline: Deadline, addresses: Addresses) -> CommandStream:
        with ExitStack() as ends:
            run = ends.enter_context(self._run(body, deadline, addresses))
            return CommandStream(run.command, deadline, strands=run.strands, headers_of=run.headers_of, ends=ends)

    @contextmanager
    def _run(self, body: JSON, deadline: Deadline, addresses: Addresses) -> Iterator[_Run]:
        """Set up the command for one request, with its directory and its relay while it runs."""
        with ExitStack() as ends:
            with subprocesses.starting():
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
            run = _Run(command, strands, relay)
            try:
                yield run
            except ErrorReply as error:
                run.reply = error.reply

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


@dataclass(slots=True)
class _Run:
    """One run of the command, and its result."""

    command: Command
    strands: Strands
    relay: Relay | None
    reply: Reply = field(init=False)

    def ended(self, finished: Finished) -> None:
        """Keep the result as a reply, with the status 0, since a process has no HTTP status."""
        self.reply = Reply(0, self.headers_of(finished), finished.stdout)

    def headers_of(self, finished: Finished) -> dict[str, str]:
        """The exit code, the end of standard error, and the relay's facts about the request."""
        headers = {"exit-code": str(finished.return_code), "stderr": finished.stderr}
        if self.relay is not None:
            headers |= {"sent": "yes" if self.relay.head.sent else "no", "request-id": self.relay.request_id}
        return headers


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


def _not_started(cli_path: str, cause: BaseException | None) -> Failure:
    wrong_path = isinstance(cause, FileNotFoundError | PermissionError | ValueError)
    kind = LLMConfigurationError if wrong_path else LLMSubprocessError
    message = f"The command {cli_path!r} could not be started ({cause}): check cli_path=."
    return Failure(kind=kind, message=message, maybe_billed=False)
