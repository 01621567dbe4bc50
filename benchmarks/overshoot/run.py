"""Measures overshoot: 200 calls are attempted under a budget for 20, and the server's meter is the judge.

    python tasks.py overshoot            # all contenders, some minutes; writes docs/overshoot.md and the README's table
    python tasks.py overshoot --ours     # llm-connect only, within a minute; writes nothing

Exits with 1 if llm-connect breaks a rule of `verdicts.py`. Everything stays on loopback, except the installation of
the peers, each into its own environment in the user's cache folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.overshoot import environments, table  # noqa: E402
from benchmarks.overshoot.document import document, in_readme  # noqa: E402
from benchmarks.overshoot.results import Result, failure_of, result_of  # noqa: E402
from benchmarks.overshoot.roster import OURS, ROSTER, Entry  # noqa: E402
from benchmarks.overshoot.scenarios import ATTEMPTS, SCENARIOS, Scenario  # noqa: E402
from benchmarks.overshoot.server import Judge  # noqa: E402
from benchmarks.overshoot.verdicts import broken  # noqa: E402

ONE_RUN = Path(__file__).with_name("one_run.py")
RESULTS = Path(__file__).with_name("results.json")
DOCUMENT = ROOT / "docs" / "overshoot.md"
README = ROOT / "README.md"
#: The longest that a contender may take in one scenario.
SECONDS = 120


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    entries = [entry for entry in (OURS if options.ours else ROSTER) if options.only in entry.title]
    scenarios = [SCENARIOS[name] for name in options.scenarios]
    pythons = {e: environments.python_for(e, options.environments, upgrade=options.upgrade) for e in entries}
    results = list(measured(pythons, scenarios, options.attempts))
    rules_broken = [rule for entry, result in results if entry.ours for rule in broken(result)]
    found = [result for _, result in results]
    if options.json:
        options.json.write_text(as_json(found, rules_broken))
    print(table.markdown(found))
    if whole(options):
        RESULTS.write_text(as_json(found, rules_broken))
        DOCUMENT.write_text(document(found, {e: environments.versions(pythons[e], e) for e in entries}))
        README.write_text(in_readme(README.read_text(), found))
    for rule in rules_broken:
        print(f"BROKEN: {rule}", file=sys.stderr)
    return 1 if rules_broken else 0


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tasks.py overshoot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ours", action="store_true", help="llm-connect only; nothing is installed or written")
    parser.add_argument("--only", default="", metavar="WORD", help="contenders with WORD in their name")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--attempts", type=int, default=ATTEMPTS, help="calls to attempt in each scenario")
    parser.add_argument("--environments", type=Path, default=environments.default_folder(), metavar="FOLDER")
    parser.add_argument("--upgrade", action="store_true", help="bring the peers to their newest releases first")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return parser.parse_args(words)


def whole(options: argparse.Namespace) -> bool:
    """Return True if every contender and scenario was measured, so that the result may be published."""
    everything = not options.only and len(options.scenarios) == len(SCENARIOS)
    return everything and not options.ours and options.attempts == ATTEMPTS


def measured(pythons: dict[Entry, str], scenarios: Sequence[Scenario], attempts: int) -> Iterator[tuple[Entry, Result]]:
    """One fresh process for each contender and scenario, all against the same server."""
    with Judge() as judge:
        for entry, python in pythons.items():
            for scenario in scenarios:
                print(f"{entry.title}: {scenario.name}", file=sys.stderr, flush=True)
                judge.begin(scenario)
                yield entry, one_run(judge, entry, python, scenario, attempts)


def one_run(judge: Judge, entry: Entry, python: str, scenario: Scenario, attempts: int) -> Result:
    """Let a contender attempt its calls, and take the bill."""
    warnings = "error" if entry.ours else "ignore"
    words = [entry.module, entry.variant, scenario.name, str(attempts), judge.url, judge.desk_url]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [python, "-P", "-W", warnings, str(ONE_RUN), *words],
                cwd=folder,
                env=environments.variables(ROOT, Path(folder)),
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return failure_of(entry, scenario, attempts, f"it had not ended after {SECONDS} s")
    if done.returncode != 0 or (entry.ours and done.stderr):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return failure_of(entry, scenario, attempts, last)
    return result_of(entry, scenario, attempts, json.loads(done.stdout), judge.bill())


def as_json(results: Sequence[Result], rules_broken: Sequence[str]) -> str:
    plain = {"broken": list(rules_broken), "results": [result.to_json() for result in results]}
    return json.dumps(plain, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
