"""A worker: it takes the measures requested on its standard input.

One line of JSON is one measure with its options, such as {"subject": "openai", "measure": "sync", "count": 20}; one
line of JSON is the answer. Needs only the contender itself.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from typing import Any, Protocol

Result = dict[str, float]


class Worker(Protocol):
    """Has a method for each measure; `subject` is the contender that is meant."""

    subject: str


def obey(worker: Worker) -> None:
    """Measure until the standard input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for line in sys.stdin:
        options: dict[str, Any] = json.loads(line)
        worker.subject = options.pop("subject")
        measure: Callable[..., Result] = getattr(worker, options.pop("measure"))
        print(json.dumps(measure(**options)), flush=True)
