"""One call of the kit: its arguments, and everything that could be seen of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeAlias

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.interface.adapter import LLMAdapter
from llm_connect.interface.config import RunConfig

from ._calls import AsyncWork, Outcome, run, run_async

Form: TypeAlias = Literal["execute_prompt", "async_execute_prompt"]
FORMS: Final[tuple[Form, ...]] = ("execute_prompt", "async_execute_prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The provider's counts of requests and billed tokens; None for those that it cannot report."""

    requests: int | None
    billed: int | None

    def since(self, before: Tally) -> Tally:
        """The increase since `before`."""
        return Tally(requests=_less(self.requests, before.requests), billed=_less(self.billed, before.billed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One call, and everything that could be seen of it.

    tracker: the budget of the call. changed: the fields of its config that the call has changed.
    tally: the provider's counts for it.
    """

    what: str
    outcome: Outcome
    tracker: BudgetTracker | None
    changed: tuple[str, ...]
    tally: Tally

    def __str__(self) -> str:
        return f"{self.what} {self.outcome}"

    @property
    def raised(self) -> BaseException | None:
        return self.outcome.raised

    @property
    def budget(self) -> BudgetTracker:
        """The budget of a call that had one."""
        assert self.tracker is not None
        return self.tracker


def sync_work(adapter: LLMAdapter, prompt: Any, config: RunConfig | None) -> Callable[[], Any]:
    return lambda: adapter.execute_prompt(prompt, config)


def async_work(adapter: LLMAdapter, prompt: Any, config: RunConfig | None) -> AsyncWork:
    return lambda: adapter.async_execute_prompt(prompt, config)


def made(form: Form, adapter: LLMAdapter, prompt: Any, config: RunConfig | None, seconds: float) -> Outcome:
    """Make one call within `seconds`."""
    if form == "execute_prompt":
        return run(sync_work(adapter, prompt, config), seconds)
    return run_async(async_work(adapter, prompt, config), seconds)


def state_of(config: RunConfig | None) -> dict[str, Any]:
    """Deep copies of the fields of a config; a budget stays itself."""
    if config is None:
        return {}
    return {field.name: copy.deepcopy(getattr(config, field.name)) for field in fields(config)}


def changes(before: dict[str, Any], config: RunConfig | None) -> tuple[str, ...]:
    """The fields that have changed."""
    return tuple(name for name, value in before.items() if getattr(config, name) != value)


def _less(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before
