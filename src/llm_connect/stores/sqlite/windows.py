"""Reading and writing the windows of trackers with a period in a budget file."""

from __future__ import annotations

import sqlite3

from llm_connect.budget.accounting.periods import period_of, period_text
from llm_connect.budget.accounting.windows import Window
from llm_connect.budget.admission.clocks import wall_clock

_FIND = "SELECT period, ends_at, first, parts FROM windows WHERE tracker = ?"
_WRITE = "INSERT OR REPLACE INTO windows (tracker, period, ends_at, first, parts) VALUES (?, ?, ?, ?, ?)"


def read_window(connection: sqlite3.Connection, number: int) -> Window | None:
    """The window of the tracker with this number; None without a period."""
    row = connection.execute(_FIND, (number,)).fetchone()
    return None if row is None else window_of(*row)


def window_of(period: str, ends_at: float, first: int, parts: str) -> Window:
    """The window in a row."""
    window = Window(period_of(period), wall_clock)
    window.become(ends_at, first, parts)
    return window


def write_window(connection: sqlite3.Connection, number: int, window: Window | None) -> None:
    """Write the state of a window, if there is one."""
    if window is not None and window.changed:
        connection.execute(_WRITE, (number, period_text(window.period), *window.state))
        window.changed = False
