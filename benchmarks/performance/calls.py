"""The benchmark of calls: workers, separate programs, and whole processes."""

from __future__ import annotations

from pathlib import Path

from bench import Bench
from environments import OURS
from processes import cost_of_process

_IMPORTS = {
    "ours": "import llm_connect",
    "core": "from llm_connect import BudgetTracker, LLMAdapter, RunConfig",
    "stdlib": "import asyncio, dataclasses, json, logging",
}


class Performance(Bench):
    """A bench that also measures whole processes."""

    def process(self, subject: str) -> dict[str, float]:
        """Return the cost of a process from its start to its end."""
        kind, _, name = subject.partition(" ")
        python = self.environments.python_of(OURS if kind == "import" else name)
        return self.process_of(python, self.folder, subject)

    def process_of(self, python: str, folder: Path, subject: str) -> dict[str, float]:
        """Like `process`, with the given interpreter and the programs of this folder."""
        kind, _, name = subject.partition(" ")
        if kind == "import":
            return cost_of_process(python, "-c", _IMPORTS[name], cpu=self.cpu)
        return cost_of_process(python, str(folder / "cold.py"), name, self.address, cpu=self.cpu)
