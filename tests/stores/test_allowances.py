"""What a process keeps so that it can go on without its store; and that this never stands in the way of a call."""

from __future__ import annotations

import contextvars
import gc
import json
import os
import pickle
import signal
import time
from datetime import timedelta
from typing import Any

import pytest

from llm_connect.core.budget import BudgetTracker
from llm_connect.core.exceptions import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.core.mock import MockLLMAdapter
from llm_connect.core.models import RunConfig
from llm_connect.core.terms import Terms
from llm_connect.core.units import NOTHING
from llm_connect.core.waiting import admit
from llm_connect.stores.command import main
from llm_connect.stores.opening import open_budget
from tests.core.budget_helpers import at_rest, in_thread, outcomes, refused, until
from tests.stores.crew import crew, results
from tests.stores.looking import end_leases, gate_of, stored
from tests.stores.losing import LEASE
from tests.stores.losing import held_now as kept


def slicing(url: str, total: int | None = 1_000, share: float = 0.1, **details: Any) -> BudgetTracker:
    """A budget with an allowance."""
    budget = open_budget(url, total=total, on_store_error="slice", slice_share=share, **details)
    until(lambda: kept(budget) > 0)
    return budget


def plain(budget: BudgetTracker) -> BudgetTracker:
    """The same budget as a process has it that keeps no allowance."""
    gate = gate_of(budget)
    terms = type(gate.terms)(**{**fields(gate.terms), "on_store_error": "refuse"})
    return terms.gate().tracker(gate.root)  # type: ignore[no-any-return]


def fields(terms: Any) -> dict[str, Any]:
    return {name: getattr(terms, name) for name in terms.__dataclass_fields__}


def hold_of(budget: BudgetTracker, tokens: int) -> Any:
    return contextvars.Context().run(budget.reserve, tokens)


def test_an_allowance_is_a_share_of_each_limit(url: str) -> None:
    """Rounded up, and no more than is left; a unit without a limit needs none (STORE-16)."""
    budget = open_budget(url, total=1_001, total_usd="0.50", on_store_error="slice", slice_share=0.07, name="first")
    until(lambda: budget.snapshot().held != NOTHING)
    held = budget.snapshot().held
    assert (held.tokens, held.calls, str(held.usd)) == (71, 0, "0.035000000")
    nearly = open_budget(url, total=100, name="second")
    nearly.consume(97)
    assert kept(slicing_again(nearly, url, "second")) == 3
    metering = open_budget(url, on_store_error="slice", name="third")
    metering.record(5)
    assert metering.snapshot().held == NOTHING


def slicing_again(budget: BudgetTracker, url: str, name: str) -> BudgetTracker:
    budget.close()
    return slicing(url, total=None, name=name)


def test_a_call_that_fits_only_without_the_allowance_is_let_in(url: str) -> None:
    """At once, whether it may wait or not, in one piece, as a slice, or as more of a hold (STORE-16)."""
    budget = slicing(url)
    assert budget.gate.room(budget, *demand(10)) == 100
    hold_of(budget, 1_000).release()
    until(lambda: kept(budget) == 100)
    with budget.child("slice", 1_000, slice=True) as slice_:
        slice_.consume(5)
    until(lambda: kept(budget) == 100)
    hold = hold_of(budget, 800)
    hold.dispatch()
    assert budget.gate.extend(hold, hold.bound.but(190, 0, 0))
    assert not budget.gate.extend(hold, hold.bound.but(190, 0, 0))
    hold.settle(800)
    budget.consume(195)
    assert (kept(budget), budget.spent) == (0, 1_000)
    assert refused(lambda: budget.consume(1)).reason == "never_fits"
    at_rest(budget)


def demand(tokens: int) -> Any:
    from llm_connect.core.demand import NO_FACTS, PlainDemand

    return PlainDemand(tokens, 1, 0), NO_FACTS


def test_who_waits_does_not_wait_for_the_allowance(url: str) -> None:
    """While anybody waits nothing is kept; afterwards it is again (STORE-16)."""
    budget = slicing(url)
    hold = hold_of(budget, 500)
    waiting = in_thread(lambda: budget.reserve(600, max_wait_seconds=20))
    until(lambda: budget.snapshot().waiting == 1)
    assert kept(budget) == 500
    hold.release()
    waiting.result(20).release()
    until(lambda: kept(budget) == 100)
    budget.close()
    at_rest(budget)


