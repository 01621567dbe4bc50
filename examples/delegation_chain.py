"""The main job: a chain of agents on different providers, under one budget whose cap holds.

    python examples/delegation_chain.py
    python examples/delegation_chain.py --engine local --cap 2500 --question "Why is the sky blue?"

Agent A (OpenAI) plans, three Bs (Gemini) work in parallel under their own ceiling, C (OpenRouter) writes, shown as it
arrives, and D (the claude command, if it is installed) reviews. A second run has a smaller cap, and shows a refusal.

With OPENAI_API_KEY, GEMINI_API_KEY and OPENROUTER_API_KEY in the environment it calls these providers, which costs
a few cents at most. Without them it starts the embedded provider, and nothing leaves this machine. The chain itself is
in `chain/agents.py`. Exits with 0 if the budget has kept its promise, and with 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from io import TextIOWrapper

from chain.agents import run_chain
from chain.engines import Engine, open_engine
from chain.live import Board, showing, watched_team
from chain.summary import Run, ledger_table, report_text, total_line
from rich.console import Console
from rich.text import Text

from llm_connect import BudgetTracker, LLMBudgetExceededError, LLMError

QUESTION = "How can several agents share one token budget without spending more than it allows?"


async def one_run(console: Console, engine: Engine, question: str, cap: int, research_total: int) -> Run:
    """Let the chain run once within `cap` tokens, and show it."""
    budget = BudgetTracker(total=cap, name="chain")
    board = Board(budget)
    report = refusal = None
    if engine.meter is not None:
        engine.meter.reset()
    async with showing(board, console):
        try:
            report = await run_chain(question, watched_team(engine.team, board), budget, research_total)
        except LLMBudgetExceededError as error:
            refusal = error
    billed = None if engine.meter is None else engine.meter.read()
    return Run(budget=budget, research_total=research_total, report=report, refusal=refusal, billed=billed)


def show(console: Console, run: Run) -> None:
    """Return the result of a run: the text or the refusal, the ledger, and the checks."""
    console.print()
    if run.report is not None:
        console.print(report_text(run.report))
    if run.refusal is not None:
        error = Text.assemble(("LLMBudgetExceededError: ", "bold red"), str(run.refusal), "\n")
        console.print(error, soft_wrap=not console.is_terminal)
    console.print(ledger_table(run))
    console.print(Text(total_line(run), "bold"))
    for said, holds in run.checks.items():
        console.print(Text.assemble(("ok   ", "green") if holds else ("NOT  ", "red"), said))


async def main(console: Console, engine_name: str, cap: int | None, question: str) -> int:
    """Make both runs, and return the exit code."""
    async with open_engine(engine_name) as engine:
        cap = cap or engine.cap
        console.print(Text(f"Runs on {engine.label}.\nThe question: {question}"))
        console.rule(f"First run: a cap of {cap:,} tokens")
        first = await one_run(console, engine, question, cap, research_total=cap // 4)
        show(console, first)
        if first.report is None:
            console.print(Text("The cap is too small for the whole chain: raise --cap.", "bold red"))
            return 1
        smaller = smaller_cap(first)
        console.rule(f"Second run: a cap of {smaller:,} tokens")
        second = await one_run(console, engine, question, smaller, research_total=cap // 4)
        show(console, second)
    kept = all((*first.checks.values(), *second.checks.values(), second.refusal is not None))
    console.rule("The cap held" if kept else "The budget has NOT kept its promise")
    return 0 if kept else 1


def smaller_cap(run: Run) -> int:
    """Return two thirds of a run's spend, but enough for its first call."""
    return max(run.budget.spent * 2 // 3, run.entries[0].bound.tokens)


def tokens(text: str) -> int:
    """The value of --cap."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def question(text: str) -> str:
    """The value of --question."""
    if not text.strip() or not text.isprintable():
        raise ValueError(text)
    return text


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A chain of agents on different providers, under one budget.")
    parser.add_argument("--engine", choices=("auto", "embedded", "local"), default="auto", help="what it runs on")
    parser.add_argument("--cap", type=tokens, help="tokens of the first run (default: 3,000; 20,000 with keys)")
    parser.add_argument("--question", type=question, default=QUESTION, help="what the agents are to answer")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = options()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    terminal = Console() if sys.stdout.isatty() else Console(width=130)
    try:
        code = asyncio.run(main(terminal, chosen.engine, chosen.cap, chosen.question))
    except LLMError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
