"""The floor of the tracker: the least code that holds budget for a call, books it, and keeps its entry.

It checks no figures, no caller waits, a lost hold stays open, an overrun teaches nothing, there are no sinks, no
thresholds and no children. The rest: one lock, taken three times; three units; the hold; the
totals by tracker, adapter and model; the last entries.
"""

from __future__ import annotations

import threading
import time
from collections import deque


class BareTracker:
    def __init__(self, total: int) -> None:
        self.lock = threading.Lock()
        self.total = total
        self.held_tokens = self.held_calls = self.held_usd = 0
        self.spent_tokens = self.spent_calls = self.spent_usd = 0
        self.entries: deque[BareHold] = deque(maxlen=1_000)
        self.totals: dict[tuple[str, str | None, str | None], list[int]] = {("budget", None, None): [0, 0, 0, 0]}

    def reserve(self, tokens: int, *, calls: int = 1, usd: int = 0) -> BareHold:
        with self.lock:
            if self.spent_tokens + self.held_tokens + tokens > self.total:
                raise RuntimeError("The budget is used up.")
            self.held_tokens += tokens
            self.held_calls += calls
            self.held_usd += usd
        return BareHold(self, tokens, calls, usd)

    def settle(self, hold: BareHold, tokens: int) -> None:
        with self.lock:
            hold.state = "ended"
            hold.actual = tokens
            hold.ended_at = time.time()
            self.held_tokens -= hold.tokens
            self.spent_tokens += tokens
            self.held_calls -= hold.calls
            self.spent_calls += hold.calls
            self.held_usd -= hold.usd
            self.spent_usd += hold.usd
            self.entries.append(hold)
            sums = self.totals["budget", None, None]
            sums[0] += 1
            sums[1] += tokens
            sums[2] += hold.calls
            sums[3] += hold.usd


class BareHold:
    __slots__ = ("actual", "calls", "ended_at", "reserved_at", "state", "tokens", "tracker", "usd")

    def __init__(self, tracker: BareTracker, tokens: int, calls: int, usd: int) -> None:
        self.tracker = tracker
        self.tokens = tokens
        self.calls = calls
        self.usd = usd
        self.state = "reserved"
        self.actual = 0
        self.reserved_at = time.time()
        self.ended_at = 0.0

    def dispatch(self) -> None:
        with self.tracker.lock:
            self.state = "dispatched"

    def settle(self, tokens: int) -> None:
        self.tracker.settle(self, tokens)
