"""Run as a program: the first call of an adapter, in an event loop; prints what the loop's own thread has imported."""

from __future__ import annotations

import asyncio
import importlib.abc
import sys
import threading
from typing import Any

from llm_connect import BudgetTracker, RunConfig, create_adapter

#: Standard modules, which take no time to speak of.
QUICK = sys.stdlib_module_names


class Seen(importlib.abc.MetaPathFinder):
    """Finds no module, and notes what the main thread looks for."""

    def __init__(self) -> None:
        self.packages: dict[str, None] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        package = name.partition(".")[0]
        if threading.current_thread() is threading.main_thread() and package not in QUICK:
            self.packages[package] = None


async def main(name: str, base_url: str) -> None:
    adapter = create_adapter(name, model="m", api_key="sk-0123456789", base_url=base_url)
    seen = Seen()
    sys.meta_path.insert(0, seen)
    async with adapter:
        await adapter.async_execute_prompt("hello", RunConfig(max_tokens=20, budget_tracker=BudgetTracker(100_000)))
    sys.meta_path.remove(seen)
    print(*seen.packages)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