def test_after_an_overrun_a_hold_grows_into_the_allowance(url: str) -> None:
    """What was learned since it was granted is covered by what was kept (STORE-16)."""
    budget = slicing(url)
    adapter = MockLLMAdapter("x", prompt_tokens=5, completion_tokens=100)
    terms = Terms.of(adapter, "hello", RunConfig(budget_tracker=budget, max_tokens=60))
    assert terms is not None
    hold = contextvars.Context().run(lambda: admit(terms.tracker, terms.demand, terms.facts, **terms.place))
    granted = hold.bound.tokens
    contextvars.Context().run(adapter.execute_prompt, "hello", RunConfig(budget_tracker=budget, max_tokens=60))
    until(lambda: kept(budget) == granted + 100)
    rest = hold_of(budget, 1_000 - budget.spent - granted - 100 - 1)
    assert hold.try_dispatch()
    assert hold.bound.tokens > granted + 1
    assert kept(budget) == hold.bound.tokens + rest.bound.tokens
    hold.release()
    rest.release()
    budget.close()
    at_rest(budget)


def test_another_process_that_waits_gets_what_is_kept(url: str) -> None:
    """Each process sees who waits, and does without an allowance as long as anybody does (STORE-16)."""
    budget = slicing(url)
    other = plain(budget)
    waiting = in_thread(lambda: other.reserve(1_000, max_wait_seconds=20))
    waiting.result(20).release()
    until(lambda: kept(budget) == 100)
    budget.close()
    at_rest(other)
    gate_of(other).shut()


def test_processes_with_allowances_are_granted_exactly_the_cap(url: str) -> None:
    """Eight with a fifth each: together they spend all of it, and not one more (STORE-2, STORE-16)."""
    budget = open_budget(url, total=1_000)
    with crew(8, "equal_attempts", url, 300, 0.2) as processes:
        granted = results(processes)
    assert sum(granted) == budget.snapshot().spent.tokens <= 1_000
    # What one had kept to its end was not to be had for the others.
    assert sum(granted) >= 800
    at_rest(budget)


def test_a_process_that_ends_leaves_nothing_held(url: str) -> None:
    """Its allowance is given back at once, not when its lease is over (STORE-6, STORE-16)."""
    budget = open_budget(url, total=1_000)
    with crew(1, "keeper", url, 0.1) as processes:
        assert processes[0].stdout is not None
        assert processes[0].stdout.readline() == "ready\n"
        assert kept(budget) == 100
        processes[0].communicate("end\n", timeout=20)
    assert kept(budget) == 0
    assert outcomes(budget) == []
    at_rest(budget)


def test_a_killed_process_leaves_its_allowance_presumed(url: str) -> None:
    """Nobody knows what it has spent of it; the label says what that was (STORE-3, STORE-16)."""
    budget = open_budget(url, total=1_000, lease_seconds=0.6)
    with crew(1, "keeper", url, 0.1, 0.6) as processes:
        assert processes[0].stdout is not None
        assert processes[0].stdout.readline() == "ready\n"
        processes[0].send_signal(signal.SIGKILL)
        until(lambda: kept(budget) == 0)
    assert (budget.spent, outcomes(budget)) == (100, ["presumed"])
    assert budget.ledger.totals("label")["allowance=slice"].amount.tokens == 100
    (entry,) = budget.ledger
    budget.correct(entry.id, tokens=0)
    at_rest(budget)


def test_a_lost_allowance_is_corrected_and_taken_anew(url: str) -> None:
    """A process that was held up past its lease has spent nothing of it (STORE-4, STORE-16)."""
    budget = slicing(url)
    end_leases(budget)
    other = plain(budget)
    assert other.snapshot().spent.tokens == 100
    until(lambda: (budget.snapshot().spent.tokens, kept(budget)) == (0, 100))
    assert outcomes(budget) == ["presumed", "corrected"]
    gate_of(other).shut()
    budget.close()
    at_rest(budget)


def test_a_budget_that_nobody_has_any_more_keeps_nothing(url: str) -> None:
    """As soon as it is collected (STORE-16)."""
    watcher = open_budget(url, name="watcher", total=1)
    slicing(url, name="gone")
    gc.collect()
    gate = gate_of(watcher)
    until(lambda: stored(watcher, "holds") == 0 if url.startswith("sqlite") else True)
    gate.shut()
    gc.collect()
    again = open_budget(url, name="gone", on_store_error="slice", slice_share=0.1)
    until(lambda: kept(again) == 100)
    again.close()
    at_rest(again)


