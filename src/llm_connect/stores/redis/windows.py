"""The text form of the windows of trackers with a period, which a server keeps."""

from __future__ import annotations

import re

from llm_connect.budget.accounting.periods import period_of, period_text
from llm_connect.budget.accounting.windows import Clock, Window

#: Larger numbers stand for the entries of the current step; the script replaces them with the real numbers.
TO_COME = 10**18
_NUMBERS_TO_COME = re.compile(r"\b1\d{18}\b")


def window_text(window: Window) -> str:
    """The text of a window in a step; `@0` stands for the number of the step's first entry."""
    ends_at, first, parts = window.state
    text = f"{period_text(window.period)}|{ends_at!r}|{first}|{parts}"
    return _NUMBERS_TO_COME.sub(lambda number: f"@{int(number[0]) - TO_COME}", text)


def window_of(text: str, clock: Clock) -> Window:
    """The window in this text."""
    window = Window(period_of(text.partition("|")[0]), clock)
    be_as(window, text)
    return window


def windows_in(lines: list[str]) -> dict[int, str]:
    """The changed windows in a reply, by the numbers of their trackers."""
    return {int(number): window for number, window in (line.split(" ", 1) for line in lines)}


def be_as(window: Window, text: str) -> None:
    """Set a window to the state in this text."""
    _, ends_at, first, parts = text.split("|")
    window.become(float(ends_at), int(first), parts)
