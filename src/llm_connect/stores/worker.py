"""The life of a session beside its callers: its thread and its callbacks, and the end and the forks of its process.

The thread does I/O on behalf of coroutines, and renews the lease.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from llm_connect._threads import DaemonThread, StartLock
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.log import CALLBACK_LATE, WORKER_FAILED, log_event
from llm_connect.budget.admission.wait_queue import Wakeup

#: The pause after a failure, and the interval in which a waiting coroutine checks that the thread lives.
_PAUSE_SECONDS = _WATCH_SECONDS = 1.0
T = TypeVar("T")
Job = Callable[[], Any]


class Attended(Protocol):
    """A session, which its worker attends, and which is told when its process ends or forks."""

    def tick(self) -> float:
        """Do the work that is due, and return the seconds until the next call. The worker logs its exceptions."""
        ...

    @property
    def idle(self) -> bool:
        """True if no more work will come."""
        ...

    def part(self) -> None:
        """Give back the thread and the connection."""
        ...

    def shut(self) -> None:
        """Close: the process ends."""
        ...

    def leave_to_parent(self) -> None:
        """Let go of everything that belongs to the parent: this process is its fork."""
        ...


#: A foreign exception can kill a thread as it starts, so `start` tries again.
_TRIES = 3


class WorkerThread(DaemonThread):
    """The thread of a session. Coroutines and the lease depend on it, so no foreign code may block it."""


class StoreWorker:
    """Does jobs in order of arrival, in a daemon thread that ends with its session."""

    def __init__(self, session: Attended) -> None:
        self._session = weakref.ref(session)
        self._jobs = Jobs()
        self._thread: threading.Thread | None = None
        self._starting = StartLock()

    def start(self) -> None:
        """Start the thread unless it runs."""
        if self.running:
            return
        lock = self._starting.take()
        try:
            for _ in range(_TRIES):
                if self.running:
                    return
                self._thread = WorkerThread(_work, args=(self._jobs, self._session), name="llm-connect store")
                self._thread.start()
        finally:
            lock.release()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def put(self, job: Job) -> None:
        """Queue a job. A finalizer may call this."""
        self._jobs.put(job)

    async def run(self, operation: Callable[..., T], *args: Any) -> T:
        """Return the result of `operation`. If cancelled, it does not start, or its result is dropped."""
        self.start()
        future: Future[T] = Future()
        self._jobs.put(partial(_fulfil, future, operation, args))
        watch = _Watch(self)
        try:
            return await asyncio.wrap_future(future)
        finally:
            watch.end()
            # The traceback of a cancellation keeps this frame alive, which must not keep a hold that nobody received.
            del future

    def put_end(self) -> None:
        """End the thread after the jobs that are already in the queue."""
        self._jobs.put(None)

    def stop(self, patience: float) -> None:
        """End the thread after the jobs in the queue; wait at most `patience` seconds for it."""
        lock = self._starting.take()
        try:
            thread, self._thread = self._thread, None
        finally:
            lock.release()
        if thread is not None:
            self._jobs.put(None)
            if thread is not threading.current_thread():
                thread.join(patience)


class _Watch:
    """Restarts a thread that has died while a coroutine waits for it."""

    def __init__(self, worker: StoreWorker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(_WATCH_SECONDS, self._look)

    def _look(self) -> None:
        self._worker.start()
        self._next = self._loop.call_later(_WATCH_SECONDS, self._look)

    def end(self) -> None:
        self._next.cancel()


def _fulfil(future: Future[Any], operation: Callable[..., Any], args: Any) -> None:
    if future.done() or not (future.running() or future.set_running_or_notify_cancel()):
        return
    try:
        result = operation(*args)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _work(jobs: Jobs, attended: weakref.ref[Attended]) -> None:
    pause: float | None = 0.0
    while pause is not None:
        try:
            pause = _do_next(jobs, attended, pause)
        except BaseException:
            # Another thread threw it into this one, or `tick` raised it. Others wait for this thread, so it continues.
            log_event(WORKER_FAILED)
            pause = _PAUSE_SECONDS


def _do_next(jobs: Jobs, attended: weakref.ref[Attended], pause: float) -> float | None:
    """Do the next job and the work that is due; return the seconds until the next call, or None at the end."""
    session = attended() if jobs.do_next(pause) else None
    if session is None:
        return None
    pause = session.tick()
    if session.idle:
        session.part()
    return pause


class Jobs:
    """Jobs in order of arrival. Each stays queued until it is done, so that none is lost when a thread dies."""

    def __init__(self) -> None:
        self._left: deque[Job | None] = deque()
        self._woken = Wakeup()

    def put(self, job: Job | None) -> None:
        """Add a job, or None for the end. A finalizer may call this."""
        self._left.append(job)
        self._woken.give()

    def do_next(self, seconds: float) -> bool:
        """Wait at most `seconds` for the next job and do it; return False at the end."""
        if not self._left:
            self._woken.sleep(seconds)
        job = self._left[0] if self._left else nothing
        try:
            if job is not None:
                job()
        except BaseException:
            log_event(WORKER_FAILED)
        if self._left and self._left[0] is job:
            self._left.popleft()
        return job is not None


def nothing() -> None:
    pass


class Courier:
    """Delivers the callbacks of a budget in a store, but never in the store's worker.

    A callback that never returns would block the worker, the coroutines that wait for it and the renewal of the lease;
    a callback that waits for the worker would deadlock.
    """

    def __init__(self, outbox: Outbox, patience: float) -> None:
        self._outbox = outbox
        #: The time for which the worker waits for callbacks, so that quick ones run before the call returns.
        self._patience = patience
        #: The thread that was still running a callback when the worker stopped waiting for it.
        self._caller: threading.Thread | None = None

    def deliver(self) -> None:
        """Run all queued callbacks."""
        if not isinstance(threading.current_thread(), WorkerThread):
            self._outbox.deliver()
        elif self._outbox.calls:
            self._deliver_apart()

    def _deliver_apart(self) -> None:
        caller = DaemonThread(self._outbox.deliver, name="llm-connect callbacks")
        # If Python can start no more threads, the next operation runs the callbacks.
        with suppress(RuntimeError):
            caller.start()
            caller.join(self._patience)
            if caller.is_alive():
                self._caller = caller
                log_event(CALLBACK_LATE, self._outbox.owed, callback=self._first, seconds=self._patience)

    @property
    def _first(self) -> str:
        """The name of the callback that is running."""
        with suppress(IndexError):
            callback = self._outbox.calls[0][0]
            return getattr(callback, "__qualname__", type(callback).__name__)
        return "(over by now)"

    def wait(self, seconds: float) -> None:
        """Wait for callbacks that the worker has stopped waiting for, for at most `seconds`."""
        caller = self._caller
        if caller is not None:
            caller.join(seconds)

    def leave_to_parent(self) -> None:
        """Drop all callbacks in a forked process: they belong to the parent, like the thread that runs one."""
        self._caller = None
        self._outbox.start_over()


_sessions: weakref.WeakSet[Attended] = weakref.WeakSet()


def look_after(session: Attended) -> None:
    """Tell `session` when this process ends or forks."""
    _sessions.add(session)


def _ending() -> None:
    for session in list(_sessions):
        session.shut()


def _forked() -> None:
    for session in list(_sessions):
        session.leave_to_parent()


atexit.register(_ending)
# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
