"""The display while the chain runs: each call and each budget, live in a terminal, else as plain lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llm_connect import (
    AsyncLLMStream,
    BudgetTracker,
    LLMAdapter,
    LLMBudgetExceededError,
    LLMResponse,
    LLMStream,
    Prompt,
    RunConfig,
    StreamChunk,
)

from .agents import Team

_STYLES = {
    "waiting": "yellow",
    "sending": "cyan",
    "writing": "cyan",
    "done": "green",
    "refused": "red",
    "failed": "red",
}
_LOOK_EVERY_SECONDS = 0.05
_BAR_CELLS = 30
_TEXT_CELLS = 300


@dataclass
class CallLine:
    """One call. `meter` is a child budget without a limit: it only shows what this call holds and has spent.

    text, pieces: the text of a stream so far, and the number of its pieces.
    """

    agent: str
    provider: str
    model: str
    meter: BudgetTracker
    outcome: str = ""
    text: str = ""
    pieces: int = 0

    @property
    def state(self) -> str:
        under_way = "writing" if self.text else "sending"
        return self.outcome or (under_way if self.meter.held_calls else "waiting")

    @property
    def tokens(self) -> str:
        if self.outcome:
            return f"{self.meter.spent:,}"
        return f"at most {self.meter.held:,}" if self.meter.held else ""

    def take(self, chunk: StreamChunk) -> StreamChunk:
        """Note a chunk of a stream."""
        self.text += chunk.text
        self.pieces += bool(chunk.text)
        return chunk

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note the end of the call."""
        try:
            yield
            self.outcome = "done"
        except LLMBudgetExceededError:
            self.outcome = "refused"
            raise
        except BaseException:
            self.outcome = "failed"
            raise


@dataclass
class Board:
    """All calls of a run, and the budgets that they spend from."""

    root: BudgetTracker
    calls: list[CallLine] = field(default_factory=list)

    def line_for(self, adapter: LLMAdapter, config: RunConfig | None) -> tuple[CallLine, RunConfig]:
        """Return a line for one call, and the config to make it with."""
        config = config or RunConfig()
        agent = config.labels.get("agent", "")
        tracker = config.budget_tracker or self.root
        provider, model = getattr(adapter, "provider", ""), getattr(adapter, "model", "")
        line = CallLine(agent, provider, model, tracker.child(agent))
        self.calls.append(line)
        return line, replace(config, budget_tracker=line.meter)

    @property
    def budgets(self) -> list[BudgetTracker]:
        """Return the root and the ceilings below it, in the order of their first call."""
        parents = (line.meter.parent for line in self.calls)
        return list(dict.fromkeys([self.root, *(parent for parent in parents if parent is not None)]))


class Watched(LLMAdapter):
    """An adapter that shows its calls on a board. The inner adapter meters them."""

    metered = False

    def __init__(self, inner: LLMAdapter, board: Board) -> None:
        self.inner = inner
        self.board = board

    def execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        line, watched = self.board.line_for(self.inner, config)
        with line.watch():
            return self.inner.execute_prompt(prompt, watched)

    async def async_execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        line, watched = self.board.line_for(self.inner, config)
        with line.watch():
            return await self.inner.async_execute_prompt(prompt, watched)

    def stream_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMStream:
        line, watched = self.board.line_for(self.inner, config)
        return LLMStream(WatchedStream(self.inner.stream_prompt(prompt, watched), line))

    def async_stream_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> AsyncLLMStream:
        line, watched = self.board.line_for(self.inner, config)
        return AsyncLLMStream(WatchedStream(self.inner.async_stream_prompt(prompt, watched), line))


class WatchedStream:
    """The source of a stream that is shown on a line: it passes the chunks of the inner stream on."""

    def __init__(self, inner: LLMStream | AsyncLLMStream, line: CallLine) -> None:
        self.inner = inner
        self.line = line

    def chunks(self) -> Generator[StreamChunk]:
        assert isinstance(self.inner, LLMStream)
        with self.line.watch(), self.inner:
            yield from map(self.line.take, self.inner)

    async def achunks(self) -> AsyncGenerator[StreamChunk]:
        assert isinstance(self.inner, AsyncLLMStream)
        with self.line.watch():
            async with self.inner:
                async for chunk in self.inner:
                    yield self.line.take(chunk)

    def abandon(self) -> None:
        """The inner stream closes itself."""

    @property
    def text(self) -> str:
        return self.inner.text

    @property
    def response(self) -> LLMResponse:
        return self.inner.response


def watched_team(team: Team, board: Board) -> Team:
    """Return the same team, shown on the board."""
    return replace(
        team,
        planner=Watched(team.planner, board),
        researcher=Watched(team.researcher, board),
        writer=Watched(team.writer, board),
        reviewer=team.reviewer and Watched(team.reviewer, board),
    )


@asynccontextmanager
async def showing(board: Board, console: Console) -> AsyncIterator[None]:
    """Show the board while the block runs."""
    task = asyncio.create_task(_live(board, console) if console.is_terminal else _lines(board, console))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _live(board: Board, console: Console) -> None:
    with Live(_picture(board), console=console, auto_refresh=False) as live:
        try:
            while True:
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
                live.update(_picture(board), refresh=True)
        finally:
            live.update(_picture(board), refresh=True)


async def _lines(board: Board, console: Console) -> None:
    shown: dict[int, str] = {}
    try:
        while True:
            _print_changes(board, console, shown)
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
    finally:
        _print_changes(board, console, shown)


def _print_changes(board: Board, console: Console, shown: dict[int, str]) -> None:
    for number, line in enumerate(board.calls):
        if shown.get(number) != line.state:
            shown[number] = line.state
            call = f"{line.agent:3} {line.provider:12} {line.model:27} {line.state:8} {line.tokens:>14}"
            figures = "; ".join(map(_figures, board.budgets))
            console.print(Text(f"{call}  | {figures}"), soft_wrap=True)


def _figures(budget: BudgetTracker) -> str:
    left = budget.remaining()
    return f"{budget.name} spent {budget.spent:,}, held {budget.held:,}, left {left or 0:,}"


def _picture(board: Board) -> Group:
    calls = Table("Agent", "Provider", "Model", "State", box=None, padding=(0, 2, 0, 0), header_style="bold")
    calls.add_column("Tokens", justify="right", min_width=13)
    for line in board.calls:
        calls.add_row(
            line.agent, line.provider, Text(line.model), Text(f"{line.state:8}", _STYLES[line.state]), line.tokens
        )
    budgets = Table("Budget", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("Cap", "Spent", "Held", "Left"):
        budgets.add_column(name, justify="right", min_width=5)
    budgets.add_column("")
    for budget in board.budgets:
        figures = (budget.total or 0, budget.spent, budget.held, budget.remaining() or 0)
        budgets.add_row(budget.path, *(f"{figure:,}" for figure in figures), _bar(budget))
    writing = (Text(f"{line.agent} writes: {_last(line.text)}") for line in board.calls if line.state == "writing")
    return Group(calls, Text(), budgets, *writing)


def _last(text: str) -> str:
    """Return the end of a text, in one line that fits a terminal."""
    return " ".join(text.split())[-_TEXT_CELLS:]


def _bar(budget: BudgetTracker) -> Text:
    total = budget.total or 1
    spent = round(_BAR_CELLS * min(budget.spent / total, 1))
    held = min(round(_BAR_CELLS * budget.held / total), _BAR_CELLS - spent)
    rest = _BAR_CELLS - spent - held
    return Text.assemble(("█" * spent, "green"), ("▒" * held, "cyan"), ("·" * rest, "dim"))
