"""A process from its start to the first reply: `python cold.py SUBJECT ADDRESS`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from subjects import SUBJECTS
from work import WORKS

call = SUBJECTS[sys.argv[1]](f"{sys.argv[2]}/0", WORKS["short"]).call
assert call is not None
assert call()
