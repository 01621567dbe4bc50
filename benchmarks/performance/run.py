"""Measures the cost of a call: ours, the raw SDKs and the peers, interleaved in one run.

    python tasks.py performance --everyday     # ours and the raw SDKs, two minutes
    python tasks.py performance                # everything; writes docs/performance.md, results.json and README's share
    python tasks.py performance --against HEAD~5   # this tree beside an earlier commit, in turns; writes nothing

It makes its environments on the first run. Each round has its own processes; within one the contenders take turns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from against import Against, rows_against, summary
from calls import Performance
from document import in_readme, page
from environments import ROOT, Environments
from options import parser
from report import Report
from rows import EVERYDAY, ROWS

HERE = Path(__file__).parent
PAGE, README, RESULTS = ROOT / "docs" / "performance.md", ROOT / "README.md", HERE / "results.json"


def write(report: Report) -> None:
    """The documents of a whole run."""
    PAGE.write_text(page(report), encoding="utf-8")
    RESULTS.write_text(json.dumps(report.data(), indent=1) + "\n", encoding="utf-8")
    README.write_text(in_readme(README.read_text(encoding="utf-8"), report), encoding="utf-8")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--everyday", action="store_true", help="ours and the raw SDKs only; writes nothing")
    options.add_argument("--against", metavar="COMMIT", help="compare this tree with an earlier commit; writes nothing")
    chosen = options.parse_args()
    groups = chosen.only or (EVERYDAY if chosen.everyday else {row.group for row in ROWS})
    rows = [row for row in ROWS if row.group in groups]
    environments = Environments(chosen.environments, chosen.python)
    if chosen.against:
        rows = rows_against(rows, chosen.against)
        bench: Performance = Against(HERE, environments, rows, chosen.against)
    else:
        bench = Performance(HERE, environments, rows)
    bench.run(chosen.rounds or (2 if chosen.everyday else 5))
    report = Report(rows, bench.results, environments.versions())
    print(summary(report, rows) if chosen.against else report.text())
    if not (chosen.everyday or chosen.only or chosen.against):
        write(report)


if __name__ == "__main__":
    main()
