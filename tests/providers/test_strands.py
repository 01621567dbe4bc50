"""Strands: generators that wait for sockets side by side, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest

from llm_connect.engine.deadline import Deadline
from llm_connect.providers.strands import READ, WRITE, Strand, Strands

Pair = tuple[socket.socket, socket.socket]
Run = Callable[[Strands, Callable[[], bool]], None]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


def run_sync(strands: Strands, done: Callable[[], bool]) -> None:
    strands.run(done, Deadline.after(20))


def run_async(strands: Strands, done: Callable[[], bool]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await strands.arun(done)

    asyncio.run(main())


@pytest.fixture(params=[run_sync, run_async], ids=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param  # type: ignore[no-any-return]


def test_strands_take_turns(run: Run, pair: Pair) -> None:
    """Two strands that talk to each other both come to their end, in a thread and in a loop. (CALL-1)"""
    heard: list[bytes] = []

    def talk(connection: socket.socket, words: list[bytes], begins: bool) -> Strand:
        for word in words:
            if begins:
                connection.send(word)
            yield ((connection, READ),)
            heard.append(connection.recv(10))
            if not begins:
                connection.send(word)

    with Strands() as strands:
        strands.start(talk(pair[0], [b"a", b"b", b"c"], True))
        strands.start(talk(pair[1], [b"A", b"B", b"C"], False))
        run(strands, lambda: len(heard) == 6)
    assert heard == [b"a", b"A", b"b", b"B", b"c", b"C"]


def test_what_a_strand_raises_ends_the_run_and_closes_the_others(run: Run, pair: Pair) -> None:
    """The error comes out as it is, and the `with` block closes every strand that still waits."""
    closed: list[bool] = []

    def fails() -> Strand:
        yield ((pair[0], WRITE),)
        raise LookupError

    def waits() -> Strand:
        try:
            yield ((pair[1], READ),)
        finally:
            closed.append(True)

    with Strands() as strands:
        strands.start(waits())
        strands.start(fails())
        with pytest.raises(LookupError):
            run(strands, lambda: False)
    assert closed == [True]


def test_several_files_are_waited_for_at_once(run: Run, pair: Pair) -> None:
    """The first of them that is ready wakes the strand, once."""
    woken: list[int] = []

    def either() -> Strand:
        yield ((pair[0], READ), (pair[1], WRITE))
        woken.append(1)

    with Strands() as strands:
        strands.start(either())
        run(strands, lambda: bool(woken))
    assert woken == [1]


def test_a_file_that_is_always_ready_does_not_stretch_the_deadline(pair: Pair) -> None:
    """A strand that never has to wait is ended by the deadline all the same. (CALL-2)"""

    def busy() -> Strand:
        while True:
            yield ((pair[0], WRITE),)

    with Strands() as strands:
        strands.start(busy())
        with pytest.raises(TimeoutError):
            strands.run(lambda: False, Deadline.after(0.2))


def test_a_loop_that_is_gone_needs_no_farewell(pair: Pair) -> None:
    """A run whose loop was closed under it can still be closed, and closes its strands. (PROVIDER-13)"""
    closed: list[bool] = []

    def waits() -> Strand:
        try:
            yield ((pair[0], READ),)
        finally:
            closed.append(True)

    async def call() -> None:
        with Strands() as strands:
            strands.start(waits())
            await strands.arun(lambda: False)

    async def main() -> None:
        coroutine.send(None)

    coroutine = call()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    coroutine.close()
    assert closed == [True]
