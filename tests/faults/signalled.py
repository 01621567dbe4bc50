"""Spends while real signals, or exceptions from another thread, interrupt it, and prints the faults it finds.

    python -m tests.faults.signalled URL KIND NUMBER SEED

URL: "memory" or a store. KIND: "alarm" (SIGALRM) or "thrown" (PyThreadState_SetAsyncExc). NUMBER: how many
interruptions.
"""

from __future__ import annotations

import ctypes
import logging
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

from llm_connect import BudgetTracker, open_budget

CAP = 10**9
#: The allotments that may still be open.
shares: list[BudgetTracker] = []


class Interrupted(BaseException):
    """The interruption."""


def spend(root: BudgetTracker, child: BudgetTracker, number: int) -> None:
    """Do one of the usual operations of a program, in turn."""
    kind = number % 7
    if kind == 0:
        with child.reserve(100) as hold:
            hold.dispatch()
            hold.settle(60)
    elif kind == 1:
        with child.reserve(50, labels={"team": "a"}) as hold:
            hold.dispatch()
    elif kind == 2:
        root.consume(5)
    elif kind == 3:
        root.record(7, calls=1)
    elif kind == 4:
        with root.allot("share", 1_000) as share:
            shares.append(share)
            share.consume(10)
        shares.clear()
    elif kind == 5:
        child.set_limits(total=CAP - number % 2)
    else:
        child.reserve(9).release()


def wrong(root: BudgetTracker, child: BudgetTracker) -> str:
    """The inexact figures that the next operation finds, or an empty text."""
    while shares:
        # If the interruption came just before the end of its block, the allotment is still open.
        shares.pop().close()
    found = root.snapshot()
    entries = list(root.ledger)
    total = root.ledger.earlier
    for entry in entries:
        total = total.plus(entry.amount)
    below = child.snapshot()
    if (found.held, below.held, found.allotted, found.waiting) != ((0, 0, 0), (0, 0, 0), (0, 0, 0), 0):
        return f"held {found.held} {below.held}, set aside {found.allotted}, waiting {found.waiting}"
    return "" if found.spent == total else f"spent {found.spent}, by the ledger {total}"


def interrupted(root: BudgetTracker, child: BudgetTracker, arm: Callable[[], None], disarm: Callable[[], None]) -> bool:
    """Spend for a while; return True if an interruption came."""
    try:
        try:
            arm()
            for number in range(200):
                spend(root, child, number)
        finally:
            disarm()
    except Interrupted:
        return True
    return False


def alarm(draw: random.Random) -> tuple[Callable[[], None], Callable[[], None]]:
    def ring(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGALRM, ring)
    return (
        lambda: signal.setitimer(signal.ITIMER_REAL, draw.uniform(20e-6, 600e-6)) and None,
        lambda: signal.setitimer(signal.ITIMER_REAL, 0) and None,
    )


def thrown(draw: random.Random) -> tuple[Callable[[], None], Callable[[], None]]:
    armed, thrower = threading.Event(), ctypes.pythonapi.PyThreadState_SetAsyncExc
    target = ctypes.c_ulong(threading.get_ident())

    def throw() -> None:
        while True:
            armed.wait()
            time.sleep(draw.uniform(20e-6, 600e-6))
            if armed.is_set():
                armed.clear()
                thrower(target, ctypes.py_object(Interrupted))

    threading.Thread(target=throw, daemon=True).start()

    def disarm() -> None:
        armed.clear()
        thrower(target, None)

    return armed.set, disarm


def main(url: str, kind: str, number: str, seed: str) -> None:
    sys.unraisablehook = lambda _: None
    sys.setswitchinterval(50e-6)
    logging.disable()
    root = BudgetTracker(CAP, keep_entries=200) if url == "memory" else open_budget(url, total=CAP)
    child = root.child("a", CAP)
    arm, disarm = {"alarm": alarm, "thrown": thrown}[kind](random.Random(seed))
    came, tried, faults = 0, 0, 0
    while came < int(number):
        tried += 1
        try:
            if not interrupted(root, child, arm, disarm):
                continue
        except Interrupted:
            # The interruption came while it was being disarmed.
            disarm()
        came += 1
        said = wrong(root, child)
        if said:
            faults += 1
            print(came, said)
            root = BudgetTracker(CAP, keep_entries=200) if url == "memory" else root
            child = root.child("a", CAP)
    print(f"{came} interruptions of {tried}, {faults} wrong")


if __name__ == "__main__":
    main(*sys.argv[1:])
