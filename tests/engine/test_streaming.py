"""The call path of a stream, through an adapter whose transport is a script, with a fault at every line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from llm_connect import (
    BudgetTracker,
    LLMAdapter,
    LLMError,
    LLMTimeoutError,
    OpenRouterAdapter,
    RunConfig,
    TextChunk,
)
from llm_connect.engine import deadline as deadlines
from llm_connect.engine import exchange
from llm_connect.engine.concurrency_limit import TakeSlot, Turn
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.exchange import Close, Next, Open, Pause
from llm_connect.engine.http_stream import AsyncHttpStream, HttpStream
from llm_connect.interface.streams import Leave, abandon
from llm_connect.protocols.wire import Failure
from tests.budget.budget_helpers import come_to_rest
from tests.engine.test_faults import Fault, Injector

HEAD = {"x-request-id": "r1"}
TEXT = b'data: {"model": "m-1", "choices": [{"delta": {"content": "hi"}}]}\n\n'
MORE = b'data: {"choices": [{"delta": {"content": " you"}}]}\n\n'
FINISH = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'
DONE = b"data: [DONE]\n\n"
GOOD = (TEXT, MORE, FINISH + USAGE, DONE)
BILL = 5


class Opened:
    """An open reply: its next bytes, or what its next read raises; remembers whether it was closed."""

    def __init__(self, status: int, *pieces: Any) -> None:
        self.status, self.headers = status, HEAD
        self.pieces = list(pieces)
        self.closed = 0

    def read(self, deadline: Deadline) -> bytes:
        piece = self.pieces.pop(0) if self.pieces else b""
        if piece is OSError:
            raise OSError
        return piece  # type: ignore[no-any-return]

    async def aread(self) -> bytes:
        await asyncio.sleep(0)
        return self.read(Deadline.after(1))

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1

    def abandon(self) -> None:
        self.closed += 1


class Scripted(OpenRouterAdapter):
    """Each attempt opens the next of these replies, or raises it."""

    marks_sent = False

    def __init__(self, *replies: Any) -> None:
        super().__init__(api_key="sk-or-0123456789", model="gpt-4.1-mini")
        self.replies = list(replies)
        self.opened: list[Any] = []

    def open(self, request: Any, deadline: Deadline) -> Any:
        self.opened.append(self.replies.pop(0))
        if self.opened[-1] is OSError:
            # A new one, because an exception that is kept keeps the frames that it has passed.
            raise OSError
        return self.opened[-1]

    async def aopen(self, request: Any, deadline: Deadline) -> Any:
        await asyncio.sleep(0)
        return self.open(request, deadline)

    def transport_failure(self, error: Exception) -> Failure:
        return Failure(kind=LLMError, message=type(error).__name__, retryable=isinstance(error, OSError))


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    return RunConfig(**{"budget_tracker": tracker, "max_tokens": 60, "max_retries": 1, **fields})


def run_sync(adapter: LLMAdapter, config: RunConfig, count: int = 99) -> Any:
    seen = []
    with adapter.stream_prompt("hello", config) as stream:
        for chunk in stream:
            seen.append(chunk)
            if len(seen) == count:
                break
    return stream, seen


def run_async(adapter: LLMAdapter, config: RunConfig, count: int = 99) -> Any:
    async def main() -> Any:
        seen = []
        async with adapter.async_stream_prompt("hello", config) as stream:
            async for chunk in stream:
                seen.append(chunk)
                if len(seen) == count:
                    break
        return stream, seen

    return asyncio.run(main())


Run = Callable[..., Any]
both = pytest.mark.parametrize("run", [run_sync, run_async])


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FIRST_PAUSE_SECONDS", 0.001)


CASES: dict[str, Callable[[], Scripted]] = {
    "good": lambda: Scripted(Opened(200, *GOOD)),
    "retried": lambda: Scripted(Opened(429, b"{}"), Opened(200, *GOOD)),
    "not opened": lambda: Scripted(OSError, Opened(200, *GOOD)),
    "broken": lambda: Scripted(Opened(200, TEXT, OSError)),
    "without an end": lambda: Scripted(Opened(200, TEXT, MORE)),
    "an error": lambda: Scripted(Opened(200, TEXT, b'data: {"error": {"code": 502}}\n\n')),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [1, 99])
def test_both_forms_do_the_same(case: str, count: int) -> None:
    """The same chunks, response, error, entries and closed replies in a thread and in a loop. (CALL-1, STREAM-2)"""
    found = []
    for run in (run_sync, run_async):
        adapter, tracker = CASES[case](), BudgetTracker(10_000)
        try:
            stream, seen = run(adapter, config_of(tracker), count)
            shown: Any = (stream.text, stream.response.usage, stream.response.finish_reason, seen)
        except LLMError as error:
            shown = (type(error), str(error), error.attempts, error.maybe_billed, error.booked)
        entries = [(entry.outcome, entry.amount) for entry in tracker.ledger]
        closed = [getattr(reply, "closed", None) for reply in adapter.opened]
        assert set(closed) <= {1, None}
        assert tracker.held == 0
        found.append((shown, entries, closed))
    assert found[0] == found[1]


def check_after_a_fault(tracker: BudgetTracker, adapter: Scripted, where: str) -> None:
    """Nothing is held, what was opened is closed, and the books cover what was sent."""
    come_to_rest(tracker)
    assert (tracker.held, tracker.held_calls) == (0, 0), where
    billed = sum(isinstance(reply, Opened) and reply.status == 200 for reply in adapter.opened)
    assert tracker.spent >= BILL * billed, where


@pytest.mark.in_memory_only
@pytest.mark.slow
@pytest.mark.scales
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [1, 99])
def test_a_fault_at_any_line_leaves_nothing_held(case: str, count: int, nightly: bool) -> None:
    """Raised at any line of the path of a stream, it leaves no hold, and books that cover what was sent.

    By day, at every third line. (BUDGET-3, STREAM-4)
    """
    counter = Injector(None)
    with counter, suppress(LLMError):
        run_sync(CASES[case](), config_of(BudgetTracker(10_000)), count)
    assert counter.lines > 60
    for line in range(1, counter.lines + 1, 1 if nightly else 3):
        tracker, adapter = BudgetTracker(10_000), CASES[case]()
        with Injector(line), suppress(LLMError, Fault):
            run_sync(adapter, config_of(tracker), count)
        check_after_a_fault(tracker, adapter, f"at line {line}")


class AtStep:
    """Raises a fault before or after the n-th step that is run, in whichever form."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after, self.steps = at, after, 0

    def wrap(self, kind: type[Any], patch: pytest.MonkeyPatch) -> None:
        run, arun = kind.run, kind.arun

        def run_here(step: Any) -> Any:
            self.pass_by(after=False)
            result = run(step)
            self.pass_by(after=True)
            return result

        async def run_there(step: Any) -> Any:
            self.pass_by(after=False)
            result = await arun(step)
            self.pass_by(after=True)
            return result

        patch.setattr(kind, "run", run_here)
        patch.setattr(kind, "arun", run_there)

    def pass_by(self, *, after: bool) -> None:
        self.steps += not after
        if self.steps == self.at and after is self.after:
            raise Fault


