"""Run as a program: a first call whose deadline passes while a package is looked for; prints if it waited for that."""

from __future__ import annotations

import asyncio
import importlib.abc
import sys
import threading
from typing import Any

from llm_connect import LLMTimeoutError, RunConfig, create_adapter

over = threading.Event()


class Slow(importlib.abc.MetaPathFinder):
    """Finds no module. Looking for one of them takes long, and blocks the search for any other one."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == sys.argv[2]:
            over.wait(60)


def main(name: str) -> None:
    adapter = create_adapter(name, model="m", api_key="sk-0123456789abcdef", base_url="http://127.0.0.1:9")
    config = RunConfig(timeout_seconds=1)
    sys.meta_path.insert(0, Slow())
    # Only a call that waits for the search meets it.
    given_up = threading.Timer(20, over.set)
    given_up.start()
    for call in (adapter.execute_prompt, lambda *given: asyncio.run(adapter.async_execute_prompt(*given))):
        try:
            call("hello", config)
        except LLMTimeoutError:
            print(over.is_set())
    given_up.cancel()
    over.set()


if __name__ == "__main__":
    main(sys.argv[1])
