"""Handles the budgets in stores when this process ends, or is forked."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol


class Leaving(Protocol):
    """A session that is told."""

    def shut(self) -> None:
        """The process ends."""
        ...

    def leave_to_parent(self) -> None:
        """This process is a fork of the one that the session was made in."""
        ...


_sessions: weakref.WeakSet[Leaving] = weakref.WeakSet()
#: To close one in a fork would let go locks that its parent has.
_of_parents: list[object] = []


def look_after(session: Leaving) -> None:
    """Tell `session` when this process ends, or is forked."""
    _sessions.add(session)


def keep_for_parent(connection: object) -> None:
    """Never close a connection of the process that this one was forked from."""
    _of_parents.append(connection)


def _ending() -> None:
    for session in list(_sessions):
        session.shut()


def _forked() -> None:
    for session in list(_sessions):
        session.leave_to_parent()


atexit.register(_ending)
# There is no fork on Windows.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