@both
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("after", [False, True])
def test_a_fault_at_any_step_leaves_nothing_held(run: Run, case: str, after: bool) -> None:
    """Raised by any step of a stream, before or after it is done, it leaves no hold. (BUDGET-3, STREAM-4)"""
    check_every_step(run, lambda: (CASES[case](), config_of(BudgetTracker(10_000))), after=after)


def check_every_step(run: Run, made: Callable[[], tuple[Scripted, RunConfig]], *, after: bool) -> None:
    """Fail at each step of a stream once, with an adapter and a config that are made for it."""
    for at in range(1, 20):
        (adapter, config), injector = made(), AtStep(at, after=after)
        with pytest.MonkeyPatch.context() as patch, suppress(LLMError, Fault):
            for kind in (TakeSlot, Open, Next, Close, Pause):
                injector.wrap(kind, patch)
            run(adapter, config)
        assert config.budget_tracker is not None
        check_after_a_fault(config.budget_tracker, adapter, f"at step {at}")
        if injector.steps < at:
            return
    raise AssertionError("there are more steps than were tried")


@both
def test_the_providers_name_for_a_broken_stream_is_told(run: Run) -> None:
    """Its request id is that of the headers that had come. (ERROR-3, STREAM-7)"""
    with pytest.raises(LLMError) as caught:
        run(Scripted(Opened(200, TEXT, OSError)), config_of(BudgetTracker(10_000)))
    assert caught.value.request_id == "r1"


@both
def test_a_reply_that_is_not_streamed_comes_as_one_text(run: Run) -> None:
    """Some servers do not know the parameter. (STREAM-1)"""
    body = b'{"choices": [{"message": {"content": "hi you"}, "finish_reason": "stop"}]}'
    stream, seen = run(Scripted(Opened(200, body[:20], body[20:])), RunConfig())
    assert seen[0] == TextChunk("hi you")
    assert stream.response.content == "hi you"


@both
def test_an_error_while_closing_is_nobodys(run: Run) -> None:
    """What goes wrong with a connection that is no longer wanted does not reach the caller. (STREAM-4)"""

    class Stubborn(Opened):
        def close(self) -> None:
            raise OSError

        async def aclose(self) -> None:
            raise OSError

    stream, _ = run(Scripted(Stubborn(200, *GOOD)), RunConfig())
    assert stream.text == "hi you"


