"""Callbacks of what a transaction has booked: they are made once it is committed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llm_connect._threads import DaemonThread
from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.log import CALLBACK_LATE, tell
from llm_connect.stores.worker import WorkerThread


class StagedOutbox(Outbox):
    """An outbox whose calls are kept back until their transaction is committed.

    The worker of a store makes none itself. It would be kept by one that never returns, and with it the coroutines and
    the lease of its process; and one that waits for the worker would wait for ever.
    """

    def __init__(self, patience: float) -> None:
        super().__init__()
        #: The patience of a store's worker with callbacks, so that quick ones run before the call returns.
        self._patience = patience
        self._staged: deque[tuple[Callable[[Any], object], Callable[[], Any], object]] = deque()
        #: Still made a call when the worker stopped waiting for it.
        self._caller: threading.Thread | None = None

    def put(self, callback: Callable[[Any], object], argument: Callable[[], Any], about: object) -> None:
        self._staged.append((callback, argument, about))

    def has(self, about: object) -> bool:
        return super().has(about) or any(each is about for _, _, each in self._staged)

    def commit(self) -> None:
        """Release the staged calls."""
        while self._staged:
            # In this order: interrupted, it is delivered twice rather than never.
            self.calls.append(self._staged[0])
            self._staged.popleft()

    def roll_back(self) -> None:
        """Drop the staged calls: their step was undone."""
        self._staged.clear()

    def deliver(self) -> None:
        if not isinstance(threading.current_thread(), WorkerThread):
            super().deliver()
        elif self.calls:
            self._deliver_apart()

    def _deliver_apart(self) -> None:
        caller = DaemonThread(super().deliver, name="llm-connect callbacks")
        # Where no thread can be started any more, the next operation makes the calls.
        with suppress(RuntimeError):
            caller.start()
            caller.join(self._patience)
            if caller.is_alive():
                self._caller = caller
                tell(CALLBACK_LATE, self.owed, callback=self._first, seconds=self._patience)

    @property
    def _first(self) -> str:
        """The name of the callback that is running."""
        with suppress(IndexError):
            callback = self.calls[0][0]
            return getattr(callback, "__qualname__", type(callback).__name__)
        return "(over by now)"

    def wait(self, seconds: float) -> None:
        """Wait so many more seconds for callbacks that the worker has stopped waiting for."""
        caller = self._caller
        if caller is not None:
            caller.join(seconds)

    def leave_to_parent(self) -> None:
        """In a forked process: the calls are the parent's, and so is the thread that makes one."""
        self._delivering, self._caller = TreeLock(), None
        self.calls.clear()
        self._staged.clear()
