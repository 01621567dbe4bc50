"""A fault at every line of the call path: whatever fails wherever, the hold of the call ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import llm_connect
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMError
from llm_connect.interface.config import RunConfig
from tests.budget.budget_helpers import at_rest, come_to_rest
from tests.engine.test_call_budget import BAD, GOOD, SLOW_DOWN, Stub, config_of

PACKAGE = Path(llm_connect.__file__).parent
PATH = ("flow", "exchange", "concurrency_limit", "provider_adapter")
#: The call path, that of streams, and the plain metering; what is done under the lock of the budget is its own, and not
#: torn here.
FILES = frozenset(
    [str(PACKAGE / "_flows.py")]
    + [str(PACKAGE / "engine" / f"{name}.py") for name in (*PATH, "streaming")]
    + [str(PACKAGE / "interface" / f"{name}.py") for name in ("metering", "attempt", "adapter")]
    + [str(PACKAGE / "budget" / f"{name}.py") for name in ("admission/acquire", "accounting/bounds")]
)
#: Parts of other files that run outside of that lock: the waiters, and the holds that a caller remembers.
FUNCTIONS = ("ThreadWaiter.", "LoopWaiter.", "_Own.", "own_holds", "remember_own")
PARTS = frozenset(str(PACKAGE / "budget" / "admission" / f"{name}.py") for name in ("wait_queue", "holds"))


class Fault(BaseException):
    """What is raised; no code of ours knows it."""


class Injector:
    """Raises a fault at the n-th line that is run of FILES; counts the lines when n is None."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.lines = 0

    def __enter__(self) -> Injector:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        part = code.co_filename in PARTS and code.co_qualname.startswith(FUNCTIONS)
        if code.co_filename not in FILES and not part:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                raise Fault(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        return self._trace


class Plain(Stub):
    """Metered by the base class, and no more than a method."""

    metered = True

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> Any:
        return super().execute_prompt(prompt, RunConfig(max_tokens=5))


def run_sync(adapter: Stub, tracker: BudgetTracker, injector: Injector) -> None:
    config = config_of(tracker)
    with injector, suppress(LLMError, Fault):
        adapter.execute_prompt("hello", config)


def run_async(adapter: Stub, tracker: BudgetTracker, injector: Injector) -> None:
    config = config_of(tracker)

    async def main() -> None:
        with injector, suppress(LLMError, Fault):
            await adapter.async_execute_prompt("hello", config)

    asyncio.run(main())


@pytest.mark.in_memory_only
@pytest.mark.slow
@pytest.mark.parametrize("run", [run_sync, run_async])
@pytest.mark.parametrize("kind", [Stub, Plain])
@pytest.mark.parametrize("says", [[GOOD], [SLOW_DOWN, GOOD], [BAD, BAD, BAD]], ids=["good", "retried", "failed"])
def test_a_fault_anywhere_leaves_nothing_held(
    run: Callable[[Stub, BudgetTracker, Injector], None], kind: type[Stub], says: list[Any]
) -> None:
    """Raised at any line of the call path, it leaves no hold, and books that cover what was sent (BUDGET-3)."""
    counter = Injector(None)
    run(kind(*says), BudgetTracker(10_000), counter)
    assert counter.lines > 30
    for line in range(1, counter.lines + 1):
        tracker, adapter = BudgetTracker(10_000), kind(*says)
        run(adapter, tracker, Injector(line))
        come_to_rest(tracker)
        at_rest(tracker)
        billed = sum(outcome is not SLOW_DOWN for outcome in says[: len(adapter.limits)])
        assert tracker.spent >= 15 * billed, f"at line {line}"
