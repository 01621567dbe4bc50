"""Runs blocking work in threads that can be left behind: no call, event loop or interpreter waits for them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from weakref import ref

from llm_connect import _forks
from llm_connect._threads import DaemonThread

T = TypeVar("T")

_LONGEST_WAIT_BEFORE_FORK_SECONDS = 30.0


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Start `work` in a thread of its own."""
    future: Future[T] = Future()
    DaemonThread(_answer, args=(future, work), name="llm-connect").start()
    return future


async def known(future: Future[T]) -> T:
    """Await `future`. A cancellation lets the work go on."""
    if not future.done():
        there = asyncio.Event()
        # A future keeps its callbacks while the work goes on, and after it.
        future.add_done_callback(partial(_tell, ref(asyncio.get_running_loop()), ref(there)))
        await there.wait()
    return future.result()


class Once:
    """Does its work once for all threads and loops that ask at the same time, and once more after a failure."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: tuple[int, Future[Any]] | None = None

    def begin(self, work: Callable[[], None]) -> Future[None]:
        """Return the work that is under way, or start it."""
        with self._lock:
            if self._under_way is None or self._under_way[0] != _forks.generation or self._under_way[1].done():
                self._under_way = (_forks.generation, in_thread(partial(_unforked, work)))
            return self._under_way[1]


def _answer(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def _tell(loop: ref[asyncio.AbstractEventLoop], there: ref[asyncio.Event], _: Future[Any]) -> None:
    waiting_in, event = loop(), there()
    if waiting_in is not None and event is not None:
        # The loop may be closed by now.
        with suppress(RuntimeError):
            waiting_in.call_soon_threadsafe(event.set)


#: Work that must not overlap with a fork, by thread: the child would find its locks taken for ever.
_unfit_to_fork: dict[int, Future[None]] = {}


def _unforked(work: Callable[[], None]) -> None:
    ended: Future[None] = Future()
    _unfit_to_fork[threading.get_ident()] = ended
    try:
        work()
    finally:
        del _unfit_to_fork[threading.get_ident()]
        ended.set_result(None)


def _before_fork() -> None:
    others = [ended for thread, ended in list(_unfit_to_fork.items()) if thread != threading.get_ident()]
    wait(others, _LONGEST_WAIT_BEFORE_FORK_SECONDS)


if hasattr(os, "register_at_fork"):  # pragma: no branch - absent on Windows
    os.register_at_fork(before=_before_fork)
