"""Tracebacks that would keep holds.

A hold that nobody refers to any more is lost, and the next operation ends it (`holds.py`). But an exception refers to
its traceback, and that to the frames of all functions that it has left, with their variables. An interruption between a
grant and the `return` to the caller would thus keep the hold as long as somebody keeps the exception: a notebook does
until the next one (`sys.last_exc`), a future and a list of errors for longer.
"""

from __future__ import annotations

from contextlib import suppress

from llm_connect.errors import LLMError


def clear_left_frames(error: BaseException) -> None:
    """Clear the variables of the functions that an interruption has left, so that they keep no hold.

    Functions that still run, such as the caller of this one, keep theirs. Our own errors come before a grant.
    """
    trace = None if isinstance(error, LLMError) else error.__traceback__
    while trace is not None:
        with suppress(RuntimeError):
            trace.tb_frame.clear()
        trace = trace.tb_next
