"""Closes the sessions of this process at its end, and detaches them after a fork."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol


class Leaving(Protocol):
    """A session that must know when its process ends or forks."""

    def shut(self) -> None:
        """Close: the process ends."""
        ...

    def leave_to_parent(self) -> None:
        """Let go of everything that belongs to the parent: this process is its fork."""
        ...


_sessions: weakref.WeakSet[Leaving] = weakref.WeakSet()
#: Closing one of them in a fork would release locks of the parent.
_of_parents: list[object] = []


def look_after(session: Leaving) -> None:
    """Tell `session` when this process ends or forks."""
    _sessions.add(session)


def keep_for_parent(connection: object) -> None:
    """Keep a connection of the parent process open for ever."""
    _of_parents.append(connection)


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
