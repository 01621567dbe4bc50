"""How much a call costs: ours, the raw SDKs and the peers, interleaved in one run.

    python tasks.py performance --everyday     # ours and the raw SDKs, two minutes
    python tasks.py performance                # everything; writes docs/performance.md, results.json and README's share

It makes its environments on the first run. Each round has processes of its own; within one the contenders take turns.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from document import in_readme, page
from environments import OURS, ROOT, Environments, default_folder
from processes import HERE, Child, cost_of_process, processors, variables
from report import Report, Results
from rows import EVERYDAY, ROWS, Measure, Row

PAGE, README, RESULTS = ROOT / "docs" / "performance.md", ROOT / "README.md", HERE / "results.json"
_CLAUDE_ROUNDS = "8"


class Bench:
    """One run over some rows."""

    def __init__(self, environments: Environments, rows: list[Row]) -> None:
        self._environments = environments
        self._wanted: dict[Measure, list[str]] = defaultdict(list)
        for row in rows:
            known = self._wanted[row.measure]
            known += [subject for subject in row.subjects if subject not in known]
        self._cpu, server_cpu = processors()
        self._server = Child(sys.executable, str(HERE / "server.py"), cpu=server_cpu)
        self._address = f"http://127.0.0.1:{int(self._server.read())}"
        self.results: Results = defaultdict(list)

    def round(self) -> None:
        """Every measure, each contender in turn."""
        for measure, subjects in self._wanted.items():
            print(f"  {measure}", flush=True)
            for subject, answer in self._measured(measure, subjects):
                self.results[subject, measure].append(answer)

    def close(self) -> None:
        self._server.close()

    def _measured(self, measure: Measure, subjects: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
        if measure.name in ("process", "script"):
            ask = getattr(self, f"_{measure.name}")
            yield from ((subject, ask(subject)) for subject in _turns(measure, subjects))
            return
        workers = {name: self._worker(name) for name in sorted({_process(subject) for subject in subjects})}
        try:
            for subject in subjects:
                for earlier in measure.before:
                    workers[_process(subject)].ask(subject, earlier)
            for subject in _turns(measure, subjects):
                yield subject, workers[_process(subject)].ask(subject, measure)
        finally:
            for worker in workers.values():
                worker.close()

    def _worker(self, name: str) -> Child:
        return Child(self._environments.python_of(name), str(HERE / "worker.py"), self._address, cpu=self._cpu)

    def _process(self, subject: str) -> dict[str, float]:
        kind, _, name = subject.partition(" ")
        python = self._environments.python_of(OURS if kind == "import" else name)
        imported = {"ours": "import llm_connect", "stdlib": "import asyncio, dataclasses, json, logging"}
        if kind == "import":
            return cost_of_process(python, "-c", imported[name], cpu=self._cpu)
        return cost_of_process(python, str(HERE / "cold.py"), name, self._address, cpu=self._cpu)

    def _script(self, subject: str) -> dict[str, float]:
        words = [self._environments.python_of(OURS), str(HERE / f"{subject}.py"), _CLAUDE_ROUNDS]
        done = subprocess.run(words, env=variables(), stdout=subprocess.PIPE, text=True, check=True)
        answer: dict[str, float] = json.loads(done.stdout)
        return answer


def _turns(measure: Measure, subjects: list[str]) -> Iterator[str]:
    for _ in range(measure.turns):
        yield from random.sample(subjects, len(subjects))


def _process(subject: str) -> str:
    """Subjects with the same name before a slash share a process."""
    return subject.partition("/")[0]


def write(report: Report) -> None:
    """The documents of a whole run."""
    PAGE.write_text(page(report), encoding="utf-8")
    RESULTS.write_text(json.dumps(report.data(), indent=1) + "\n", encoding="utf-8")
    README.write_text(in_readme(README.read_text(encoding="utf-8"), report), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--everyday", action="store_true", help="ours and the raw SDKs only; writes nothing")
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="these groups of rows; writes nothing")
    parser.add_argument("--rounds", type=int, help="5, or 2 every day")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environments")
    parser.add_argument("--environments", type=Path, default=default_folder())
    chosen = parser.parse_args()
    groups = chosen.only or (EVERYDAY if chosen.everyday else {row.group for row in ROWS})
    rows = [row for row in ROWS if row.group in groups]
    environments = Environments(chosen.environments, chosen.python)
    bench = Bench(environments, rows)
    try:
        for number in range(chosen.rounds or (2 if chosen.everyday else 5)):
            print(f"Round {number + 1}", flush=True)
            bench.round()
    finally:
        bench.close()
    report = Report(rows, bench.results, environments.versions())
    print(report.text())
    if not chosen.everyday and not chosen.only:
        write(report)


if __name__ == "__main__":
    main()
