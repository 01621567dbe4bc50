"""How much a call costs: ours, the raw SDKs and the peers, interleaved in one run.

    python tasks.py performance --everyday     # ours and the raw SDKs, two minutes
    python tasks.py performance                # everything; writes docs/performance.md, results.json and README's share

It makes its environments on the first run. Each round has processes of its own; within one the contenders take turns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from bench import Bench
from document import in_readme, page
from environments import OURS, ROOT, Environments
from options import parser
from processes import cost_of_process
from report import Report
from rows import EVERYDAY, ROWS

HERE = Path(__file__).parent
PAGE, README, RESULTS = ROOT / "docs" / "performance.md", ROOT / "README.md", HERE / "results.json"


class Performance(Bench):
    """Measures whole processes, too."""

    def process(self, subject: str) -> dict[str, float]:
        kind, _, name = subject.partition(" ")
        python = self.environments.python_of(OURS if kind == "import" else name)
        imported = {
            "ours": "import llm_connect",
            "core": "from llm_connect import BudgetTracker, LLMAdapter, RunConfig",
            "stdlib": "import asyncio, dataclasses, json, logging",
        }
        if kind == "import":
            return cost_of_process(python, "-c", imported[name], cpu=self.cpu)
        return cost_of_process(python, str(HERE / "cold.py"), name, self.address, cpu=self.cpu)


def write(report: Report) -> None:
    """The documents of a whole run."""
    PAGE.write_text(page(report), encoding="utf-8")
    RESULTS.write_text(json.dumps(report.data(), indent=1) + "\n", encoding="utf-8")
    README.write_text(in_readme(README.read_text(encoding="utf-8"), report), encoding="utf-8")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--everyday", action="store_true", help="ours and the raw SDKs only; writes nothing")
    chosen = options.parse_args()
    groups = chosen.only or (EVERYDAY if chosen.everyday else {row.group for row in ROWS})
    rows = [row for row in ROWS if row.group in groups]
    environments = Environments(chosen.environments, chosen.python)
    bench = Performance(HERE, environments, rows)
    bench.run(chosen.rounds or (2 if chosen.everyday else 5))
    report = Report(rows, bench.results, environments.versions())
    print(report.text())
    if not chosen.everyday and not chosen.only:
        write(report)


if __name__ == "__main__":
    main()
