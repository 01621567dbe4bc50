"""Profiles a call with cProfile: `python benchmarks/performance/profile_call.py NAME [--budget]`.

NAME is a provider of `create_adapter`. It prints the most expensive functions, and the number of function calls.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from processes import Child
from subjects import ours
from work import WORKS

HERE = Path(__file__).parent
_CALLS, _LINES = 500, 40
_PATHS = {"openai": "/v1", "openrouter": "/v1", "gemini": ""}


def main(name: str, budget: bool) -> None:
    server = Child(sys.executable, str(HERE / "server.py"), cpu=None)
    try:
        address = f"http://127.0.0.1:{int(server.read())}/0"
        call = ours(name, _PATHS[name], address, WORKS["short"], budget=budget).call
        assert call is not None
        call()
        profile = cProfile.Profile()
        with profile:
            for _ in range(_CALLS):
                call()
    finally:
        server.close()
    statistics = pstats.Stats(profile)
    print(f"{statistics.total_calls / _CALLS:.0f} functions for one call")  # type: ignore[attr-defined]
    statistics.sort_stats("cumulative").print_stats(_LINES)


if __name__ == "__main__":
    main(sys.argv[1], "--budget" in sys.argv[2:])
