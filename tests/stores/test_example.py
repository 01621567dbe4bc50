"""The example of a worker pool, run as a script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "process_pool.py"


def test_the_workers_of_the_example_spend_one_budget() -> None:
    """Five of twelve questions fit, whichever worker asks them; the others are refused (STORE-6)."""
    done = subprocess.run([sys.executable, "-W", "error", EXAMPLE], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "5 of 12 were asked: 5000 of 5,000 tokens spent"
    assert done.stdout.count("not asked (never_fits)") == 7
