"""One moment by which a call is over."""

from __future__ import annotations

import time

from llm_connect.engine.deadline import Deadline


def test_time_runs_out_once() -> None:
    """What remains falls to zero and stays there."""
    deadline = Deadline.after(0.05)
    assert 0 < deadline.remaining() <= 0.05
    assert not deadline.passed
    time.sleep(0.06)
    assert deadline.passed
    assert deadline.remaining() == 0


def test_a_deadline_in_the_past_has_nothing_left() -> None:
    """What remains is never negative."""
    deadline = Deadline.after(-5)
    assert (deadline.remaining(), deadline.passed) == (0, True)


def test_a_deadline_is_a_moment_on_the_monotonic_clock() -> None:
    """Two deadlines at one moment are equal, and a change of the wall clock is nothing to them."""
    moment = time.monotonic() + 100
    assert Deadline(moment) == Deadline(moment)
    assert 99 < Deadline(moment).remaining() <= 100