def test_a_child_that_is_not_used_any_more_keeps_nothing(url: str) -> None:
    """Only children that others know, have limits, and were used within a lease have an allowance (STORE-16)."""
    budget = slicing(url, total=10_000, lease_seconds=LEASE)
    children = [budget.child(f"c{number}", 500) for number in range(5)]
    for child in children:
        child.consume(1)
    team = budget.child("team", 500, join=True)
    sent = pickle.loads(pickle.dumps(children[0]))
    assert sent is children[0]
    for child in (team, sent):
        child.consume(1)
        until(lambda child=child: kept(child) == 50)  # type: ignore[misc]
    until(lambda: kept(budget) == 1_000)
    assert (kept(team), kept(sent)) == (0, 0)
    team.consume(1)
    until(lambda: kept(team) == 50)
    team.close()
    until(lambda: kept(team) == 0)
    budget.close()
    at_rest(budget)


def test_limits_that_change_change_the_allowance(url: str) -> None:
    """It grows with the limit (STORE-16)."""
    budget = slicing(url)
    budget.set_limits(total=3_000)
    until(lambda: kept(budget) == 300)
    budget.close()
    at_rest(budget)


def test_a_budget_with_a_period_has_one_as_well(url: str) -> None:
    """What is kept counts in every window until it is given back, as any hold does (STORE-15, STORE-16)."""
    if not url.startswith("sqlite"):
        return
    budget = slicing(url, total=600, period=timedelta(minutes=1))
    budget.consume(540)
    assert kept(budget) == 60
    budget.consume(60)
    assert refused(lambda: budget.consume(1)).reason == "window_full"
    budget.close()
    at_rest(budget)


def test_the_command_says_what_is_kept(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A hold that is an allowance is told from those of calls (STORE-9)."""
    budget = slicing(url, name="nightly")
    with hold_of(budget, 10):
        assert main(["show", url, "nightly", "--json"]) == 0
        holds = json.loads(capsys.readouterr().out)["holds"]
        assert sorted((hold["state"], hold["allowance"], hold["tokens"]) for hold in holds) == [
            ("dispatched", True, 100),
            ("reserved", False, 10),
        ]
        assert main(["show", url, "nightly"]) == 0
        assert "allowance" in capsys.readouterr().out
    budget.close()
    at_rest(budget)


def test_a_pickled_budget_is_one_on_the_same_terms(url: str) -> None:
    """Another process that gets it goes on without its store, too (STORE-6)."""
    budget = slicing(url)
    terms = gate_of(pickle.loads(pickle.dumps(budget))).terms
    assert (terms.on_store_error, terms.slice_share) == ("slice", 0.1)
    with pytest.raises(LLMConfigurationError, match="on other terms"):
        open_budget(url)
    budget.close()
    at_rest(budget)


def test_a_fork_keeps_an_allowance_of_its_own(url: str) -> None:
    """That of before is the parent's, and so are children that both know now (STORE-6)."""
    budget = slicing(url, lease_seconds=30)
    child = budget.child("child", 500)
    child.consume(1)
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            child.consume(1)
            until(lambda: kept(budget) == 100 + 100 + 50)
            os.write(write, b"good")
            budget.gate.shut()  # type: ignore[attr-defined]
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 10) == b"good"
    os.waitpid(process, 0)
    os.close(read)
    until(lambda: kept(budget) == 100)
    child.consume(1)
    until(lambda: kept(budget) == 150)
    assert child.snapshot().spent.tokens == 3
    budget.close()
    at_rest(budget)


@pytest.mark.parametrize(
    "wrong", [{"on_store_error": "go on"}, {"slice_share": 0}, {"slice_share": 1.5}, {"slice_share": "much"}]
)
def test_terms_that_cannot_be_meant(url: str, wrong: dict[str, Any]) -> None:
    """They are refused before anything is made (STORE-13)."""
    with pytest.raises(LLMConfigurationError, match=next(iter(wrong))):
        open_budget(url, total=5, **wrong)


def test_a_breached_budget_keeps_nothing_more(url: str) -> None:
    """More is spent than a limit allows: what is kept stays, and nothing is taken (STORE-16)."""
    budget = slicing(url, total_calls=10)
    budget.record(2_000)
    until(lambda: kept(budget) in (0, 100))
    with pytest.raises(LLMBudgetExceededError):
        budget.consume(1)
    time.sleep(0.05)
    assert kept(budget) == 0
    budget.close()
    at_rest(budget)
