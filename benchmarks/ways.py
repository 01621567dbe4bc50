"""Counts how far a call and a hold travel through the files of the package: `python3 tasks.py ways [NAME]`.

"Files" are the files that they enter, and "moves" the times that a call leads into another file than the one before.
Both are counted in this thread, on the third run of each, without `llm_connect.testing`. With the beginning of a name,
the whole way of that row is printed first, one function in a line.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TypeAlias

import llm_connect
from llm_connect import BudgetTracker, Hold, OpenAIAdapter, RunConfig, open_budget
from llm_connect.testing import Behaviour, EmbeddedProvider

PACKAGE = str(Path(llm_connect.__file__).parent) + os.sep
TESTING = PACKAGE + "testing" + os.sep

#: The functions that were called, in order, each behind its file.
Way: TypeAlias = list[tuple[str, str]]


def main(shown: str | None) -> None:
    with rows() as acts:
        for name, act in acts.items():
            way = way_of(act)
            if shown is not None and name.startswith(shown):
                show(way)
            print(f"{name:34} files {files(way):3} moves {moves(way):4}")


@contextmanager
def rows() -> Iterator[dict[str, Callable[[], object]]]:
    """Yield what is measured, by its name."""
    with (
        EmbeddedProvider(reply_tokens=20) as server,
        OpenAIAdapter(model="gpt-4.1-mini", base_url=server.openai_url, api_key="any") as adapter,
        TemporaryDirectory() as folder,
        open_budget(f"sqlite:///{folder}/budget.db", total=10_000_000) as stored,
    ):
        server.script(Behaviour(pieces=8))
        tracker = BudgetTracker(total=10_000_000)
        bare, held, in_file = (RunConfig(max_tokens=200, budget_tracker=each) for each in (None, tracker, stored))
        yield {
            "call, no budget": lambda: adapter.execute_prompt("hi", bare),
            "call, budget in memory": lambda: adapter.execute_prompt("hi", held),
            "stream of 8 pieces, in memory": lambda: stream(adapter, held),
            "call, budget in a file": lambda: adapter.execute_prompt("hi", in_file),
            "hold that fits, in memory": lambda: hold(tracker),
            "hold that waits once, in memory": wait_once,
            "hold that fits, in a file": lambda: hold(stored),
        }


def stream(adapter: OpenAIAdapter, config: RunConfig) -> None:
    with adapter.stream_prompt("hi", config) as pieces:
        list(pieces)


def hold(tracker: BudgetTracker) -> None:
    kept = tracker.reserve(100)
    kept.dispatch()
    kept.settle(50)


def wait_once() -> None:
    """Wait for a hold of another thread, which releases it a moment later."""
    tracker = BudgetTracker(total=100)
    others: list[Hold] = []
    thread = threading.Thread(target=lambda: others.append(tracker.reserve(80)))
    thread.start()
    thread.join()
    timer = threading.Timer(0.05, others[0].release)
    timer.start()
    kept = tracker.reserve(50, max_wait_seconds=60)
    kept.dispatch()
    kept.settle(10)
    timer.join()


def way_of(act: Callable[[], object]) -> Way:
    """Return the functions of the package that `act` calls, once two runs have warmed it up."""
    way: Way = []

    def note(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE) and not file.startswith(TESTING):
            way.append((file.removeprefix(PACKAGE), frame.f_code.co_name))

    act()
    act()
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return way


def files(way: Way) -> int:
    return len({file for file, _ in way})


def moves(way: Way) -> int:
    return sum(1 for _ in groupby(way, key=itemgetter(0)))


def show(way: Way) -> None:
    for file, steps in groupby(way, key=itemgetter(0)):
        for place, (_, name) in enumerate(steps):
            print(f"{'' if place else file:42} {name}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
