"""The open holds of the current task or thread.

A caller may overtake waiters that its own holds block, and the error after a wait for its own holds says so.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextvars import ContextVar

from llm_connect.budget.admission.holds import Hold

#: Above this number of holds, ended ones are removed: in batches, because one removal costs as much as one hold.
_FEW = 32
_running_loop = asyncio._get_running_loop


class _Caller:
    """An identity for one thread: unlike the id of a thread, it is never reused."""

    __slots__ = ("__weakref__",)


class _Here(threading.local):
    def __init__(self) -> None:
        self.caller = _Caller()


_here = _Here()


class _Own:
    """The holds of one caller that may still be open; the references are weak, so that a lost hold is noticed."""

    __slots__ = ("caller", "most", "refs")

    def __init__(self, caller: object) -> None:
        #: The task, or the `_Caller` of the thread; weak, because their contexts refer to this object.
        self.caller = weakref.ref(caller)
        self.refs: list[weakref.ref[Hold]] = []
        self.most = _FEW

    def forget_ended(self) -> list[weakref.ref[Hold]]:
        self.refs = [ref for ref in self.refs if (hold := ref()) is not None and not hold.ended]
        self.most = max(_FEW, 2 * len(self.refs))
        return self.refs


_own: ContextVar[_Own | None] = ContextVar("llm_connect_own_holds", default=None)


def own_holds() -> tuple[Hold, ...]:
    """The open holds that this task, or this thread outside of a loop, has reserved itself.

    A task inherits the context of the task that started it, but not its holds: the other task may end them meanwhile.
    """
    own = _own.get()
    if own is None or own.caller() is not _caller():
        return ()
    return tuple(hold for ref in own.refs if (hold := ref()) is not None and not hold.ended)


def remember_own(hold: Hold) -> None:
    """Add `hold` to the holds of the current task or thread."""
    own = _own.get()
    caller = _here.caller if _running_loop() is None else _caller()
    if own is None or own.caller() is not caller:
        own = _Own(caller)
        _own.set(own)
    refs = own.refs
    if len(refs) >= own.most:
        refs = own.forget_ended()
    refs.append(weakref.ref(hold))


def in_running_loop() -> bool:
    """True if this thread runs an event loop, which must not be blocked."""
    return _running_loop() is not None


def _caller() -> object:
    if _running_loop() is None:
        return _here.caller
    return asyncio.current_task() or _here.caller
