"""How one call is to be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, get_args

from llm_connect._validation import check_count, check_labels, check_mapping, check_number, check_text
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST

#: What a call does whose bound does not fit the budget now.
WhenShort: TypeAlias = Literal["wait", "refuse", "clamp"]


class RunConfigFields(TypedDict, total=False):
    """The fields of `RunConfig`, for those who pass some of them on; a test compares the two."""

    model_name: str | None
    system_prompt: str | None
    temperature: float | None
    max_tokens: int | None
    model_params: Mapping[str, Any]
    timeout_seconds: float
    first_chunk_seconds: float | None
    idle_seconds: float | None
    max_queue_seconds: float | None
    max_wait_seconds: float | None
    max_retries: int
    max_depth: int
    when_short: WhenShort
    clamp_floor: int
    budget_tracker: BudgetTracker | None
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How one call is to be made; never changed by an adapter.

        config = RunConfig(system_prompt="Be brief.", max_tokens=300, timeout_seconds=20)
        adapter.execute_prompt("Why is the sky blue?", config)

    model_name: None means the adapter's own model.
    temperature: None means that none is sent.
    max_tokens: limit of the output in tokens, thinking included; None means that none is sent.
    model_params: further parameters; portable keys such as `json_schema` are translated for each provider,
        keys that a provider does not know are refused.
    timeout_seconds: a total over waiting for budget, sending, reading and retries; not over `max_queue_seconds`.
    first_chunk_seconds: how long a stream may take from sending to its first text; None leaves it to `timeout_seconds`.
    idle_seconds: how long a stream may be without further text, once it has begun; None likewise.
    max_queue_seconds: how long each attempt may wait for a place among the adapter's `max_concurrency` requests, which
        does not count as `timeout_seconds`; None means as long as it takes.
    max_wait_seconds: how long each attempt may wait for budget; None means half of `timeout_seconds`.
    max_retries: further attempts after one that failed in a way that may pass.
    max_depth: how many more times this config may be delegated.
    when_short: what a call does whose bound does not fit the budget now, but will when others have ended: "wait",
        "refuse", or "clamp" (its output limit becomes what is free, and it waits for `clamp_floor` at the least).
    clamp_floor: the smallest output limit, in tokens, that "clamp" or a missing `max_tokens` may end up with.
    budget_tracker: the budget that this call spends from. Under a limit in tokens or USD a missing `max_tokens` becomes
        the adapter's default (2,000), or what is free if that is less; that limit is held and sent, and an answer that
        it cuts says so in `metadata["hint"]`. Without such a limit nothing is sent.
    labels: what the call is for, as short text by name, which UTF-8 can encode; the ledger keeps it.

    Raises LLMConfigurationError for a value that cannot be meant.
    """

    model_name: str | None = None
    system_prompt: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    model_params: Mapping[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 300.0
    first_chunk_seconds: float | None = None
    idle_seconds: float | None = None
    max_queue_seconds: float | None = None
    max_wait_seconds: float | None = None
    max_retries: int = 2
    max_depth: int = 3
    when_short: WhenShort = "wait"
    clamp_floor: int = 256
    budget_tracker: BudgetTracker | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    #: A stream holds its bound. Nothing else may be said here, which tells those who once said more.
    stream_hold: InitVar[Literal["bound"]] = "bound"

    def __post_init__(self, stream_hold: str) -> None:
        check_text("model_name", self.model_name, may_be_blank=False)
        check_text("system_prompt", self.system_prompt, may_be_blank=True)
        check_number("temperature", self.temperature, least=0, optional=True)
        check_count("max_tokens", self.max_tokens, least=1, most=MOST, optional=True)
        check_number("timeout_seconds", self.timeout_seconds, above=0)
        check_number("first_chunk_seconds", self.first_chunk_seconds, above=0, optional=True)
        check_number("idle_seconds", self.idle_seconds, above=0, optional=True)
        check_number("max_queue_seconds", self.max_queue_seconds, least=0, optional=True)
        check_number("max_wait_seconds", self.max_wait_seconds, least=0, optional=True)
        check_count("max_retries", self.max_retries, least=0)
        check_count("max_depth", self.max_depth, least=0)
        check_count("clamp_floor", self.clamp_floor, least=1)
        _check_choice("when_short", self.when_short, WhenShort)
        _check_stream_hold(stream_hold)
        _check_tracker(self.budget_tracker)
        check_mapping("model_params", self.model_params, value_type=object)
        check_labels(self.labels)
        for name in ("model_params", "labels"):
            object.__setattr__(self, name, dict(getattr(self, name)))

    @property
    def budget_wait_seconds(self) -> float:
        """Seconds that an attempt may wait for budget."""
        return self.timeout_seconds / 2 if self.max_wait_seconds is None else self.max_wait_seconds

    def delegate(
        self,
        name: str,
        *,
        total: int | None = None,
        total_usd: int | str | float | Decimal | None = None,
        total_calls: int | None = None,
        **fields: Unpack[RunConfigFields],
    ) -> RunConfig:
        """The config for a sub-agent: one level less, and with a limit a child budget of its own.

            config_b = config.delegate("research", total=5_000, system_prompt="You look things up.")

        name: the child budget's name. total, total_usd, total_calls: its limits; without any, the sub-agent shares
            this config's budget as it is. fields: fields of `RunConfig` that differ.

        Budget, timeouts, retries and labels carry over; model, parameters and system prompt do not, as they belong
        to this agent. Raises LLMConfigurationError when `max_depth` is used up.
        """
        if self.max_depth == 0:
            raise LLMConfigurationError(
                f"max_depth is used up: {name!r} cannot be delegated to. Give the first config a higher max_depth."
            )
        carried: dict[str, Any] = {field: getattr(self, field) for field in _CARRIED}
        if (total, total_usd, total_calls) != (None, None, None):
            carried["budget_tracker"] = self._tracker_for(name).child(
                name, total, total_usd=total_usd, total_calls=total_calls
            )
        return RunConfig(**{**carried, "max_depth": self.max_depth - 1, **fields})

    def _tracker_for(self, name: str) -> BudgetTracker:
        if self.budget_tracker is None:
            raise LLMConfigurationError(
                f"{name!r} was given a limit, but this config has no budget_tracker to take it from."
            )
        return self.budget_tracker


#: Fields that a sub-agent takes over.
_CARRIED = (
    "timeout_seconds",
    "first_chunk_seconds",
    "idle_seconds",
    "max_queue_seconds",
    "max_wait_seconds",
    "max_retries",
    "when_short",
    "clamp_floor",
    "budget_tracker",
    "labels",
)


def _check_choice(name: str, value: object, choices: object) -> None:
    if value not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        raise LLMConfigurationError(f"{name} must be one of {allowed}, not {value!r}.")


def _check_stream_hold(stream_hold: object) -> None:
    if stream_hold != "bound":
        raise LLMConfigurationError(
            f"stream_hold={stream_hold!r} does not exist: a stream holds its bound. To hold less, give it a smaller "
            'max_tokens, or when_short="clamp", which sends what is free as its output limit.'
        )


def _check_tracker(tracker: object) -> None:
    if tracker is not None and not isinstance(tracker, BudgetTracker):
        raise LLMConfigurationError(f"budget_tracker must be a BudgetTracker, not {type(tracker).__name__}.")
