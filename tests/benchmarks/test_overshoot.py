"""The overshoot benchmark runs, and would notice it if the cap did not hold."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overshoot import run
from benchmarks.overshoot.results import Result
from benchmarks.overshoot.roster import NO_BUDGET, OURS, ROSTER
from benchmarks.overshoot.scenarios import SCENARIOS, chinese, english, tokens_of
from benchmarks.overshoot.verdicts import broken

pytest.importorskip("openai", reason="the extra `openai` is not installed")

ROOT = Path(__file__).parents[2]
CONTENDERS = ROOT / "benchmarks" / "overshoot" / "contenders"

KEPT = Result(
    contender="llm-connect, tokens",
    scenario="chain",
    unit="tokens",
    attempts=200,
    cap=Decimal(10_000),
    calls=19,
    bill=Decimal(9_500),
    tokens=9_500,
    outcomes={"answer": 19, "LLMBudgetExceededError": 179},
    lost=0,
    books=Decimal(9_500),
    held=Decimal(0),
    below={"B": (Decimal(5_500), Decimal(6_000)), "C": (Decimal(2_500), Decimal(3_000))},
)


def test_ours_keeps_every_rule(tmp_path: Path) -> None:
    """The command measures llm-connect against the server's meter, and exits with 0."""
    found = tmp_path / "results.json"
    options = ["--ours", "--only", "tokens", "--attempts", "60", "--scenarios", "chain", "threads", "ignores"]
    script = ROOT / "benchmarks" / "overshoot" / "run.py"
    done = subprocess.run(
        [sys.executable, str(script), *options, "--json", str(found)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(found.read_text())
    assert measured["broken"] == []
    calls = {result["scenario"]: result["calls"] for result in measured["results"]}
    assert calls.keys() == {"chain", "threads", "ignores"}
    assert calls["chain"] == calls["threads"] == 19
    assert "| llm-connect, tokens | 19, -5 % |" in done.stdout


def test_a_budget_that_does_not_hold_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With calls that nothing stops in the place of ours, the command exits with 1 and says what is broken."""
    monkeypatch.setattr(run, "OURS", (replace(NO_BUDGET, packages=()),))
    found = tmp_path / "results.json"
    code = run.main(["--ours", "--scenarios", "gather", "--attempts", "30", "--json", str(found)])
    assert code == 1
    said = capsys.readouterr().err
    assert "BROKEN: no budget, gather: the bill of 15000 is above the cap of 10000" in said
    assert "BROKEN: no budget, gather: 0 was booked for a bill of 15000" in said


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"bill": Decimal(10_001), "books": Decimal(10_001)}, "the bill of 10001 is above the cap of 10000"),
        ({"scenario": "ignores", "outcomes": {"answer": 200}, "calls": 21}, "21 calls were sent although"),
        ({"calls": 18}, "only 18 of 20 calls that fit were let through"),
        ({"scenario": "chinese", "outcomes": {"answer": 200}, "calls": 0}, "nothing was sent"),
        ({"below": {"C": (Decimal(3_500), Decimal(3_000))}}, "C and those below it spent 3500 of 3000"),
        ({"below": {"C": (Decimal(0), Decimal(3_000))}}, "C and those below it were let nothing through"),
        ({"lost": 1}, "1 paid replies never reached the caller"),
        ({"outcomes": {"answer": 19}}, "19 of 198 attempts ended"),
        ({"outcomes": {"answer": 19, "LLMConnectionError": 179}}, "attempts ended with LLMConnectionError"),
        ({"books": Decimal(9_499)}, "9499 was booked for a bill of 9500"),
        ({"books": Decimal(9_501)}, "9501 was booked for a bill of 9500"),
        ({"held": Decimal(1)}, "1 is still held"),
        ({"held": None}, "None is still held"),
        ({"failed": "it had not ended after 120 s"}, "no result: it had not ended after 120 s"),
    ],
)
def test_each_broken_rule_is_told(change: dict[str, Any], rule: str) -> None:
    """A result that breaks one rule is told in one line, and one that breaks none in no line."""
    assert broken(KEPT) == []
    (line,) = broken(replace(KEPT, **change))
    assert rule in line


def test_more_may_be_booked_where_no_usage_came_back() -> None:
    """Calls that were cancelled in flight are presumed: at least the bill is booked."""
    cancelled = replace(KEPT, scenario="cancelled", below={}, lost=None, outcomes={"cancelled": 200}, calls=11)
    assert broken(replace(cancelled, books=Decimal(9_600))) == []
    assert len(broken(replace(cancelled, books=Decimal(9_400)))) == 1


def test_the_prompts_cost_what_the_caps_assume() -> None:
    """A call uses 500 tokens: the caps are the price of 20 real calls."""
    assert (tokens_of(english("A")), tokens_of(chinese("C"))) == (100, 400)
    for scenario in SCENARIOS.values():
        assert sum(scenario.call_tokens) == 500
        assert scenario.cap("tokens") == 10_000
        assert scenario.call_tokens[1] == (scenario.max_tokens or 400)


def test_the_readme_shows_what_was_measured() -> None:
    """Each row of the README's table stands in docs/overshoot.md; the command writes both."""
    head = "| contender | one after the other |"
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(head))
    shown = list(takewhile(lambda line: line.startswith("|"), lines[start:]))
    measured = (ROOT / "docs" / "overshoot.md").read_text(encoding="utf-8").splitlines()
    assert len(shown) > len(ROSTER) / 2
    assert [row for row in shown if row not in measured] == []


def test_every_contender_has_a_file_and_ours_needs_no_package() -> None:
    """What the roster names is there, and only the peers are installed."""
    assert {entry.module for entry in ROSTER} <= {path.stem for path in CONTENDERS.glob("*.py")}
    assert [entry for entry in ROSTER if entry.ours] == list(OURS)
