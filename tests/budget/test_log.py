"""The log lines about calls and budgets, one for each event."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llm_connect import BudgetTracker, LLMBudgetExceededError, LLMStoreError, Price, RunConfig, open_budget
from llm_connect.budget.admission import acquire, log
from llm_connect.budget.admission.log import Event
from llm_connect.testing import Behaviour, EmbeddedProvider
from llm_connect.testing.mock import MockLLMAdapter

KEY, PROMPT = "sk-or-Zq8Lw2XnVb7TfRk4Hs9JdPyGm3Cc5Ae", "Tell me of the northern bridge."
EVENTS = [value for value in vars(log).values() if isinstance(value, Event)]

Make = Callable[..., BudgetTracker]


@pytest.fixture(params=["memory", "file"])
def budget(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a budget in memory, or in a file."""
    if request.param == "memory":
        return BudgetTracker
    return lambda **options: open_budget(f"sqlite:///{tmp_path}/budget.db", **options)


def records_of(caplog: pytest.LogCaptureFixture, event: Event) -> list[logging.LogRecord]:
    """The records of an event; checks the rules for all records."""
    records = [record for record in caplog.records if record.name == "llm_connect"]
    assert all(hasattr(record, "llm_event") for record in records)
    for record in records:
        line = record.getMessage()
        assert line
        assert "\n" not in line
        assert KEY not in repr(vars(record))
        assert "northern bridge" not in repr(vars(record))
    found = [record for record in records if vars(record)["llm_event"] == event.name]
    assert all((record.levelno, record.name) == (event.level, "llm_connect") for record in found)
    return found


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="llm_connect")


