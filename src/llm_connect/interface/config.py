"""`RunConfig`, the settings of one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, get_args

from llm_connect._validation import check_count, check_labels, check_mapping, check_number, check_text
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST

#: The behaviour of a call whose bound does not fit the budget at present.
WhenShort: TypeAlias = Literal["wait", "refuse", "clamp"]


class RunConfigFields(TypedDict, total=False):
    """The fields of `RunConfig` as keyword arguments, as in `delegate`; a test keeps the two equal."""

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
    """The settings of one call, immutable; adapters never change them.

        config = RunConfig(system_prompt="Be brief.", max_tokens=300, timeout_seconds=20)
        adapter.execute_prompt("Why is the sky blue?", config)

    model_name: the model to call; None means the adapter's own model.
    system_prompt: the instructions that precede the prompt; None or "" sends none.
    temperature: the sampling temperature; None sends none.
    max_tokens: the output limit in tokens, thinking included; None sends none, except under a budget (see below).
    model_params: further parameters. Adapters translate portable keys such as `json_schema` for their provider, and
        refuse keys that the provider does not know.
    timeout_seconds: the total time for waiting for budget, sending, reading and retries. Waiting for a concurrency slot
        does not count: `max_queue_seconds` limits it.
    first_chunk_seconds: the time that a stream may take from sending to its first text; None: only `timeout_seconds`.
    idle_seconds: the time that a stream may pause between two texts; None: only `timeout_seconds`.
    max_queue_seconds: the time that each attempt may wait for one of the adapter's `max_concurrency` slots; None means
        any time.
    max_wait_seconds: the time that each attempt may wait for budget; None means half of `timeout_seconds`.
    max_retries: the number of further attempts after a failure that may be temporary.
    max_depth: the number of levels of `delegate` that may still follow.
    when_short: the behaviour of a call whose bound does not fit at present, but will when other calls end: "wait",
        "refuse", or "clamp" (it shrinks its output limit to the free budget, and waits for at least `clamp_floor`).
    clamp_floor: the smallest output limit, in tokens, to which "clamp" or a missing `max_tokens` may shrink.
    budget_tracker: the budget of the call. Under a limit in tokens or USD a missing `max_tokens` becomes the adapter's
        default (2,000 tokens), or the free budget if that is less. That limit is held and sent, and if it cuts the
        answer off, `metadata["hint"]` says so. Without such a limit no output limit is sent.
    labels: names and short texts that describe the call in the ledger; UTF-8 must be able to encode them.
    stream_hold: always "bound": a stream holds its bound.

    Raises LLMConfigurationError for an invalid value.
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
    #: Only "bound" is left of earlier choices; any other value raises an error that explains the alternative.
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
        """The seconds that an attempt may wait for budget."""
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
        """Derive the config of a sub-agent, one level deeper; with a limit, it gets a child budget of its own.

            config_b = config.delegate("research", total=5_000, system_prompt="You look things up.")

        name: the name of the child budget.
        total, total_usd, total_calls: the limits of the child budget; without any, the sub-agent shares this config's
            budget.
        fields: fields of `RunConfig` that differ from this config.

        Budget, timeouts, retries and labels carry over. Model, parameters and system prompt do not, because they belong
        to this agent.

        Raises LLMConfigurationError if `max_depth` is 0, or for a limit without a budget.
        """
        if self.max_depth == 0:
            raise LLMConfigurationError(
                f"max_depth is used up, so delegating to {name!r} is refused: give the first config a higher max_depth."
            )
        names = RunConfigFields.__annotations__.keys() - _OF_ONE_AGENT
        carried: dict[str, Any] = {field: getattr(self, field) for field in names}
        if (total, total_usd, total_calls) != (None, None, None):
            carried["budget_tracker"] = self._tracker_for(name).child(
                name, total, total_usd=total_usd, total_calls=total_calls
            )
        return RunConfig(**{**carried, "max_depth": self.max_depth - 1, **fields})

    def _tracker_for(self, name: str) -> BudgetTracker:
        if self.budget_tracker is None:
            raise LLMConfigurationError(
                f"{name!r} has a limit, but this config has no budget_tracker: set one, or leave the limit out."
            )
        return self.budget_tracker


#: The fields that a sub-agent does not inherit.
_OF_ONE_AGENT = {"model_name", "system_prompt", "temperature", "max_tokens", "model_params"}


def _check_choice(name: str, value: object, choices: object) -> None:
    if value not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        raise LLMConfigurationError(f"{name} must be one of {allowed}, not {value!r}.")


def _check_stream_hold(stream_hold: object) -> None:
    if stream_hold != "bound":
        raise LLMConfigurationError(
            f"stream_hold={stream_hold!r} does not exist: a stream holds its bound. To hold less, use a smaller "
            'max_tokens, or when_short="clamp", which sends the free budget as the output limit.'
        )


def _check_tracker(tracker: object) -> None:
    if tracker is not None and not isinstance(tracker, BudgetTracker):
        raise LLMConfigurationError(f"budget_tracker must be a BudgetTracker, not {type(tracker).__name__}.")
