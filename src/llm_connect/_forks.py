"""Detection of objects that were made before a fork, and their treatment in the child process."""

from __future__ import annotations

import os
import threading
from typing import Any

from llm_connect.errors import LLMConfigurationError

#: The number of forks between the first process and this one; a child's number differs from its parent's.
generation: int = 0


def check(made_in: int) -> None:
    """Raise LLMConfigurationError if this process is a fork of the one whose generation was `made_in`."""
    if made_in != generation:
        raise LLMConfigurationError(
            "This budget was made before os.fork, and using it here would double it: "
            "make a BudgetTracker with a share of the limit in each process, or open one in a store with open_budget."
        )


def keep_for_parent(*things: Any) -> None:
    """Keep these objects alive even when this process exits: their connections belong to its parent."""
    from ctypes import py_object, pythonapi

    pythonapi.Py_IncRef(py_object(things))


class ForkLock:
    """A reentrant lock that is free in a forked process, even if a thread of the parent held it."""

    def __init__(self) -> None:
        self._locks: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._locks.setdefault(generation, threading.RLock()).acquire()

    def __exit__(self, *_: object) -> None:
        self._locks[generation].release()


def _forked() -> None:
    global generation
    generation += 1


# Windows has no fork, and no `register_at_fork`.
getattr(os, "register_at_fork", dict)(after_in_child=_forked)