@both
def test_no_place_in_time_sends_nothing(run: Run) -> None:
    """As in a call. (CALL-7)"""
    adapter, tracker = Scripted(Opened(200, *GOOD)), BudgetTracker(10_000)
    adapter.slots.__init__(1)  # type: ignore[misc]
    if run is run_sync:
        adapter.slots.take(Turn(20))
        with pytest.raises(LLMError, match="no concurrency slot"):
            run(adapter, config_of(tracker, max_queue_seconds=0.2))
    assert (tracker.held, tracker.spent) == (0, 0)


@pytest.mark.in_memory_only
def test_a_coroutine_that_is_closed_while_it_waits_lets_go() -> None:
    """Nothing can be awaited then: the reply is abandoned, and the hold ended. (STREAM-4)"""

    class Waiting(Opened):
        async def aread(self) -> bytes:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    reply, tracker = Waiting(200), BudgetTracker(10_000)
    adapter = Scripted(reply)
    stream = adapter.async_stream_prompt("hello", config_of(tracker))

    async def main() -> None:
        waiting = stream._chunks.asend(None)
        while not asyncio.isfuture(waiting.send(None)):
            pass
        with suppress(GeneratorExit):
            waiting.throw(GeneratorExit())

    asyncio.run(main())
    assert (reply.closed, tracker.held) == (1, 0)
    assert [entry.outcome for entry in tracker.ledger] == ["presumed"]


def test_an_abandoned_flow_takes_no_step_but_to_let_go() -> None:
    """The first step that is none ends it; one that has ended stays ended. (STREAM-4)"""
    left: list[str] = []
    reply = Opened(200)

    def flow() -> Any:
        try:
            yield [TextChunk("x")]
        finally:
            left.append("left")
            yield Close(reply)

    running = flow()
    next(running)
    abandon(running)
    abandon(running)
    assert (left, reply.closed) == (["left"], 1)
    with pytest.raises(Leave):
        flow().throw(Leave())


async def test_an_empty_piece_is_not_the_end() -> None:
    """A decoder that has nothing to give yet does not end the stream, in either form. (STREAM-1)"""

    class Response:
        status_code, headers = 200, httpx2.Headers()

        def iter_bytes(self) -> Iterator[bytes]:
            yield from (b"", b"x")

        async def aiter_bytes(self) -> AsyncIterator[bytes]:
            for piece in self.iter_bytes():
                yield piece

    reply, areply = HttpStream(Response()), AsyncHttpStream(Response())  # type: ignore[arg-type]
    assert [reply.read(Deadline.after(9)) for _ in range(2)] == [b"x", b""]
    assert [await areply.aread() for _ in range(2)] == [b"x", b""]


#: More events than are read in one go.
MUCH = TEXT * 1_200


@both
def test_all_that_comes_at_once_is_read(run: Run) -> None:
    """A piece with many events is read in several goes, and no text of it is lost. (STREAM-1)"""
    stream, seen = run(Scripted(Opened(200, MUCH + FINISH + USAGE + DONE)), RunConfig(), 9_999)
    assert seen[:1_200] == [TextChunk("hi")] * 1_200
    assert (stream.text, stream.response.finish_reason) == ("hi" * 1_200, "stop")


@both
def test_the_deadline_holds_between_the_goes_of_one_piece(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is late does not read on what has come: its bound is booked, and the text so far told. (STREAM-3)"""
    now = deadlines.time.monotonic

    class Late(Opened):
        def read(self, deadline: Deadline) -> bytes:
            monkeypatch.setattr(deadlines, "time", SimpleNamespace(monotonic=lambda: now() + 10_000))
            return super().read(deadline)

    tracker, reply = BudgetTracker(10_000), Late(200, MUCH, FINISH)
    with pytest.raises(LLMTimeoutError, match="timeout_seconds is over") as caught:
        run(Scripted(reply), config_of(tracker), 9_999)
    assert caught.value.response is not None
    assert "hi" * 100 in caught.value.response.content != "hi" * 1_200
    assert ([entry.outcome for entry in tracker.ledger], reply.closed) == (["presumed"], 1)


@both
def test_a_text_beyond_the_limit_ends_the_stream(run: Run) -> None:
    """Its characters count over all events, what was written is presumed, and the connection closes. (CALL-43)"""
    tracker, reply = BudgetTracker(10_000), Opened(200, TEXT, MORE, FINISH + USAGE, DONE)
    adapter = Scripted(reply)
    adapter.max_reply_bytes = len("hi you")
    assert run(adapter, config_of(tracker))[0].text == "hi you"
    adapter.replies.append(again := Opened(200, TEXT, MORE, FINISH + USAGE, DONE))
    adapter.max_reply_bytes -= 1
    with pytest.raises(LLMError, match="longer than max_reply_bytes") as caught:
        run(adapter, config_of(tracker))
    assert caught.value.response is not None
    assert caught.value.response.content == "hi"
    assert [entry.outcome for entry in tracker.ledger] == ["settled", "presumed"]
    assert (reply.closed, again.closed) == (1, 1)
