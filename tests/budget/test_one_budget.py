"""A budget cannot be duplicated by accident."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import threading

import pytest

from llm_connect import _forks
from llm_connect.budget.admission import backoff_lock
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from tests.budget.budget_helpers import at_rest, inside


def test_copies_of_a_config_share_the_budget() -> None:
    """copy, deepcopy, replace and asdict keep the same tracker (BUDGET-11)."""
    tracker = BudgetTracker(100)
    config = RunConfig(budget_tracker=tracker)
    assert copy.copy(tracker) is tracker
    assert copy.copy(config).budget_tracker is tracker
    assert copy.deepcopy(config).budget_tracker is tracker
    assert dataclasses.replace(config, max_tokens=5).budget_tracker is tracker
    assert dataclasses.asdict(config)["budget_tracker"] is tracker
    assert RunConfig(**dataclasses.asdict(config)).budget_tracker is tracker


@pytest.mark.in_memory_only
def test_pickling_raises_and_says_why() -> None:
    """A pickled budget would be a second one of the same size (BUDGET-11)."""
    tracker = BudgetTracker(100)
    for thing in (tracker, RunConfig(budget_tracker=tracker), tracker.child("a"), tracker.reserve(1)):
        with pytest.raises(TypeError, match="would double the budget"):
            pickle.dumps(thing)


@pytest.mark.in_memory_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_no_budget() -> None:
    """After os.fork all that holds or books raises, figures stay, and finalizers do nothing (BUDGET-11)."""
    tracker = BudgetTracker(100)
    hold, lost = tracker.reserve(10), [tracker.reserve(10)]
    with inside(tracker):
        child = os.fork()
        if child == 0:
            os._exit(_uses_that_do_not_raise(tracker, hold, lost))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert tracker.held == 20
    hold.release()
    lost[0].release()
    at_rest(tracker)


@pytest.mark.in_memory_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_fork_in_the_midst_of_anothers_operation_does_not_hang() -> None:
    """If another thread had the lock at the fork, the child never gets it free: reading the ledger raises that
    (BUDGET-11).
    """
    tracker, taken, done = BudgetTracker(100), threading.Event(), threading.Event()

    def work() -> None:
        with inside(tracker):
            taken.set()
            done.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    taken.wait(30)
    child = os.fork()
    if child == 0:
        try:
            list(tracker.ledger)
        except LLMConfigurationError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    done.set()
    thread.join()
    at_rest(tracker)


@pytest.mark.in_memory_only
def test_a_fork_makes_all_budgets_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a simulated fork, earlier budgets belong to another process, and new ones do not (BUDGET-11)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(1)
    with monkeypatch.context() as patch:
        patch.setattr(_forks, "generation", _forks.generation)
        lock = tracker.gate._lock  # type: ignore[attr-defined]
        patch.setattr(lock, "take", lock.take)
        patch.setattr(backoff_lock, "_locks", {lock})
        _forks._forked()
        backoff_lock._shut()
        for use in (lambda: tracker.consume(1), lambda: tracker.record(1), hold.dispatch, hold.release):
            with pytest.raises(LLMConfigurationError, match=r"before os\.fork"):
                use()
        BudgetTracker(100).consume(100)
    hold.release()
    at_rest(tracker)


def _uses_that_do_not_raise(tracker: BudgetTracker, hold: object, lost: list[object]) -> int:
    """The number of uses that do not raise in the forked process; its finalizers must neither hang nor change a
    figure.
    """
    lost.clear()
    uses = (
        lambda: tracker.reserve(1),
        lambda: tracker.consume(1),
        lambda: tracker.record(1),
        lambda: tracker.correct(1),
        lambda: tracker.set_limits(total=5),
        lambda: tracker.snapshot(),
        lambda: tracker.close(),
        lambda: tracker.child("a").reserve(1),
        lambda: tracker.child("a", join=True),
        lambda: hold.dispatch(),  # type: ignore[attr-defined]
        lambda: hold.release(),  # type: ignore[attr-defined]
    )
    let_through = int((tracker.spent, tracker.held, tracker.remaining()) != (0, 20, 80))
    let_through += int(str(tracker) != "budget: 0 tokens spent and 20 tokens held of 100 tokens")
    for use in uses:
        try:
            use()
        except LLMConfigurationError:
            continue
        let_through += 1
    BudgetTracker(10).consume(10)
    return let_through
