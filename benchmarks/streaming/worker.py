"""One contender in its own process, which takes the measures requested on its standard input.

python worker.py ADDRESS
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from clock import Clock
from obeying import Result, obey
from subjects import SUBJECTS, Subject
from work import Work

_WORK = Work()
#: Numbers of requests whose connections the server watches; no two processes have the same.
_numbers = itertools.count(time.monotonic_ns())


class Answer(NamedTuple):
    """Seconds to the first text, and how many texts there were."""

    first: float
    texts: int


class Worker:
    """The measures of one contender. All async ones run on one loop, so that connections are used again."""

    def __init__(self, address: str) -> None:
        self.subject = ""
        self._address = address
        self._made: dict[tuple[str, str], Subject] = {}
        self._warm: set[tuple[str, str, bool]] = set()
        self._runner = asyncio.Runner()

    def first(self, count: int, awaited: bool = False) -> Result:
        """From asking to the first text: the median of some answers of ten chunks, each of which is read to its end."""
        answers = self._each("10", count, awaited)
        return {"wall": statistics.median(answer.first for answer in answers)}

    def read(self, chunks: int, count: int = 1, pace: int | None = None, awaited: bool = False) -> Result:
        """CPU for one chunk of answers that are read to their end."""
        how = str(chunks) if pace is None else f"{chunks}x{pace}"
        self._warm_up(how, awaited)
        gc.collect()
        with Clock() as clock:
            answers = self._each(how, count, awaited)
        return {"cpu": clock.cpu / count / chunks, "texts": sum(answer.texts for answer in answers) / count}

    def leave(self, count: int, awaited: bool = False) -> Result:
        """From leaving after the second chunk until the server sees that its connection is closed: the slowest.

        Sync streams one after the other, async ones all at once.
        """
        if awaited:
            left = self._runner.run(self._aleave_all(count))
        else:
            left = [self._leave(next(_numbers)) for _ in range(count)]
        return {"seconds": max(self._closed(number) - moment for number, moment in left)}

    def _each(self, how: str, count: int, awaited: bool) -> list[Answer]:
        """One answer after the other."""
        self._warm_up(how, awaited)
        subject = self._subject(how)
        if awaited:
            return self._runner.run(_aread_all(subject, count))
        return [_read(subject) for _ in range(count)]

    def _warm_up(self, how: str, awaited: bool) -> None:
        """The first answers, which import and connect."""
        if (self.subject, how, awaited) not in self._warm:
            self._warm.add((self.subject, how, awaited))
            self._each(how, 2, awaited)

    def _leave(self, number: int) -> tuple[int, float]:
        texts, close = self._subject("endless").stream(Work(prompt=f"Count. #{number}"))
        _two(texts)
        moment = time.monotonic()
        close()
        return number, moment

    async def _aleave_all(self, count: int) -> list[tuple[int, float]]:
        return await asyncio.gather(*(self._aleave(next(_numbers)) for _ in range(count)))

    async def _aleave(self, number: int) -> tuple[int, float]:
        texts, close = await self._subject("endless").astream(Work(prompt=f"Count. #{number}"))
        await _atwo(texts)
        moment = time.monotonic()
        await close()
        return number, moment

    def _closed(self, number: int) -> float:
        """When the server saw it; waits until it does."""
        asked = urllib.request.Request(f"{self._address}/closed", data=str(number).encode())
        with urllib.request.urlopen(asked, timeout=60) as reply:
            return float(reply.read())

    def _subject(self, how: str) -> Subject:
        key = (self.subject, how)
        if key not in self._made:
            self._made[key] = SUBJECTS[self.subject](f"{self._address}/{how}")
        return self._made[key]


def _read(subject: Subject) -> Answer:
    started = time.perf_counter()
    texts, close = subject.stream(_WORK)
    next(texts)
    seconds = time.perf_counter() - started
    count = 1 + sum(1 for _ in texts)
    close()
    return Answer(seconds, count)


async def _aread_all(subject: Subject, count: int) -> list[Answer]:
    return [await _aread(subject) for _ in range(count)]


async def _aread(subject: Subject) -> Answer:
    started = time.perf_counter()
    texts, close = await subject.astream(_WORK)
    await anext(texts)
    seconds, count = time.perf_counter() - started, 1
    async for _ in texts:
        count += 1
    await close()
    return Answer(seconds, count)


def _two(texts: Iterator[str]) -> None:
    next(texts)
    next(texts)


async def _atwo(texts: AsyncIterator[str]) -> None:
    await anext(texts)
    await anext(texts)


if __name__ == "__main__":
    obey(Worker(*sys.argv[1:]))
