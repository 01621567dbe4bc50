"""The third-party modules that the package imports: `python modules.py` prints their number and names as JSON."""

from __future__ import annotations

import json
import sys

before = set(sys.modules)

from llm_connect import BudgetTracker, LLMAdapter, RunConfig  # noqa: E402, F401

loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - {"llm_connect"}
foreign = sorted(name for name in loaded if name not in sys.stdlib_module_names)
print(json.dumps({"count": len(foreign), "names": foreign}))
