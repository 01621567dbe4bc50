"""One contender in one scenario; runs in the contender's environment and prints one JSON object.

python -P one_run.py MODULE VARIANT SCENARIO ATTEMPTS URL DESK_URL
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import TextIO

from benchmarks.overshoot.attempts import Task, attempt_all
from benchmarks.overshoot.scenarios import SCENARIOS


def main(module: str, variant: str, scenario: str, attempts: str, url: str, desk_url: str) -> None:
    task = Task(scenario=SCENARIOS[scenario], variant=variant, attempts=int(attempts), url=url, desk_url=desk_url)
    with apart() as result:
        contender = importlib.import_module(f"benchmarks.overshoot.contenders.{module}").make(task)
        outcomes = attempt_all(contender)
        held = contender.held()
        said = {"outcomes": outcomes, "books": str(contender.books()), "held": None if held is None else str(held)}
        print(json.dumps(said), file=result)


def apart() -> TextIO:
    """Reserve standard output for the result: redirect everything else to standard error."""
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
