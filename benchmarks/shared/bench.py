"""Rounds in which the contenders take turns, each in its own process, against one server."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from environments import OURS, Environments
from measures import Measure, Row
from processes import Child, processors, variables
from report import Results


class Bench:
    """One run over some rows, with the `server.py` and `worker.py` in a benchmark's folder."""

    def __init__(self, folder: Path, environments: Environments, rows: list[Row]) -> None:
        self.folder, self.environments = folder, environments
        self._wanted: dict[Measure, list[str]] = defaultdict(list)
        for row in rows:
            known = self._wanted[row.measure]
            known += [subject for subject in row.subjects if subject not in known]
        self.cpu, server_cpu = processors()
        self._server = Child(sys.executable, str(folder / "server.py"), cpu=server_cpu)
        self.address: str = f"http://127.0.0.1:{int(self._server.read())}"
        self.results: Results = defaultdict(list)

    def run(self, rounds: int) -> None:
        """Take every measure of every contender, in turn, in each round; stop the server after the last one."""
        try:
            for number in range(rounds):
                print(f"Round {number + 1}", flush=True)
                self._round()
        finally:
            self._server.close()

    def _round(self) -> None:
        for measure, subjects in self._wanted.items():
            print(f"  {measure}", flush=True)
            for subject, answer in self._measured(measure, subjects):
                self.results[subject, measure].append(answer)

    def _measured(self, measure: Measure, subjects: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
        if measure.name in ("process", "script"):
            ask = getattr(self, measure.name)
            yield from ((subject, ask(subject)) for subject in _turns(measure, subjects))
            return
        workers = {name: self.worker(name) for name in sorted({_process(subject) for subject in subjects})}
        try:
            for subject in subjects:
                for earlier in measure.before:
                    workers[_process(subject)].ask(_named(subject), earlier)
            for subject in _turns(measure, subjects):
                yield subject, workers[_process(subject)].ask(_named(subject), measure)
        finally:
            for worker in workers.values():
                worker.close()

    def worker(self, name: str) -> Child:
        """Return the process that measures the subjects of this name."""
        return Child(self.environments.python_of(name), str(self.folder / "worker.py"), self.address, cpu=self.cpu)

    def script(self, subject: str) -> dict[str, float]:
        """Run the program named after its subject, and return the figures that it prints."""
        return self.script_of(self.environments.python_of(OURS), self.folder, subject)

    def script_of(self, python: str, folder: Path, subject: str) -> dict[str, float]:
        """Like `script`, with the given interpreter and the programs of this folder."""
        words = [python, str(folder / f"{subject}.py")]
        done = subprocess.run(words, env=variables(), stdout=subprocess.PIPE, text=True, check=True)
        answer: dict[str, float] = json.loads(done.stdout)
        return answer


def _turns(measure: Measure, subjects: list[str]) -> Iterator[str]:
    for _ in range(measure.turns):
        yield from random.sample(subjects, len(subjects))


def _named(subject: str) -> str:
    """Return a subject without the commit before its colon, which only chooses the worker."""
    return subject.rpartition(":")[2]


def _process(subject: str) -> str:
    """Return the name of a subject's process: the part before a slash."""
    return subject.partition("/")[0]
