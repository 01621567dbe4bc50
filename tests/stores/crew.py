"""Separate processes that use one budget, for tests; each starts from scratch, like `python crew.py`."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from subprocess import PIPE
from typing import Any

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError, LLMStoreError
from llm_connect.stores.opening import open_budget

ROOT = Path(__file__).parents[2]
#: The time for which tests kill and stop processes, and simulate power cuts.
SECONDS = float(os.environ.get("LLM_CONNECT_KILL_SECONDS", "2"))
#: The amount that four processes spend in somewhat less than that time.
LIMIT = int(10_000 * SECONDS)


@contextmanager
def crew(number: int, job: str, *args: Any) -> Iterator[list[subprocess.Popen[str]]]:
    """Run `number` processes that do `job`; none outlives the block."""
    command = [sys.executable, "-W", "error", "-m", "tests.stores.crew", job]
    processes = [
        subprocess.Popen([*command, json.dumps([each, *args])], cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True)
        for each in range(number)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def results(processes: list[subprocess.Popen[str]], seconds: float = 50.0) -> list[Any]:
    """The JSON that each process has printed, after all have ended without an error."""
    found = []
    for process in processes:
        out, _ = process.communicate(timeout=seconds)
        assert process.returncode == 0
        found.append(json.loads(out))
    return found


def equal_attempts(number: int, url: str, attempts: int) -> int:
    """Make `attempts` reservations of one token; return the number of grants."""
    budget = open_budget(url)
    granted = 0
    for _ in range(attempts):
        try:
            budget.consume(1)
        except LLMBudgetExceededError:
            continue
        granted += 1
    return granted


def mixed_attempts(number: int, url: str, attempts: int) -> dict[str, int]:
    """Make attempts of all sizes, some of which wait, on the budget, a shared child and own children."""
    chance = random.Random(number)
    budget = open_budget(url)
    places = [budget, budget.child("shared", 400, join=True), budget.child(f"own {number}", 300)]
    billed = refused = 0
    for _ in range(attempts):
        bound = chance.randint(1, 30)
        try:
            hold = chance.choice(places).reserve(bound, max_wait_seconds=chance.choice([0, 0.02, 0.2]))
        except LLMBudgetExceededError:
            refused += 1
            continue
        with hold:
            if chance.random() < 0.9:
                hold.dispatch()
                used = chance.randint(0, bound)
                hold.settle(used)
                billed += used
    return {"billed": billed, "refused": refused}


def spender(number: int, url: str, bills: str, lease_seconds: float) -> None:
    """Spend until killed. Each bill is on the disk before its request would leave, like that of a provider."""
    chance = random.Random(number)
    budget = opened_patiently(url, lease_seconds)
    with open(f"{bills}/{number}-{os.getpid()}", "a", encoding="utf-8") as file:
        while True:
            spend_once(budget, chance, file)


def opened_patiently(url: str, lease_seconds: float) -> BudgetTracker:
    while True:
        try:
            return open_budget(url, lease_seconds=lease_seconds)
        except LLMStoreError:
            time.sleep(0.01)


def spend_once(budget: BudgetTracker, chance: random.Random, file: Any) -> None:
    bound = chance.randint(1, 20)
    try:
        with budget.reserve(bound, max_wait_seconds=0.1) as hold:
            hold.dispatch()
            used = chance.randint(0, bound)
            file.write(f"{used}\n")
            file.flush()
            if chance.random() < 0.7:
                hold.settle(used)
    except (LLMBudgetExceededError, LLMStoreError):
        # A store that is busy for longer than a sixth of a short lease counts as lost, and nothing was sent.
        time.sleep(0.01)


def bill(folder: Path) -> int:
    return sum(int(line) for path in folder.iterdir() for line in path.read_text().split("\n")[:-1])


def halter(number: int, url: str, lease_seconds: float, dispatched: bool) -> dict[str, Any]:
    """Take a hold of 40, wait for the signal to continue, and report how the hold could be used then."""
    budget = open_budget(url, lease_seconds=lease_seconds)
    hold = budget.reserve(40)
    if dispatched:
        hold.dispatch()
    print("ready", flush=True)
    sys.stdin.readline()
    reason = None
    try:
        hold.dispatch()
    except (LLMBudgetExceededError, LLMConfigurationError) as error:
        reason = getattr(error, "reason", "ended")
    hold.settle(25)
    return {"reason": reason, "entry": hold.entry_id, "held": budget.snapshot().held.tokens, "line": str(budget)}


def interrupted(number: int, url: str) -> dict[str, Any]:
    """Spend the whole budget while alarms interrupt the exchange with the server."""
    from tests.stores.interrupting import Interruption, alarms

    budget, granted, unknown, foreign = open_budget(url), 0, 0, list[str]()
    chance = random.Random(number)
    with alarms() as (set_alarm, signals):
        while True:
            # Only every other time: a new connection is slow.
            if chance.random() < 0.5:
                set_alarm(chance.uniform(0.00001, 0.002))
            try:
                budget.consume(1)
                granted += 1
            except Interruption:
                unknown += 1
            except LLMBudgetExceededError:
                break
            except Exception as error:
                foreign.append(repr(error))
    return {"granted": granted, "unknown": unknown, "foreign": foreign, "signals": signals()}


def holder(number: int, url: str) -> int:
    """Spend 3, wait for the signal to continue, spend 2, and report the spend."""
    budget = open_budget(url)
    budget.consume(3)
    print("ready", flush=True)
    sys.stdin.readline()
    budget.consume(2)
    return budget.snapshot().spent.tokens


def crowd(number: int, url: str, tokens: int, threads: int) -> None:
    """Hold `tokens` in each of `threads` threads, without pause, until killed."""
    budget = open_budget(url)

    def hold_again_and_again() -> None:
        while True:
            with suppress(LLMBudgetExceededError), budget.reserve(tokens, max_wait_seconds=20):
                time.sleep(0.005)

    for _ in range(threads):
        threading.Thread(target=hold_again_and_again, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.readline()


def waiter(number: int, url: str, tokens: int, lease_seconds: float) -> None:
    """Wait for `tokens` until killed."""
    open_budget(url, lease_seconds=lease_seconds).reserve(tokens, max_wait_seconds=60)


def short_windows(number: int, url: str, attempts: int) -> int:
    """Book `attempts` calls on trackers whose windows move all the time, correct some later; return the sum."""
    chance = random.Random(number)
    budget = open_budget(url)
    shared = budget.child("shared", 1_000_000, join=True, period=timedelta(seconds=0.6))
    places = [budget, shared, budget.child(f"own {number}", period=timedelta(seconds=0.1))]
    presumed: list[int] = []
    booked = 0
    for _ in range(attempts):
        with chance.choice(places).reserve(9) as hold:
            hold.dispatch()
            if chance.random() < 0.5:
                hold.settle(5)
        booked += 5
        presumed += [hold.entry_id] if hold.amount.tokens == 9 else []
        if presumed and chance.random() < 0.2:
            budget.correct(presumed.pop(chance.randrange(len(presumed))), 5)
    for entry_id in presumed:
        budget.correct(entry_id, 5)
    return booked


if __name__ == "__main__":
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG: the process dies if its test run is killed.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))))
