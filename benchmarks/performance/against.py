"""Compares this tree with an earlier commit: the same rows, both taking turns in one run."""

from __future__ import annotations

import math
import statistics
import subprocess
from pathlib import Path

from calls import Performance
from environments import OURS, ROOT, Environments, make_ours
from measures import Row
from processes import Child
from report import Report

#: Subjects of this project, by the beginning of their name; the others are the same in both commits.
_OURS = ("ours-", "hold-by-hand", "import ", "cold ours-", "tracker", "claude")
#: Fields whose figure is a pace: the more, the better.
_RATES = frozenset({"flat", "chain", "eight_threads"})
_TIMES = frozenset({"cpu", "wall", "peak", "seconds", "one", "sixteen"})


class Against(Performance):
    """Measures `COMMIT:subject` by the code and the benchmark of that commit."""

    def __init__(self, folder: Path, environments: Environments, rows: list[Row], commit: str) -> None:
        super().__init__(folder, environments, rows)
        self._checkout = checked_out(commit, environments)
        self._python = str(self._checkout / ".venv" / "bin" / "python")

    def process(self, subject: str) -> dict[str, float]:
        commit, _, name = subject.rpartition(":")
        python = self._python if commit else self.environments.python_of(OURS)
        return self.process_of(python, self._folder_of(commit), name)

    def script(self, subject: str) -> dict[str, float]:
        commit, _, name = subject.rpartition(":")
        python = self._python if commit else self.environments.python_of(OURS)
        return self.script_of(python, self._folder_of(commit), name)

    def worker(self, name: str) -> Child:
        commit, _, plain = name.rpartition(":")
        python = self._python if commit else self.environments.python_of(plain)
        return Child(python, str(self._folder_of(commit) / "worker.py"), self.address, cpu=self.cpu)

    def _folder_of(self, commit: str) -> Path:
        return self._checkout / "benchmarks" / "performance" if commit else self.folder


def rows_against(rows: list[Row], commit: str) -> list[Row]:
    """Return the rows about this project's speed, each compared with the same at `commit`."""
    return [
        Row(row.group, row.what, row.ours, f"{commit}:{row.ours}", row.measure, row.must, row.value)
        for row in rows
        if row.ours.startswith(_OURS) and row.value in _RATES | _TIMES
    ]


def checked_out(commit: str, environments: Environments) -> Path:
    """The tree of `commit`, with its own environment."""
    place = environments.folder / f"commit-{commit}"
    if not place.exists():
        place.mkdir(parents=True)
        archive = subprocess.run(["git", "-C", ROOT, "archive", commit], check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
    make_ours(place / ".venv", environments.python, project=place)
    return place


def summary(report: Report, rows: list[Row]) -> str:
    """Each row as a factor of cost, this tree / that commit; the geometric mean and the worst of them."""
    factors = {}
    for row in rows:
        reached = report.reached(row)
        if reached:
            factor = statistics.median(reached)
            factors.setdefault((row.what, row.measure, row.value), 1 / factor if row.value in _RATES else factor)
    lines = [f"{factor:6.3f}  {what}" for (what, _, _), factor in factors.items()]
    mean = math.exp(statistics.mean(map(math.log, factors.values())))
    return "\n".join([*lines, f"geometric mean {mean:.3f}, worst {max(factors.values()):.3f}"])
