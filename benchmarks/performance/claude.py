"""The Claude adapter compared with the bare binary: `python claude.py` prints ratios of wall time as JSON.

The provider is the embedded one on loopback; with 16 at once each form starts them in 16 threads.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from bare_claude import KEY, MODEL, PROMPT, SYSTEM, find_claude, started

from llm_connect import BudgetTracker, ClaudeCodeAdapter, RunConfig
from llm_connect.testing import EmbeddedProvider

_ROUNDS, _AT_ONCE = 8, 16


def bare(command: str, url: str) -> None:
    with started(command, url) as printed:
        assert '"type":"assistant"' in printed.read()


def wall(call: Callable[[], object], at_once: int) -> float:
    begun = time.perf_counter()
    if at_once == 1:
        call()
    else:
        with ThreadPoolExecutor(at_once) as pool:
            for done in [pool.submit(call) for _ in range(at_once)]:
                done.result()
    return time.perf_counter() - begun


def main() -> None:
    command = find_claude()
    if command is None:
        print("{}")
        return
    config = RunConfig(max_tokens=100, system_prompt=SYSTEM, budget_tracker=BudgetTracker(total=10**12))
    with EmbeddedProvider() as provider:
        url = provider.anthropic_url
        with ClaudeCodeAdapter(model=MODEL, api_key=KEY, base_url=url, cli_path=command) as adapter:
            pair = (lambda: adapter.execute_prompt(PROMPT, config), lambda: bare(command, url))
            figures = {"one": ratio(pair, 1, _ROUNDS), "sixteen": ratio(pair, _AT_ONCE, _ROUNDS // 4)}
            print(json.dumps(figures))


def ratio(pair: tuple[Callable[[], object], Callable[[], object]], at_once: int, rounds: int) -> float:
    """Return the time of the first of a pair over that of the second; the median of some rounds."""
    return statistics.median(wall(pair[0], at_once) / wall(pair[1], at_once) for _ in range(rounds))


if __name__ == "__main__":
    main()
