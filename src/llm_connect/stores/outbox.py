"""Callbacks about the bookings of a transaction, which run after its commit."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llm_connect._threads import DaemonThread
from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.log import CALLBACK_LATE, log_event
from llm_connect.stores.worker import WorkerThread


class StagedOutbox(Outbox):
    """An outbox that keeps callbacks back until their transaction is committed.

    The worker of a store never runs a callback itself. A callback that never returns would block the worker, the
    coroutines that wait for it and the renewal of the lease; a callback that waits for the worker would deadlock.
    """

    def __init__(self, patience: float) -> None:
        super().__init__()
        #: The time for which the worker waits for callbacks, so that quick ones run before the call returns.
        self._patience = patience
        self._staged: deque[tuple[Callable[[Any], object], Callable[[], Any], object]] = deque()
        #: The thread that was still running a callback when the worker stopped waiting for it.
        self._caller: threading.Thread | None = None

    def put(self, callback: Callable[[Any], object], argument: Callable[[], Any], about: object) -> None:
        self._staged.append((callback, argument, about))

    def has(self, about: object) -> bool:
        return super().has(about) or any(each is about for _, _, each in self._staged)

    def commit(self) -> None:
        """Release the staged callbacks."""
        while self._staged:
            # In this order, an interruption delivers it twice rather than never.
            self.calls.append(self._staged[0])
            self._staged.popleft()

    def roll_back(self) -> None:
        """Drop the staged callbacks: their step was undone."""
        self._staged.clear()

    def deliver(self) -> None:
        if not isinstance(threading.current_thread(), WorkerThread):
            super().deliver()
        elif self.calls:
            self._deliver_apart()

    def _deliver_apart(self) -> None:
        caller = DaemonThread(super().deliver, name="llm-connect callbacks")
        # If Python can start no more threads, the next operation runs the callbacks.
        with suppress(RuntimeError):
            caller.start()
            caller.join(self._patience)
            if caller.is_alive():
                self._caller = caller
                log_event(CALLBACK_LATE, self.owed, callback=self._first, seconds=self._patience)

    @property
    def _first(self) -> str:
        """The name of the callback that is running."""
        with suppress(IndexError):
            callback = self.calls[0][0]
            return getattr(callback, "__qualname__", type(callback).__name__)
        return "(over by now)"

    def wait(self, seconds: float) -> None:
        """Wait for callbacks that the worker has stopped waiting for, for at most `seconds`."""
        caller = self._caller
        if caller is not None:
            caller.join(seconds)

    def leave_to_parent(self) -> None:
        """Drop all callbacks in a forked process: they belong to the parent, like the thread that runs one."""
        self._delivering, self._caller = TreeLock(), None
        self.calls.clear()
        self._staged.clear()
