"""The contenders, with their packages and configuration."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.overshoot.scenarios import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One way to use one library.

    module: the file in `contenders/`. packages: those of its environment; ours has none, and runs in this one.
    children: the owner of the sub-agents' budgets: "its own", "by hand" (the caller counts on several), or "none".
    """

    title: str
    module: str
    variant: str
    unit: Unit
    asked: str
    packages: tuple[str, ...] = ()
    children: str = "none"

    @property
    def ours(self) -> bool:
        """True for this project."""
        return not self.packages


OURS = tuple(
    Entry(title=f"llm-connect, {name}", module="ours", variant=unit, unit=unit, asked=asked, children="its own")
    for name, unit, asked in (
        ("tokens", "tokens", "`BudgetTracker(total=...)` and `OpenAIAdapter`; `config.delegate` for B and C"),
        ("USD", "usd", "`BudgetTracker(total_usd=...)`, and `price=Price(...)` on the adapter"),
        ("calls", "calls", "`BudgetTracker(total_calls=20)`"),
    )
)
_LITELLM = ("litellm",)
_POOL = ("token-budget-py", "openai")
_AGENTBUDGET = ("agentbudget", "openai")
PEERS = (
    Entry(
        title="pydantic-ai `UsageLimits`",
        module="pydantic_ai_limits",
        variant="",
        unit="tokens",
        packages=("pydantic-ai-slim[openai]",),
        asked="`UsageLimits(total_tokens_limit=...)`, one `RunUsage` passed to all runs",
    ),
    Entry(
        title="LiteLLM `max_budget`",
        module="litellm_sdk",
        variant="max-budget",
        unit="usd",
        packages=_LITELLM,
        asked="`litellm.max_budget = ...`",
    ),
    Entry(
        title="LiteLLM `BudgetManager`",
        module="litellm_sdk",
        variant="manager",
        unit="usd",
        packages=_LITELLM,
        children="by hand",
        asked="`get_current_cost` before each call, `update_cost` after it",
    ),
    Entry(
        title="LiteLLM Router budgets",
        module="litellm_sdk",
        variant="router",
        unit="usd",
        packages=_LITELLM,
        asked="`Router(provider_budget_config=...)`",
    ),
    Entry(
        title="token-budget-py `record`",
        module="token_budget_py",
        variant="record",
        unit="tokens",
        packages=_POOL,
        children="by hand",
        asked="`BudgetPool(token_cap=...)`, `record` after each call",
    ),
    Entry(
        title="token-budget-py `reserve`",
        module="token_budget_py",
        variant="reserve",
        unit="tokens",
        packages=_POOL,
        children="by hand",
        asked="`reserve` of a token for four characters and the output limit (2,000 without one), then `commit`",
    ),
    Entry(
        title="agentbudget `wrap_client`",
        module="agentbudget_session",
        variant="wrap",
        unit="usd",
        packages=_AGENTBUDGET,
        children="its own",
        asked="`wrap_client(client, session)`; `child_session` for B and C",
    ),
    Entry(
        title="agentbudget `would_exceed`",
        module="agentbudget_session",
        variant="would-exceed",
        unit="usd",
        packages=_AGENTBUDGET,
        children="its own",
        asked="the same, and `would_exceed` of the estimated cost before each call",
    ),
    Entry(
        title="shekel",
        module="shekel_budget",
        variant="",
        unit="usd",
        packages=("shekel[openai]",),
        children="its own",
        asked="`with budget(max_usd=...)` around all calls, nested for B and C",
    ),
    Entry(
        title="tokencap",
        module="tokencap_client",
        variant="",
        unit="tokens",
        # Without tiktoken, which would fetch its vocabulary: it then takes a token for four characters.
        packages=("tokencap", "openai"),
        children="its own",
        asked="`Guard.wrap_openai` with a BLOCK policy, a dimension for each agent",
    ),
)
NO_BUDGET = Entry(
    title="no budget", module="no_budget", variant="", unit="tokens", packages=("openai",), asked="the openai SDK alone"
)
ROSTER = (*OURS, *PEERS, NO_BUDGET)
