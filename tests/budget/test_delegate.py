"""The config of a sub-agent."""

from __future__ import annotations

import pytest

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig


def test_a_limit_makes_a_child() -> None:
    """With limits the sub-agent gets a child budget (MODEL-10)."""
    tracker = BudgetTracker(1_000)
    config = RunConfig(budget_tracker=tracker).delegate("b", total=100, total_usd="0.5", total_calls=3)
    child = config.budget_tracker
    assert child is not None
    assert (child.parent, child.path) == (tracker, "budget/b")
    assert (child.total, str(child.total_usd), child.total_calls) == (100, "0.5", 3)


def test_without_limits_the_budget_is_shared() -> None:
    """Without limits the sub-agent spends from the same tracker, if there is one."""
    tracker = BudgetTracker(1_000)
    assert RunConfig(budget_tracker=tracker).delegate("b").budget_tracker is tracker
    assert RunConfig().delegate("b").budget_tracker is None


def test_what_carries_over() -> None:
    """Timeouts, retries, terms and labels carry over; model, parameters and prompts do not (MODEL-10)."""
    config = RunConfig(
        model_name="m",
        system_prompt="s",
        temperature=1.0,
        max_tokens=5,
        model_params={"top_p": 1},
        timeout_seconds=7,
        first_chunk_seconds=4,
        idle_seconds=2,
        max_wait_seconds=3,
        max_retries=1,
        max_depth=2,
        when_short="clamp",
        clamp_floor=9,
        labels={"task": "t"},
    )
    same = RunConfig(
        timeout_seconds=7,
        first_chunk_seconds=4,
        idle_seconds=2,
        max_wait_seconds=3,
        max_retries=1,
        max_depth=1,
        when_short="clamp",
        clamp_floor=9,
        labels={"task": "t"},
    )
    assert config.delegate("b") == same
    other = config.delegate("b", system_prompt="x", timeout_seconds=1)
    assert (other.system_prompt, other.timeout_seconds, other.max_depth) == ("x", 1, 1)


def test_depth_is_used_up() -> None:
    """A config can be delegated `max_depth` times; then the error names the sub-agent (MODEL-10)."""
    config = RunConfig(max_depth=2).delegate("b").delegate("c")
    with pytest.raises(LLMConfigurationError, match="max_depth is used up, so delegating to 'd' is refused"):
        config.delegate("d")


def test_a_limit_needs_a_budget() -> None:
    """A limit for a sub-agent is refused if the config has no budget."""
    with pytest.raises(LLMConfigurationError, match=r"^'b' has a limit, but this config has no budget_tracker"):
        RunConfig().delegate("b", total=10)