def test_a_presumption_is_told(budget: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A hold with an unknown outcome is logged once, when its bound is booked. (BUDGET-64)"""
    tracker = budget(total=1_000)
    with tracker.reserve(300, model="m") as hold:
        hold.dispatch()
    hold.presume()
    with tracker.reserve(200):
        pass
    (record,) = records_of(caplog, log.PRESUMED)
    assert (record.llm_tokens, record.llm_path, record.llm_model) == (300, "budget", "m")  # type: ignore[attr-defined]


def test_a_line_says_whose_call_it_was_and_writes_numbers_as_errors_do(caplog: pytest.LogCaptureFixture) -> None:
    """The lines have provider, model and entry id, as far as they are known. (BUDGET-64)"""
    tracker = BudgetTracker(total=5_000)
    for names in ({}, {"model": "m"}, {"adapter": "mine", "model": "m"}):
        with tracker.reserve(1_039, **names) as hold:
            hold.dispatch()
    with tracker.reserve(1_000, adapter="mine") as hold:
        hold.dispatch()
        hold.settle(1_039)
    with pytest.raises(LLMBudgetExceededError):
        tracker.reserve(9_039)
    assert [record.getMessage() for record in caplog.records] == [
        "The outcome of a call under budget 'budget' is unknown: its bound of 1,039 tokens is booked (entry 1).",
        "The outcome of a call of 'm' under budget 'budget' is unknown: its bound of 1,039 tokens is booked (entry 2).",
        "The outcome of a call of mine 'm' under budget 'budget' is unknown: its bound of 1,039 tokens is booked "
        "(entry 3).",
        "Under budget 'budget' a call of mine used 1,039 tokens, and 1,000 were held (entry 4).",
        "Budget 'budget' refused a call (never_fits): it needs 9,039 tokens, and 8,195 are missing.",
    ]


def test_a_presumption_in_a_running_loop_is_told(budget: Make, caplog: pytest.LogCaptureFixture) -> None:
    """It is also logged if a store's worker books it. (BUDGET-64)"""

    async def one() -> None:
        with await budget(total=1_000).areserve(300) as hold:
            await hold.adispatch()
        await hold.abooked()

    asyncio.run(one())
    assert len(records_of(caplog, log.PRESUMED)) == 1


def test_an_overrun_is_told(budget: Make, caplog: pytest.LogCaptureFixture) -> None:
    """An overrun is logged with both figures; usage up to the hold is not logged. (BUDGET-64)"""
    tracker = budget(total=1_000)
    for tokens in (100, 99, 101):
        with tracker.reserve(100) as hold:
            hold.dispatch()
            hold.settle(tokens)
            hold.settle(500)
    (record,) = records_of(caplog, log.OVERRUN)
    assert (record.llm_tokens, record.llm_held_tokens) == (101, 100)  # type: ignore[attr-defined]


def test_a_figure_that_is_not_believed_is_told(budget: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A figure that is too large for a store is logged, and so is the presumption. (BUDGET-64)"""
    with budget(total=1_000).reserve(100) as hold:
        hold.dispatch()
        hold.settle(2**62)
    assert len(records_of(caplog, log.IMPLAUSIBLE)) == 1
    assert len(records_of(caplog, log.PRESUMED)) == 1


def test_a_refusal_is_told(budget: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A refused reservation is logged with its reason and figures, in both modes. (BUDGET-64)"""
    tracker = budget(total=1_000)
    with pytest.raises(LLMBudgetExceededError):
        tracker.reserve(1_001)
    with pytest.raises(LLMBudgetExceededError):
        asyncio.run(tracker.areserve(1_001))  # type: ignore[arg-type]
    for record in records_of(caplog, log.REFUSED):
        assert (record.llm_reason, record.llm_requested, record.llm_missing) == ("never_fits", 1_001, 1)  # type: ignore[attr-defined]
    assert len(records_of(caplog, log.REFUSED)) == 2


def test_a_refusal_for_want_of_a_price_or_a_proof_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal before the reservation is logged, too. (BUDGET-64)"""
    with pytest.raises(LLMBudgetExceededError):
        BudgetTracker(total_usd=5).reserve(10, model="no-such-model")
    with pytest.raises(LLMBudgetExceededError):
        BudgetTracker(total=500, strict=True).reserve(10)
    assert [record.llm_reason for record in records_of(caplog, log.REFUSED)] == ["unpriced", "unproven"]  # type: ignore[attr-defined]


def test_a_hold_that_was_given_back_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A hold that an overrun has revoked is logged as a refusal when it is dispatched. (BUDGET-64)"""
    tracker = BudgetTracker(total=1_000)
    hold = tracker.reserve(500)
    tracker.record(1_100)
    with pytest.raises(LLMBudgetExceededError):
        hold.dispatch()
    assert len(records_of(caplog, log.REFUSED)) == 1


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_long_wait_is_told_and_a_short_one_is_not(
    budget: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A wait for budget of more than a second is logged. (BUDGET-64)"""
    tracker = budget(total=1_000)

    def wait() -> None:
        hold = tracker.reserve(900)
        threading.Timer(0.2, hold.release).start()
        if mode == "sync":
            tracker.reserve(500, max_wait_seconds=30).release()
        else:
            asyncio.run(_waits(tracker))

    for module in (log, acquire):
        monkeypatch.setattr(module, "LONG_SECONDS", 30)
    wait()
    assert records_of(caplog, log.WAITED) == []
    for module in (log, acquire):
        monkeypatch.setattr(module, "LONG_SECONDS", 0.01)
    wait()
    (record,) = records_of(caplog, log.WAITED)
    assert record.llm_seconds > 0.01  # type: ignore[attr-defined]


async def _waits(tracker: BudgetTracker) -> None:
    hold = await tracker.areserve(500, max_wait_seconds=30)
    hold.release()
    await hold.abooked()


def test_an_outage_of_a_store_is_told_at_its_beginning_and_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The loss of a store is logged once, and so is its return. (STORE-31)"""
    tracker = open_budget(f"sqlite:///{tmp_path}/budget.db", total=1_000, lease_seconds=2.4)
    with closing(sqlite3.connect(tmp_path / "budget.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            with pytest.raises(LLMStoreError):
                tracker.reserve(10)
        other.execute("ROLLBACK")
    tracker.reserve(10).release()
    tracker.close()
    (lost,), (back,) = records_of(caplog, log.STORE_LOST), records_of(caplog, log.STORE_BACK)
    assert lost.getMessage().endswith(
        "/budget.db cannot be used: its budgets refuse every call until it is back; if it was deleted or replaced, "
        "until open_budget opens it again."
    )
    assert "can be used again, after" in back.getMessage()


def test_a_budget_that_is_created_without_limits_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that starts first, or a name with a typo, creates a budget that limits nothing. (STORE-31)"""
    url = f"sqlite:///{tmp_path}/budget.db"
    for name, limits in (("limited", {"total": 10}), ("nightly", {}), ("nightly", {}), ("limited", {})):
        open_budget(url, name=name, **limits).close()  # type: ignore[arg-type]
    (record,) = records_of(caplog, log.UNLIMITED)
    assert (record.llm_path, record.llm_store) == ("nightly", url)  # type: ignore[attr-defined]
    assert record.getMessage() == (
        f"Budget 'nightly' did not exist in {url}. It was created without limits, so it refuses no call: check the "
        "name, or create it with limits first."
    )


def test_a_callback_that_is_not_waited_for_any_longer_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The callback that delays a coroutine's call of a budget in a store is named, once. (STORE-32)"""
    over = threading.Event()

    def slow(_: Any) -> None:
        over.wait()

    tracker = open_budget(f"sqlite:///{tmp_path}/budget.db", total=1_000, lease_seconds=2.4, sink=slow)

    async def spend() -> None:
        for _ in range(2):
            (await tracker.areserve(10)).settle(1)
            await tracker.asnapshot()

    asyncio.run(spend())
    over.set()
    tracker.close()
    (record,) = records_of(caplog, log.CALLBACK_LATE)
    assert vars(record)["llm_callback"].endswith("slow")


@pytest.fixture
def provider() -> Any:
    with EmbeddedProvider() as provider:
        yield provider


def adapter_of(provider: EmbeddedProvider) -> Any:
    from llm_connect import OpenRouterAdapter

    price = Price(prompt=1, completion=2)
    return OpenRouterAdapter(model="test-model", api_key=KEY, base_url=provider.openrouter_url, price=price)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_retry_is_told(provider: EmbeddedProvider, caplog: pytest.LogCaptureFixture, mode: str) -> None:
    """A retry is logged with the failure and the pause before it, without any text of the provider. (CALL-42)"""
    provider.script(Behaviour(status=503, error_message=f"{KEY} {PROMPT}", retry_after=0.01), times=1)
    with adapter_of(provider) as adapter:
        if mode == "sync":
            adapter.execute_prompt(PROMPT)
        else:
            asyncio.run(adapter.async_execute_prompt(PROMPT))
    (record,) = records_of(caplog, log.RETRIED)
    assert (record.llm_error, record.llm_status, record.llm_attempt) == ("LLMAPIError", 503, 1)  # type: ignore[attr-defined]


def test_a_clamp_and_a_cut_are_told(provider: EmbeddedProvider, caplog: pytest.LogCaptureFixture) -> None:
    """A reduced output limit is logged, and so is an answer that ended at it. (CALL-42)"""
    provider.script(Behaviour(finish_reason="length"))
    tracker = BudgetTracker(total=2_500)
    config = RunConfig(budget_tracker=tracker, when_short="clamp", clamp_floor=5, max_tokens=50_000)
    with adapter_of(provider) as adapter:
        response = adapter.execute_prompt(PROMPT, config)
    assert response.finish_reason == "length"
    (clamped,), (cut,) = records_of(caplog, log.CLAMPED), records_of(caplog, log.CUT)
    assert clamped.llm_asked == 50_000  # type: ignore[attr-defined]
    assert clamped.llm_max_tokens == cut.llm_max_tokens < 500  # type: ignore[attr-defined]


def test_a_limit_of_the_callers_own_is_no_cut(provider: EmbeddedProvider, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that ended at the caller's own limit is not logged. (CALL-42)"""
    with adapter_of(provider) as adapter:
        config = RunConfig(budget_tracker=BudgetTracker(total=9_000), max_tokens=3)
        assert adapter.execute_prompt(PROMPT, config).finish_reason == "length"
        assert adapter.execute_prompt(PROMPT, RunConfig(max_tokens=3)).finish_reason == "length"
    assert records_of(caplog, log.CUT) == records_of(caplog, log.CLAMPED) == []


def test_fields_never_collide_with_those_of_a_record() -> None:
    """All fields begin with `llm_`, and no attribute of a log record does. (CALL-42)"""
    assert not any(name.startswith("llm_") for name in vars(logging.makeLogRecord({})))
    assert len(EVENTS) == len({event.name for event in EVENTS}) == 22


def test_the_documented_events_are_these() -> None:
    """docs/logging.md has a row for each event, with its level. (CALL-42)"""
    document = Path(__file__).parents[2] / "docs" / "logging.md"
    rows = re.findall(r"^\| `(\w+)` \| ([A-Z]+) \|", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(event.name, logging.getLevelName(event.level)) for event in EVENTS]


QUIET = """
from llm_connect import BudgetTracker, LLMBudgetExceededError
tracker = BudgetTracker(total=100)
with tracker.reserve(50) as hold:
    hold.dispatch()
try:
    tracker.reserve(500)
except LLMBudgetExceededError:
    pass
"""


def test_by_default_nothing_is_printed() -> None:
    """A program that does not set up logging prints nothing. (CALL-42)"""
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_while_nobody_listens_nothing_is_put_together(caplog: pytest.LogCaptureFixture) -> None:
    """An event below the logger's level costs one check of that level. (CALL-42)"""
    caplog.set_level(logging.ERROR, logger="llm_connect")
    with BudgetTracker(total=100).reserve(50) as hold:
        hold.dispatch()
    assert caplog.records == []


class Failing(logging.Handler):
    """A handler or filter of a user that raises `kind` for every record."""

    def __init__(self, kind: type[BaseException], seen: list[str]) -> None:
        super().__init__()
        self.kind, self.seen = kind, seen

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(getattr(record, "llm_event", record.getMessage()))
        raise self.kind("the handler")


@pytest.fixture
def failing() -> Iterator[Callable[[type[BaseException], str], list[str]]]:
    """Makes the log fail, and returns the records that it was given."""
    logger, added = logging.getLogger("llm_connect"), list[Failing]()

    def fail(kind: type[BaseException], where: str = "handler") -> list[str]:
        seen = list[str]()
        added.append(Failing(kind, seen))
        if where == "handler":
            logger.addHandler(added[-1])
        else:
            logger.addFilter(added[-1].emit)  # type: ignore[arg-type]
        return seen

    yield fail
    for handler in added:
        logger.removeHandler(handler)
        logger.removeFilter(handler.emit)  # type: ignore[arg-type]
    log.stray.clear()


MODES: dict[str, Callable[[Any, RunConfig], str]] = {
    "sync": lambda adapter, config: adapter.execute_prompt(PROMPT, config).content,
    "async": lambda adapter, config: asyncio.run(adapter.async_execute_prompt(PROMPT, config)).content,
    "stream": lambda adapter, config: "".join(chunk.text for chunk in adapter.stream_prompt(PROMPT, config)),
    "async stream": lambda adapter, config: asyncio.run(_streamed(adapter, config)),
}


async def _streamed(adapter: Any, config: RunConfig) -> str:
    async with adapter.async_stream_prompt(PROMPT, config) as stream:
        return "".join([chunk.text async for chunk in stream])


#: Behaviours of the provider, by the log event that each of them causes.
ANSWERS = {
    "presumed": Behaviour(usage="zero"),
    "overrun": Behaviour(hidden_prompt_tokens=8_000),
    "cut": Behaviour(finish_reason="length"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("event", ANSWERS)
@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_handler_that_raises_takes_no_answer_away(
    provider: EmbeddedProvider, failing: Any, kind: type[BaseException], event: str, mode: str
) -> None:
    """The answer comes, the hold ends, and an exit waits for the next call, which sends nothing. (BUDGET-74)"""
    seen = failing(kind)
    provider.script(ANSWERS[event])
    tracker = BudgetTracker(total=9_000)
    config = RunConfig(budget_tracker=tracker, max_tokens=None if event == "cut" else 50, max_retries=0)
    adapter = adapter_of(provider)
    assert MODES[mode](adapter, config)
    assert event in seen
    assert (tracker.held, len(provider.requests)) == (0, 1)
    if kind is SystemExit:
        with pytest.raises(SystemExit, match="the handler"):
            MODES[mode](adapter, config)
        assert (tracker.held, len(provider.requests)) == (0, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["handler", "filter"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError, MemoryError])
def test_a_metered_adapter_keeps_its_answer(failing: Any, kind: type[BaseException], where: str, mode: str) -> None:
    """The same holds for adapters that the base class meters, and for filters. (BUDGET-74)"""
    seen = failing(kind, where)
    tracker = BudgetTracker(total=1_000)
    adapter = MockLLMAdapter("done", prompt_tokens=0, completion_tokens=0)
    config = RunConfig(budget_tracker=tracker, max_tokens=50)
    assert MODES[mode](adapter, config) == "done"
    assert "presumed" in seen
    assert tracker.held == 0
    if kind is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt, match="the handler"):
            tracker.record(1)
    tracker.record(1)


def test_an_exit_of_the_log_without_a_budget_waits_for_the_next_call(provider: EmbeddedProvider, failing: Any) -> None:
    """The exit of a handler for a retry reaches the next call, with or without a budget. (BUDGET-74)"""
    seen = failing(SystemExit)
    adapter, tracker = adapter_of(provider), BudgetTracker()
    later: list[Callable[[], object]] = [lambda: adapter.execute_prompt(PROMPT), lambda: tracker.reserve(1)]
    for call in later:
        provider.script(Behaviour(status=503, retry_after=0.01), times=1)
        assert adapter.execute_prompt(PROMPT).content
        assert seen == ["retried"]
        with pytest.raises(SystemExit, match="the handler"):
            call()
        seen.clear()
    assert adapter.execute_prompt(PROMPT).content


def test_a_refusal_stays_a_refusal(failing: Any) -> None:
    """An exception of a handler does not replace the error for the caller. (BUDGET-74)"""
    for kind in (ValueError, SystemExit):
        failing(kind)
        with pytest.raises(LLMBudgetExceededError):
            BudgetTracker(total=10).reserve(11)
        with pytest.raises(LLMBudgetExceededError):
            BudgetTracker(total=10, strict=True).reserve(1)
        log.stray.clear()


def test_a_sink_that_fails_beside_a_handler_that_fails(failing: Any) -> None:
    """The error of a callback is logged; a failure of that log line affects no call. (BUDGET-74)"""

    def fail(_: object) -> None:
        raise ValueError

    failing(ValueError)
    tracker = BudgetTracker(total=100, sink=fail)
    assert tracker.record(5).amount.tokens == 5
    tracker.child("c")
    tracker.child("c")
    assert tracker.spent == 5


async def test_the_worker_of_a_store_outlives_the_log(tmp_path: Path, failing: Any) -> None:
    """The worker goes on if a log line fails. (BUDGET-74)"""
    failing(SystemExit)
    tracker = open_budget(f"sqlite:///{tmp_path}/budget.db", total=1_000)
    for _ in range(3):
        hold = await tracker.areserve(10)
        await hold.adispatch()
        tracker.gate.worker._jobs.put(_broken)  # type: ignore[union-attr]
        hold.settle(5)
        await hold.abooked()
        log.stray.clear()
    assert (await tracker.asnapshot()).spent.tokens == 15
    tracker.close()


def _broken() -> None:
    raise ValueError
