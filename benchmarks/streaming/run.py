"""Measures the cost of a streamed answer: ours and the raw SDKs, interleaved in one run.

    python tasks.py streaming     # five minutes; writes docs/streaming-performance.md and results.json

It makes its environment on the first run. Each round has its own processes; within one the contenders take turns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from bench import Bench
from document import page
from environments import ROOT, Environments
from options import parser
from report import Report
from rows import ROWS

HERE = Path(__file__).parent
PAGE, RESULTS = ROOT / "docs" / "streaming-performance.md", HERE / "results.json"


def main() -> None:
    chosen = parser(__doc__).parse_args()
    rows = [row for row in ROWS if chosen.only is None or row.group in chosen.only]
    environments = Environments(chosen.environments, chosen.python)
    bench = Bench(HERE, environments, rows)
    bench.run(chosen.rounds or 3)
    report = Report(rows, bench.results, environments.versions())
    print(report.text())
    if chosen.only is None:
        PAGE.write_text(page(report), encoding="utf-8")
        RESULTS.write_text(json.dumps(report.data(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
