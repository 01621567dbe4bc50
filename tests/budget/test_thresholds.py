"""Thresholds and sinks: calls of users' functions."""

from __future__ import annotations

import asyncio
import json
import locale
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.accounting.ledger import JsonLinesSink, LedgerEntry
from llm_connect.budget.accounting.snapshot import BudgetSnapshot
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.holds import Ending
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from tests.budget.budget_helpers import at_rest, in_thread


def test_a_threshold_is_told_once() -> None:
    """A callback runs at the moment at which that part is spent, with the figures of that moment, and never again
    (BUDGET-42).
    """
    tracker = BudgetTracker(100)
    seen: list[BudgetSnapshot] = []
    tracker.on_threshold(0.07, seen.append)
    tracker.on_threshold(0.8, seen.append)
    tracker.consume(6)
    assert seen == []
    tracker.consume(1)
    assert [snapshot.spent.tokens for snapshot in seen] == [7]
    with tracker.reserve(80) as hold:
        assert len(seen) == 1
        hold.dispatch()
        hold.settle(80)
    tracker.record(50)
    assert [snapshot.spent.tokens for snapshot in seen] == [7, 87]


def test_any_unit_reaches_a_threshold() -> None:
    """The first limit of which that part is spent fires; without a limit none does."""
    for limits in ({"total_calls": 2}, {"total_usd": "0.000000002"}):
        tracker = BudgetTracker(1_000, **limits)  # type: ignore[arg-type]
        seen: list[Any] = []
        tracker.on_threshold(0.5, seen.append)
        tracker.record(1, calls=1, usd="0.000000001")
        assert len(seen) == 1
    tracker = BudgetTracker()
    tracker.on_threshold(0.5, seen.append)
    tracker.record(1_000_000)
    assert len(seen) == 1


def test_a_threshold_is_reached_by_what_children_spend_and_by_a_lower_limit() -> None:
    """The spend of all children counts; a lowered limit or a new threshold may fire at once."""
    tracker = BudgetTracker(100)
    child = tracker.child("c", 100)
    seen: list[str] = []
    tracker.on_threshold(0.5, lambda snapshot: seen.append(snapshot.path))
    child.on_threshold(0.9, lambda snapshot: seen.append(snapshot.path))
    child.consume(50)
    assert seen == ["budget"]
    child.set_limits(total=55)
    assert seen == ["budget", "budget/c"]
    tracker.on_threshold(0.1, lambda snapshot: seen.append("at once"))
    assert seen[2:] == ["at once"]


def test_a_callback_may_use_the_budget() -> None:
    """A callback runs outside of the lock: it may reserve, raise the limit, and set the next threshold."""
    tracker = BudgetTracker(100)
    seen: list[int] = []

    def more(snapshot: BudgetSnapshot) -> None:
        seen.append(snapshot.spent.tokens)
        tracker.set_limits(total=snapshot.spent.tokens * 2)
        in_thread(lambda: tracker.reserve(1).release()).result(10)
        if len(seen) < 3:
            tracker.on_threshold(0.9, more)

    tracker.on_threshold(0.9, more)
    for _ in range(40):
        tracker.consume(10)
    assert seen == [90, 170, 310]
    at_rest(tracker)


def test_a_callback_that_fails_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged; the call and its waiters go on (BUDGET-42)."""

    def fail(_: object) -> None:
        raise ValueError("the disk is full")

    tracker = BudgetTracker(100, sink=fail)
    tracker.on_threshold(0.5, fail)
    with caplog.at_level(logging.ERROR, "llm_connect"):
        tracker.consume(60)
    assert tracker.spent == 60
    assert [record.message for record in caplog.records] == [
        "A callback of a budget failed; the call that it was about is not affected."
    ] * 2
    assert "the disk is full" in caplog.text


def test_a_sink_gets_every_entry_in_order() -> None:
    """With 8 threads, each entry arrives once, in the order of the ledger, although only a few are kept (BUDGET-43)."""
    seen: list[int] = []
    running = threading.Lock()

    def sink(entry: LedgerEntry) -> None:
        assert running.acquire(blocking=False), "two at once"
        seen.append(entry.id)
        running.release()

    tracker = BudgetTracker(keep_entries=3, sink=sink)

    def work() -> None:
        for _ in range(100):
            with tracker.reserve(1) as hold:
                hold.dispatch()

    for thread in [in_thread(work) for _ in range(8)]:
        thread.result(30)
    tracker.record(5)
    assert seen == list(range(1, 802))
    at_rest(tracker)


def test_a_file_of_json_lines_is_utf_8_in_any_locale(tmp_path: Path) -> None:
    """A label in another script does not fail, and is not written in the encoding of the locale (BUDGET-43)."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        with JsonLinesSink(tmp_path / "ledger.jsonl") as sink:
            BudgetTracker(sink=sink).record(1, labels={"job": "täglich 日"})
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert "täglich 日" in (tmp_path / "ledger.jsonl").read_text(encoding="utf-8")


