"""The adapter under test, and the calls that the rules judge. Each kind of call is made when a rule first needs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, Final

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.interface.adapter import LLMAdapter
from llm_connect.interface.config import RunConfig
from llm_connect.types.response import LLMResponse

from ._calls import GRACE_SECONDS, Outcome, run_cancelled
from ._means import Means, adapter_from
from ._searching import logged
from ._streamed import STREAM_FORMS, StreamForm, streamed
from ._trial import FORMS, Form, Tally, Trial, async_work, changes, made, state_of

UNKNOWN_PARAMETER: Final = "parameter_that_no_provider_knows"
UNSENDABLE: Final[dict[str, Any]] = {
    "a prompt of bytes": b"bytes",
    "no prompt (None)": None,
    "an empty prompt": "",
    "a blank prompt": " \n\t",
    "lone surrogates": "colour \ud83c",
}
#: The smallest possible caps.
SMALLEST_CAPS: Final[dict[str, dict[str, Any]]] = {
    "a cap of one token": {"total": 1},
    "a cap of a nano-dollar": {"total_usd": "0.000000001"},
}

_USUAL: Final = object()


class NotChecked(Exception):
    """Raised by a rule that cannot be judged here; the text has the reason."""


class Bench:
    """Makes the calls of the adapter, and keeps those that several rules look at."""

    def __init__(self, means: Means) -> None:
        self.means = means
        self.adapter: LLMAdapter = adapter_from("make", means.make)
        #: The log of failed calls.
        self.failure_log: list[str] = []

    def tally(self) -> Tally:
        """The provider's counts so far."""
        requests, billed = self.means.count_requests, self.means.billed_tokens
        return Tally(requests=requests and requests(), billed=billed and billed())

    def budgeted(self, tracker: BudgetTracker | None = None, **fields: Any) -> RunConfig:
        """The config of a call under a budget; by default the budget only meters."""
        return self.means.config_with(budget_tracker=tracker or BudgetTracker(name="conformance"), **fields)

    def ask(
        self,
        form: Form,
        config: RunConfig | None,
        *,
        what: str = "",
        adapter: LLMAdapter | None = None,
        prompt: Any = _USUAL,
        seconds: float | None = None,
    ) -> Trial:
        """Make one call, and give it up some time after `seconds`; `what` names anything unusual about it."""
        text = self.means.prompt if prompt is _USUAL else prompt
        limit = (self.means.patience_seconds if seconds is None else seconds) + GRACE_SECONDS
        work = partial(made, form, adapter or self.adapter, text, config, limit)
        return self._tried(f"{form}{what and f' with {what}'}", config, work)

    def stream(self, form: StreamForm, most: int | None = None) -> Trial:
        """Open one stream, and leave it after `most` chunks."""
        config, limit = self.budgeted(), self.means.patience_seconds + GRACE_SECONDS
        work = partial(streamed, form, self.adapter, self.means.prompt, config, most, limit)
        return self._tried(f"{form}{'' if most is None else ', left early,'}", config, work)

    def _tried(self, what: str, config: RunConfig | None, work: Callable[[], Outcome]) -> Trial:
        before, counted = state_of(config), self.tally()
        return Trial(
            what=what,
            outcome=work(),
            tracker=None if config is None else config.budget_tracker,
            changed=changes(before, config),
            tally=self.tally().since(counted),
        )

    @cached_property
    def answered(self) -> tuple[Trial, ...]:
        """Ordinary calls, each under its own budget."""
        return tuple(self.ask(form, self.budgeted()) for form in FORMS)

    @cached_property
    def responses(self) -> tuple[tuple[Trial, LLMResponse], ...]:
        """The answers to ordinary calls, for rules after the one that requires answers."""
        return tuple((trial, trial.outcome.returned) for trial in self.answered)

    @cached_property
    def streamed(self) -> tuple[Trial, ...]:
        """Ordinary streams, read to their end."""
        return tuple(self.stream(form) for form in STREAM_FORMS)

    @cached_property
    def left(self) -> tuple[Trial, ...]:
        """Streams that were left after their first chunk."""
        return tuple(self.stream(form, 1) for form in STREAM_FORMS)

    @cached_property
    def unsendable(self) -> tuple[Trial, ...]:
        """Calls with prompts that cannot be sent, with a budget and without."""
        return tuple(
            self.ask(form, config, what=what, prompt=prompt)
            for what, prompt in UNSENDABLE.items()
            for form in FORMS
            for config in (self.budgeted(), self.means.config_with())
        )

    @cached_property
    def unknown_parameter(self) -> tuple[Trial, ...]:
        """Calls with a parameter unknown to every provider, with a budget and without."""
        params = {**self.means.config.model_params, UNKNOWN_PARAMETER: 1}
        return tuple(
            self.ask(form, config, what="an unknown key in model_params")
            for form in FORMS
            for config in (self.budgeted(model_params=params), self.means.config_with(model_params=params))
        )

    @cached_property
    def over_cap(self) -> tuple[Trial, ...]:
        """Calls under caps that are too small for them."""
        return tuple(
            self.ask(form, self.budgeted(BudgetTracker(**limits)), what=what)
            for what, limits in SMALLEST_CAPS.items()
            for form in FORMS
        )

    @property
    def refused(self) -> Iterator[Trial]:
        """The refused ones among the calls that must not be sent."""
        asked = (*self.unsendable, *self.unknown_parameter, *self.over_cap)
        return (trial for trial in asked if trial.raised is not None)

    @cached_property
    def slow(self) -> LLMAdapter:
        assert self.means.slow is not None
        return adapter_from("slow", self.means.slow)

    @cached_property
    def late(self) -> tuple[Trial, ...]:
        """Calls that the provider does not answer before their deadline."""
        seconds = self.means.deadline_seconds
        trials = tuple(
            self.ask(
                form,
                self.budgeted(timeout_seconds=seconds),
                what="a slow provider",
                adapter=self.slow,
                seconds=seconds,
            )
            for form in FORMS
        )
        if any(trial.outcome.answered and trial.outcome.seconds < seconds for trial in trials):
            raise NotChecked("slow= answers before the deadline: it must take longer than deadline_seconds")
        return trials

    @cached_property
    def cancelled(self) -> Trial:
        """A call that was cancelled while the provider did not answer."""
        seconds, counted, started = self.means.deadline_seconds, self.tally(), time.monotonic()
        config = self.budgeted(timeout_seconds=3 * seconds)

        def is_under_way() -> bool:
            """True once its request has arrived, or, if that cannot be seen, once some time has passed."""
            arrived = self.tally().since(counted).requests
            return bool(arrived) or time.monotonic() - started > (seconds if arrived is None else 2 * seconds)

        before = state_of(config)
        outcome = run_cancelled(async_work(self.slow, self.means.prompt, config), is_under_way, 3 * seconds)
        if outcome is None:
            raise NotChecked("slow= ends its call before it can be cancelled: it must take longer")
        return Trial(
            what="async_execute_prompt, cancelled,",
            outcome=outcome,
            tracker=config.budget_tracker,
            changed=changes(before, config),
            tally=self.tally().since(counted),
        )

    @cached_property
    def failures(self) -> tuple[tuple[Trial, ...], ...]:
        """Calls that the provider fails: both forms for each way to fail."""
        adapters = [adapter_from("failing", make) for make in self.means.failing]
        with logged() as self.failure_log:
            return tuple(
                tuple(self.ask(form, self.budgeted(), what=f"failing provider {n}", adapter=adapter) for form in FORMS)
                for n, adapter in enumerate(adapters, 1)
            )

    @property
    def failed(self) -> Iterator[Trial]:
        return (trial for trials in self.failures for trial in trials)
