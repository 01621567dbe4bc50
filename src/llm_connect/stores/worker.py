"""The one thread of a store in a process: it does for coroutines what takes I/O, and looks after the store."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Job = Callable[[], Any]


class Attended(Protocol):
    """A gate that its worker looks after."""

    def tick(self) -> float:
        """Do what is due; seconds after which to come again. It raises nothing."""
        ...


class StoreWorker:
    """Does jobs in the order in which they came, in a daemon thread that ends with its gate."""

    def __init__(self, gate: Attended) -> None:
        self._gate = weakref.ref(gate)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def start(self) -> None:
        """Begin to look after the gate; nothing when it is running."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_work, args=(self._jobs, self._gate), name="llm-connect store", daemon=True
                )
                self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def put(self, job: Job) -> None:
        """Do `job` soon; may be called by a finalizer."""
        self._jobs.put(job)

    async def run(self, operation: Callable[..., T], *args: Any) -> T:
        """What `operation` comes to. Cancelled, it is not begun, or what it gives is dropped."""
        self.start()
        future: Future[T] = Future()
        self._jobs.put(partial(_fulfil, future, operation, args))
        try:
            return await asyncio.wrap_future(future)
        finally:
            # The traceback of a cancellation keeps this frame, which must not keep a hold that nobody takes.
            del future

    def put_end(self) -> None:
        """End the thread once the jobs of before are done."""
        self._jobs.put(None)

    def stop(self, patience: float) -> None:
        """End the thread once the jobs of before are done, for at most so many seconds."""
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            if thread is not threading.current_thread():
                thread.join(patience)


def _fulfil(future: Future[Any], operation: Callable[..., Any], args: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = operation(*args)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _work(jobs: SimpleQueue[Job | None], attended: weakref.ref[Attended]) -> None:
    pause = 0.0
    while True:
        job: Job | None = _nothing
        with suppress(Empty):
            job = jobs.get(timeout=pause)
        if job is None:
            return
        job()
        del job
        gate = attended()
        if gate is None:
            return
        pause = gate.tick()
        del gate


def _nothing() -> None:
    pass