def test_json_lines(tmp_path: Path) -> None:
    """Each entry is one line, the JSON of `to_dict`; the file is appended to, and can be read at any time
    (BUDGET-43).
    """
    path = tmp_path / "ledger.jsonl"
    for name in ("ä\nb", "c"):
        with JsonLinesSink(path) as sink:
            tracker = BudgetTracker(1_000, name=name, sink=sink)
            hold = tracker.reserve(20)
            hold.dispatch()
            hold.presume()
            assert hold.entry is not None
            tracker.correct(hold.entry.id, 7)
            assert [json.loads(line) for line in path.read_text().splitlines()[-2:]] == [
                entry.to_dict() for entry in tracker.ledger
            ]
            assert path.read_text().splitlines()[-2:] == list(tracker.ledger.json_lines())
    assert len(path.read_text().splitlines()) == 4


def test_a_closed_sink_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An entry after the end of the file loses no answer."""
    with JsonLinesSink(tmp_path / "ledger.jsonl") as sink:
        tracker = BudgetTracker(100, sink=sink)
    tracker.record(1)
    assert (tracker.spent, len(caplog.records)) == (1, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: BudgetTracker(sink="ledger.jsonl"), "sink must be a function"),  # type: ignore[arg-type]
        (lambda: BudgetTracker().on_threshold(0.5, None), "callback must be a function"),  # type: ignore[arg-type]
        (lambda: BudgetTracker().on_threshold(0, print), "part must be a finite number above 0, not 0"),
        (lambda: BudgetTracker().on_threshold(float("nan"), print), "part must be a finite number above 0, not nan"),
        (lambda: BudgetTracker().on_threshold("0.5", print), "part must be a finite number"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_called(wrong: Callable[[], object], message: str) -> None:
    """A sink and a callback are functions, a part is a number above 0; the error names the wrong one."""
    with pytest.raises(LLMConfigurationError, match=f"^{message}"):
        wrong()


def test_a_call_put_in_while_another_is_made_is_made_too() -> None:
    """The delivering thread goes on until the queue is empty; other threads do not wait for it."""
    outbox, seen = Outbox(), []

    def first(value: str) -> None:
        seen.append(value)
        outbox.put(seen.append, lambda: "second", "second")
        outbox.deliver()
        assert seen == ["first"]

    outbox.put(first, lambda: "first", "first")
    outbox.deliver()
    assert seen == ["first", "second"]


def leaving(kind: type[BaseException]) -> Callable[[Any], object]:
    def leave(_: Any) -> None:
        raise kind("half is spent")

    return leave


CALLS: dict[str, Callable[[MockLLMAdapter, RunConfig], str]] = {
    "sync": lambda adapter, config: adapter.execute_prompt("hello", config).content,
    "async": lambda adapter, config: asyncio.run(adapter.async_execute_prompt("hello", config)).content,
    "stream": lambda adapter, config: "".join(chunk.text for chunk in adapter.stream_prompt("hello", config)),
    "async stream": lambda adapter, config: asyncio.run(streamed(adapter, config)),
}


async def streamed(adapter: MockLLMAdapter, config: RunConfig) -> str:
    async with adapter.async_stream_prompt("hello", config) as stream:
        return "".join([chunk.text async for chunk in stream])


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["sink", "threshold"])
def test_an_exit_out_of_a_callback_waits_for_the_next_call(how: str, kind: type[BaseException], where: str) -> None:
    """The answer in flight is returned; the next call ends the program before it sends anything, and only once.
    (BUDGET-42)
    """
    if where == "sink":
        tracker = BudgetTracker(1_000, sink=leaving(kind))
    else:
        tracker = BudgetTracker(1_000)
        tracker.on_threshold(0.01, leaving(kind))
    adapter = MockLLMAdapter("done", prompt_tokens=20, completion_tokens=20)
    config = RunConfig(budget_tracker=tracker, max_tokens=50)
    assert CALLS[how](adapter, config) == "done"
    with pytest.raises(kind, match="half is spent"):
        CALLS[how](adapter, config)
    assert (len(adapter.calls), tracker.spent, tracker.held) == (1, 40, 0)
    assert CALLS[how](adapter, config) == "done"
    at_rest(tracker)


async def test_what_else_a_callback_raises_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A CancelledError or GeneratorExit of a callback reaches no caller. (BUDGET-42)"""
    for kind in (asyncio.CancelledError, GeneratorExit):
        tracker = BudgetTracker(1_000, sink=leaving(kind))
        (await tracker.areserve(10)).settle(5)
        await asyncio.sleep(0)
        tracker.record(5)
        tracker.reserve(10).release()
        assert tracker.spent == 10
    assert "A callback of a budget failed" in caplog.text


def test_a_reservation_and_a_record_raise_what_is_owed() -> None:
    """The first operation that may raise does so. (BUDGET-42)"""
    tracker = BudgetTracker(1_000, sink=leaving(SystemExit))
    operations: list[Callable[[], object]] = [
        lambda: tracker.record(1),
        lambda: tracker.reserve(1),
        lambda: tracker.consume(1),
        lambda: asyncio.run(tracker.areserve(1)),
    ]
    for operation in operations:
        tracker.gate.end(hold := tracker.child("c").reserve(5), Ending("settled", hold.bound))
        with pytest.raises(SystemExit):
            operation()
        assert tracker.held == 0
