"""The conformance kit: good adapters pass, each kind of broken one is caught by the rule that is about it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest

from llm_connect import (
    Bound,
    BudgetTracker,
    LLMAdapter,
    LLMAPIError,
    LLMConfigurationError,
    LLMResponse,
    Price,
    RunConfig,
    Usage,
)
from llm_connect.testing import (
    ConformanceError,
    ConformanceReport,
    NotCheckedWarning,
    check_adapter,
    conformance_rules,
)
from tests.leftovers import nothing_left
from tests.test_contracts import declared
from tests.testing.broken_adapters import BROKEN
from tests.testing.broken_errors import LetsOthersErrorsOut
from tests.testing.good_adapters import KEY, Good, GoodByItself, Provider, Streaming

RULES = {rule.name: rule for rule in conformance_rules()}


def check(kind: type[LLMAdapter], **options: Any) -> ConformanceReport:
    """A check with all means, short deadlines, and `options`."""
    good, slow, failing = providers = (Provider(), Provider(seconds=1.0), Provider(fails=True))
    means: dict[str, Any] = {
        "slow": lambda: kind(slow),  # type: ignore[call-arg]
        "failing": lambda: kind(failing),  # type: ignore[call-arg]
        "count_requests": lambda: sum(provider.requests for provider in providers),
        "billed_tokens": lambda: sum(provider.billed for provider in providers),
        "secrets": [KEY],
        "deadline_seconds": 0.2,
    }
    return check_adapter(lambda: kind(good), **means | options)  # type: ignore[call-arg]


def broken(kind: type[LLMAdapter], **options: Any) -> ConformanceReport:
    """The report of a check that must fail."""
    with pytest.raises(ConformanceError) as caught:
        check(kind, **options)
    return caught.value.report


def names(results: Any) -> list[str]:
    return [result.rule.name for result in results]


class Estimating(Good):
    """Its provider says nothing of usage."""

    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"usage": replace(usage, estimated=True)}


class Free(Good):
    """Its provider charges nothing, and says so."""

    price = Price.free()

    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"cost": Decimal(0), "cost_source": "provider"}


class SendsTwice(Good):
    """May need a second request for an answer."""

    def bound(self, prompt: Any, config: RunConfig) -> Bound:
        return replace(super().bound(prompt, config), calls=2)


class Wrapper(LLMAdapter):
    """Hands on to another adapter, and its own budget with it."""

    metered = False

    def __init__(self, provider: Provider) -> None:
        self.inner = Good(provider)

    def execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return self.inner.execute_prompt(prompt, self.with_budget(config))

    async def async_execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return await self.inner.async_execute_prompt(prompt, self.with_budget(config))

    def with_budget(self, config: RunConfig | None) -> RunConfig:
        config = config or RunConfig()
        return replace(config, budget_tracker=config.budget_tracker or self.budget_tracker)


class SyncOnly(Good):
    """Its async form is that of the base class."""

    async_execute_prompt = LLMAdapter.async_execute_prompt


@pytest.mark.parametrize("kind", [Good, GoodByItself, Estimating, Free, SendsTwice, Wrapper, SyncOnly, Streaming])
def test_a_good_adapter_keeps_every_rule(kind: type[LLMAdapter]) -> None:
    """A good adapter passes, whoever meters it, whatever its provider says of usage and price. (TESTKIT-8)"""
    report = check(kind)
    assert names(report.kept) == list(RULES)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [pytest.param(rule, kind, id=kind.__name__) for rule, kinds in BROKEN.items() for kind in kinds],
)
def test_a_broken_adapter_is_caught(rule: str, kind: type[Good]) -> None:
    """An adapter that breaks one rule is told of that rule, and of no other. (TESTKIT-8)"""
    assert names(broken(kind).broken) == [rule]


def test_every_rule_can_be_broken() -> None:
    """For every rule there is an adapter that breaks it. (TESTKIT-8)"""
    assert sorted(BROKEN) == sorted(RULES)


def test_every_rule_is_a_sentence_of_the_contracts() -> None:
    """A rule says in a sentence what it is about, and names the invariant that it checks."""
    for rule in RULES.values():
        match = re.fullmatch(r".{20,}\. \(([A-Z]+-\d+)\)", rule.sentence)
        assert match, rule.sentence
        assert match[1] in declared()


def test_what_was_not_given_is_not_kept() -> None:
    """A rule without its means is not checked: the report says what to pass, and a warning repeats it. (TESTKIT-9)"""
    with pytest.warns(NotCheckedWarning, match=r"deadline_is_kept: pass slow="):
        report = check_adapter(lambda: Good(Provider()))
    needing = [rule.name for rule in RULES.values() if rule.needs]
    assert names(report.not_checked) == needing
    assert names(report.kept) == [name for name in RULES if name not in needing]
    assert "unanswered_call_is_booked: pass slow=, count_requests=" in str(report)


def test_a_test_of_one_rule_without_its_means_is_skipped() -> None:
    """When nothing could be checked, that is a skipped test, not a passed one. (TESTKIT-9)"""
    with pytest.raises(SkipTest, match="pass slow="):
        check_adapter(lambda: Good(Provider()), rules=[RULES["deadline_is_kept"]])


def test_one_test_for_each_rule(tmp_path: Path) -> None:
    """pytest shows a test for each rule by its name, those without means as skipped. (TESTKIT-9)"""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "from llm_connect import MockLLMAdapter\n"
        "from llm_connect.testing import check_adapter, conformance_rules\n"
        "@pytest.mark.parametrize('rule', conformance_rules(), ids=str)\n"
        "def test_it(rule):\n"
        "    check_adapter(MockLLMAdapter, rules=[rule])\n"
    )
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", str(tmp_path)]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200).stdout
    needing = [rule for rule in RULES.values() if rule.needs]
    kept = len(RULES) - len(needing) - 1
    assert f"1 failed, {kept} passed, {len(needing)} skipped" in shown, shown
    assert "PASSED test_it.py::test_it[config_is_not_changed]" in shown
    assert "FAILED test_it.py::test_it[unknown_parameter_is_refused]" in shown


def test_what_rests_on_a_broken_rule_is_not_checked() -> None:
    """A rule that rests on one that is broken is not judged, and the report says so. (TESTKIT-9)"""
    report = broken(BROKEN["call_is_metered"][0])
    reasons = {result.rule.name: result.seen for result in report.not_checked}
    assert reasons["call_over_the_cap_is_refused"] == ("it rests on call_is_metered, which is broken",)


def test_a_rule_may_be_waived() -> None:
    """A rule that is waived is not called kept; its reason is in the report. (TESTKIT-9)"""
    kind = BROKEN["metadata_is_complete"][0]
    report = check(kind, waived={"metadata_is_complete": "an old provider"})
    assert names(report.waived) == ["metadata_is_complete"]
    assert "metadata_is_complete: an old provider" in str(report)


def test_a_provider_that_is_not_slow_shows_nothing() -> None:
    """When `slow` answers in time, the rules about deadlines are not checked. (TESTKIT-9)"""
    with pytest.warns(NotCheckedWarning, match="slow= answers before the deadline"):
        report = check(Good, slow=lambda: Good(Provider()))
    assert {"deadline_is_kept", "cancellation_passes", "event_loop_stays_free"} <= set(names(report.not_checked))


def test_requests_that_are_not_counted_show_nothing() -> None:
    """When `count_requests` does not see the slow provider, what became of its requests is not checked. (TESTKIT-9)"""
    provider = Provider()
    rule = RULES["unanswered_call_is_booked"]
    with pytest.raises(SkipTest, match="does not count the requests of slow="):
        check(Good, count_requests=lambda: provider.requests, rules=[rule])


@pytest.mark.parametrize("name", ["count_requests", "billed_tokens"])
def test_a_counter_that_counts_nothing_is_noticed(name: str) -> None:
    """A counter that stays at 0 while calls are answered does not make a rule look kept. (TESTKIT-9)"""
    report = broken(Good, **{name: lambda: 0, "waived": {"unanswered_call_is_booked": "of the counter, too"}})
    assert names(report.broken) == [{"count_requests": "books_cover_the_requests"}.get(name, "books_cover_the_bill")]


def test_each_way_to_fail_is_tried() -> None:
    """With several ways to fail, one that lets a foreign exception out is enough. (TESTKIT-8)"""
    failing = [lambda kind=kind: kind(Provider(fails=True)) for kind in (Good, LetsOthersErrorsOut)]
    report = broken(Good, failing=failing)
    assert names(report.broken) == ["failure_is_an_llm_error"]
    assert "execute_prompt with failing provider 2 raised ConnectionError: 500" in str(report)


def test_the_report_says_rule_and_what_was_seen() -> None:
    """The text of the error has the rule, its sentence, and what was seen of each form. (TESTKIT-8)"""
    report = broken(BROKEN["finish_reason_is_known"][0])
    assert "finish_reason_is_known: `finish_reason` is one of the closed set. (MODEL-9)" in str(report)
    assert "  - execute_prompt: 'end_turn' is none of stop, length" in str(report)
    assert "  - async_execute_prompt: 'end_turn' is none of" in str(report)


def test_no_key_is_in_a_report() -> None:
    """A key that an adapter shows is not shown again by the report. (TESTKIT-10)"""

    class Shouts(Good):
        def failure(self, prompt: str) -> Exception:
            return ConnectionError(f"Authorization: Bearer {KEY}")

    report = broken(Shouts)
    assert "raised ConnectionError" in str(report)
    assert KEY[:12] not in str(report)


async def test_it_works_in_a_running_event_loop() -> None:
    """The kit may be called from a coroutine. (TESTKIT-10)"""
    assert asyncio.get_running_loop().is_running()
    assert not check(Good).not_checked


def test_it_leaves_nothing_behind() -> None:
    """After a check there is no thread, no log handler and no budget on the adapter that was not there. (TESTKIT-10)"""
    own = BudgetTracker(name="own")
    adapter = Good(Provider())
    adapter.budget_tracker = own
    handlers = list(logging.getLogger().handlers)
    with nothing_left():
        check_adapter(lambda: adapter, rules=[rule for rule in RULES.values() if not rule.needs])
        check(Good)
    assert logging.getLogger().handlers == handlers
    assert adapter.budget_tracker is own


def test_a_cap_for_twenty_of_two_hundred() -> None:
    """The caps are tried with as many calls as are asked for. (TESTKIT-8)"""
    rules = [rule for rule in RULES.values() if rule.name.startswith("cap_on_")]
    assert len(check(Good, rules=rules, calls=20, attempts=200).kept) == 2


def test_the_kit_sets_budget_and_times() -> None:
    """What a config says of its budget, of waiting and of time does not change what is checked. (TESTKIT-10)"""
    own = BudgetTracker(1)
    config = RunConfig(budget_tracker=own, when_short="refuse", max_wait_seconds=0, timeout_seconds=0.001)
    assert names(check(Good, config=config).kept) == list(RULES)
    assert (own.spent, own.held) == (0, 0)


class Hangs(Good):
    """Does not come back before it is told to."""

    told = threading.Event()

    def call(self, prompt: Any, config: RunConfig) -> LLMResponse:
        self.told.wait(50)
        return super().call(prompt, config)


def test_a_call_that_does_not_come_back_is_given_up() -> None:
    """A call that goes on past its time is given up, and reported. (TESTKIT-10)"""
    try:
        report = broken(Hangs, rules=[RULES["call_is_answered"]], patience_seconds=0.2)
    finally:
        Hangs.told.set()
    assert report.broken[0].seen == ("execute_prompt was still running after 5.2 s",)


class HearsNoCancellation(Good):
    """Goes on for some time, whatever its caller wants."""

    async def acall(self, prompt: Any, config: RunConfig) -> LLMResponse:
        until = time.monotonic() + 6
        while time.monotonic() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)
        return await super().acall(prompt, config)


def test_a_call_that_cannot_be_cancelled_is_given_up() -> None:
    """A call that goes on although it was cancelled is given up, and reported. (TESTKIT-10)"""
    report = broken(HearsNoCancellation, rules=[RULES["cancellation_passes"]])
    assert report.broken[0].seen[0].startswith("async_execute_prompt, cancelled, was still running after 5")


def test_a_short_key_is_found_whole() -> None:
    """A key that is too short to be found by a part is found whole. (TESTKIT-8)"""

    class Tells(Good):
        def failure(self, prompt: str) -> Exception:
            return LLMAPIError("good good-1: the password pw-1234 is wrong.", status_code=500)

    assert names(broken(Tells, secrets=["pw-1234", "pw-5678"]).broken) == ["error_holds_no_key"]


def test_calls_are_counted_out() -> None:
    """A check of a good adapter sends no more calls than its documentation says. (TESTKIT-10)"""
    providers: list[Provider] = []

    def make(**how: Any) -> Good:
        providers.append(Provider(**how))
        return Good(providers[-1])

    check_adapter(
        make,
        slow=lambda: make(seconds=1.0),
        failing=lambda: make(fails=True),
        count_requests=lambda: sum(provider.requests for provider in providers),
        billed_tokens=lambda: sum(provider.billed for provider in providers),
        secrets=[KEY],
        deadline_seconds=0.2,
        calls=3,
        attempts=9,
    )
    asked, slow, failing = (provider.requests for provider in providers)
    assert asked <= 21 + 4 + 3 + 9, asked
    assert (slow, failing) == (3, 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"waived": {"no_such_rule": "x"}}, "no_such_rule"),
        ({"slow": 3}, "slow"),
        ({"failing": [3]}, "failing"),
        ({"count_requests": 3}, "count_requests"),
        ({"calls": 0}, "calls"),
        ({"calls": 5, "attempts": 4}, "attempts"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"patience_seconds": float("inf")}, "patience_seconds"),
        ({"prompt": " "}, "prompt"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], text: str) -> None:
    """An argument that cannot be meant raises LLMConfigurationError with its name."""
    with pytest.raises(LLMConfigurationError, match=text):
        check(Good, **options)


def test_only_adapters_are_checked() -> None:
    """A factory that makes no LLMAdapter is refused."""
    with pytest.raises(LLMConfigurationError, match="make must make an LLMAdapter, not object"):
        check_adapter(object)  # type: ignore[arg-type]
