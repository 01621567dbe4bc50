"""Telling whether this process is a fork of the one in which an object was made, and what a fork does then."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any

from llm_connect.errors import LLMConfigurationError

#: A number that is another one in every forked process.
generation: int = 0


def check(made_in: int) -> None:
    """Raise LLMConfigurationError in a fork of the process in which the generation was `made_in`."""
    if made_in != generation:
        raise LLMConfigurationError(
            "This budget was made before os.fork: used here it would be a second budget of the same size. "
            "Make a BudgetTracker of its own in each process, with its share of the limit."
        )


def keep_for_parent(*things: Any) -> None:
    """Never let these end, not at the end of this process either: their connections are those of its parent."""
    from ctypes import py_object, pythonapi

    pythonapi.Py_IncRef(py_object(things))


class ForkLock:
    """A reentrant lock that a fork finds free, whichever thread of its parent had it."""

    def __init__(self) -> None:
        self._locks: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._locks.setdefault(generation, threading.RLock()).acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._locks[generation].release()


def _forked() -> None:
    global generation
    generation += 1


# There is no fork on Windows.
getattr(os, "register_at_fork", dict)(after_in_child=_forked)
