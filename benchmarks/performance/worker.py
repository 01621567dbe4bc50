"""One contender in its own process, which takes the measures requested on its standard input.

python worker.py ADDRESS
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from clock import Clock
from obeying import Result, obey
from subjects import SUBJECTS, ACall, Call, Subject
from work import WORKS

_WARM = 20


class Worker:
    """The measures of one contender. All async ones run on one loop, since not every contender survives two."""

    def __init__(self, address: str) -> None:
        self.subject = ""
        self._address = address
        self._made: dict[tuple[str, str, int], Subject] = {}
        self._runner = asyncio.Runner()

    def sync(self, count: int, work: str = "short") -> Result:
        """Calls in a row."""
        call = self._call(work)
        with Clock() as clock:
            for _ in range(count):
                _check(call())
        return {"cpu": clock.cpu / count, "wall": clock.wall / count}

    def gather(self, count: int, delay: int) -> Result:
        """Calls at once, on connections that are open already."""
        return self._runner.run(self._gather(count, delay))

    def threads(self, count: int, each: int) -> Result:
        """Threads that call in a row, all at once; errors are counted."""
        call, start, errors = self._call("short"), threading.Barrier(count + 1), []

        def work() -> None:
            start.wait()
            for _ in range(each):
                try:
                    _check(call())
                except Exception as error:
                    errors.append(error)

        with ThreadPoolExecutor(count) as pool:
            done = [pool.submit(work) for _ in range(count)]
            start.wait()
            with Clock() as clock:
                for future in done:
                    future.result()
        return {"cpu": clock.cpu / (count * each), "wall": clock.wall, "errors": len(errors)}

    def loops(self, count: int, each: int) -> Result:
        """One `asyncio.run` after the other with the same object; how many calls had an answer."""
        acall, _ = self._subject("short", 0).open()  # type: ignore[misc]

        async def run() -> int:
            answers = await asyncio.gather(*(acall() for _ in range(each)), return_exceptions=True)
            return sum(isinstance(answer, str) for answer in answers)

        return {"answered": sum(asyncio.run(run()) for _ in range(count))}

    def memory(self) -> Result:
        """The most memory that this process has had, in megabytes."""
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

    def growth(self, warm: int, count: int) -> Result:
        """Megabytes that many calls add after the first ones."""
        self.sync(warm)
        before = _resident()
        self.sync(count)
        return {"grown": _resident() - before}

    def bound(self, work: str) -> Result:
        """Seconds of CPU for the bound of a prompt."""
        from llm_connect import OpenAIAdapter, RunConfig

        adapter, config, prompt = OpenAIAdapter(api_key="sk-0123456789"), RunConfig(), WORKS[work].prompt
        with Clock() as clock:
            for _ in range(10):
                adapter.bound(prompt, config)
        return {"cpu": clock.cpu / 10}

    async def _gather(self, count: int, delay: int) -> Result:
        acall, aclose = self._subject("short", delay).open()  # type: ignore[misc]
        await _at_once(acall, count)
        gc.collect()
        with Clock() as clock:
            errors = await _at_once(acall, count)
        with Clock() as closing:
            await aclose()
        return {"cpu": clock.cpu / count, "wall": clock.wall, "errors": errors, "closing": closing.wall}

    def _call(self, work: str) -> Call:
        """Return the function that makes a call; the first calls, which import and connect, are already made."""
        new = (self.subject, work, 0) not in self._made
        call = self._subject(work, 0).call
        assert call is not None
        for _ in range(_WARM if new else 0):
            call()
        return call

    def _subject(self, work: str, delay: int) -> Subject:
        key = (self.subject, work, delay)
        if key not in self._made:
            self._made[key] = SUBJECTS[self.subject](f"{self._address}/{delay}", WORKS[work])
        return self._made[key]


async def _at_once(acall: ACall, count: int) -> int:
    answers = await asyncio.gather(*(acall() for _ in range(count)), return_exceptions=True)
    return sum(not isinstance(answer, str) or not answer for answer in answers)


def _check(answer: str | None) -> None:
    if not answer:
        raise AssertionError("no answer")


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    obey(Worker(*sys.argv[1:]))
