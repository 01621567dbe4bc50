"""Raises an exception in the library at every instruction where Python itself can raise one.

Python looks for signals, and for exceptions that another thread has set, at the start of a function, at a backward jump
and after a call. So the points are these instructions, and those that follow a call. From Python 3.12 on,
`sys.monitoring` reports them; before, `sys.settrace` does.
"""

from __future__ import annotations

import dis
import itertools
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any

import llm_connect

_HOME = llm_connect.__path__[0]
_CALLS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW"}
_RAISING = {"RESUME", "JUMP_BACKWARD"} | _CALLS
#: With these Python handles an exception. One that a tracer raises there makes it lose a reference to the handled one.
_HANDLING = {"PUSH_EXC_INFO", "COPY", "POP_EXCEPT", "RERAISE"}
_TOOL = 4
#: The number of an entry into a function of the library, and of a point in it; with `sys.monitoring`, 0 and of a point.
Point = tuple[int, int]


class Fault(BaseException):
    """The injected exception, which nothing in the library knows."""


@cache
def points_of(code: CodeType, *, everywhere: bool = False) -> frozenset[int]:
    """The offsets at which to raise in `code`; none in code outside of the library."""
    if not code.co_filename.startswith(_HOME):
        return frozenset()
    found, behind = set(), False
    for each in dis.get_instructions(code):
        if each.opname in {"CACHE", "EXTENDED_ARG"}:
            continue
        if behind or each.opname in _RAISING or (everywhere and each.opname not in _HANDLING):
            found.add(each.offset)
        behind = each.opname in _CALLS
    return frozenset(found)


@cache
def _entries(code: CodeType) -> tuple[int, ...]:
    return tuple(each.offset for each in dis.get_instructions(code) if each.opname == "RESUME")


class Injector:
    """Notes all points that are reached, or raises at one of them.

    `sys.settrace` is slow, so a run that raises traces only the one function in which it does.
    """

    def __init__(
        self, at: Point | None = None, error: type[BaseException] = Fault, *, everywhere: bool = False
    ) -> None:
        self.met: list[Point] = []
        self.raised = ""
        self._at = at
        self._error = error
        self._everywhere = everywhere
        self._entry = 0

    def run(self, act: Callable[[], Any]) -> None:
        """Do `act`, and raise the exception in it."""
        (self._run_monitored if hasattr(sys, "monitoring") else self._run_traced)(act)

    def _meet(self, point: Point, code: CodeType, offset: int) -> None:
        if self._at is None:
            self.met.append(point)
        elif point == self._at:
            self.raised = f"{code.co_filename.removeprefix(_HOME)}:{code.co_qualname}+{offset}"
            raise self._error("injected")

    def _run_traced(self, act: Callable[[], Any]) -> None:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            act()
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, _: str, __: Any) -> Any:
        code = frame.f_code
        points = points_of(code, everywhere=self._everywhere)
        if not points:
            return None
        self._entry += 1
        entry = self._entry
        if self._at is not None and self._at[0] != entry:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        numbers = itertools.count()

        def reach(frame: FrameType, event: str, _: Any) -> Any:
            if event == "opcode" and frame.f_lasti in points:
                self._meet((entry, next(numbers)), code, frame.f_lasti)
            return reach

        # `RESUME` itself causes no event.
        if (start := next(iter(_entries(code)), -1)) in points:
            self._meet((entry, next(numbers)), code, start)
        return reach

    def _run_monitored(self, act: Callable[[], Any]) -> None:
        import threading

        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        thread, instruction = threading.get_ident(), monitoring.events.INSTRUCTION
        numbers = itertools.count()
        on = True

        def meet(code: CodeType, offset: int) -> Any:
            if offset not in points_of(code, everywhere=self._everywhere):
                return monitoring.DISABLE
            if threading.get_ident() == thread and on:
                self._meet((0, next(numbers)), code, offset)
            return None

        monitoring.use_tool_id(_TOOL, "faults")
        monitoring.register_callback(_TOOL, instruction, meet)
        monitoring.set_events(_TOOL, instruction)
        try:
            act()
        finally:
            on = False
            monitoring.set_events(_TOOL, 0)
            monitoring.register_callback(_TOOL, instruction, None)
            monitoring.free_tool_id(_TOOL)
