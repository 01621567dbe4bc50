"""Checking an adapter against the rules that every adapter keeps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping

from llm_connect.calling.scrub import Scrubber
from llm_connect.core.exceptions import LLMConfigurationError
from llm_connect.core.models import RunConfig

from .bench import Bench, NotChecked
from .means import PROMPT, Make, Means
from .report import ConformanceError, ConformanceReport, NotCheckedWarning, RuleResult
from .rule import ConformanceRule
from .rules import RULES


def conformance_rules() -> tuple[ConformanceRule, ...]:
    """All rules, to make one test of each:

    @pytest.mark.parametrize("rule", conformance_rules(), ids=str)
    def test_my_adapter(rule):
        check_adapter(make, rules=[rule])
    """
    return RULES


def check_adapter(
    make: Make,
    *,
    slow: Make | None = None,
    failing: Make | Iterable[Make] = (),
    count_requests: Callable[[], int] | None = None,
    billed_tokens: Callable[[], int] | None = None,
    secrets: Iterable[str] = (),
    prompt: str = PROMPT,
    config: RunConfig | None = None,
    calls: int = 4,
    attempts: int = 20,
    deadline_seconds: float = 1.0,
    patience_seconds: float = 30.0,
    rules: Iterable[ConformanceRule] | None = None,
    waived: Mapping[str, str] | None = None,
) -> ConformanceReport:
    """Check that an adapter keeps the rules of every `LLMAdapter`, by calling it in both forms.

        def test_my_adapter():
            check_adapter(lambda: MyAdapter(url=fake.url), count_requests=lambda: fake.requests)

    make: makes the adapter. One is made, and serves all calls. The kit closes nothing.
    slow: makes one whose provider does not answer within `deadline_seconds`; best one that sends a byte now and then.
    failing: makes one whose provider fails every call, best by saying back what it was sent; or several such, each of
        which fails in another way.
    count_requests: how many requests the provider has got so far. billed_tokens: how many tokens it has billed.
    secrets: keys that must not show.
    prompt: what is asked. config: what each call has, such as `model_name`; budget, times and retries are set by the
        kit, and so are `max_tokens` (16) and `system_prompt` where it has none.
    calls, attempts: a cap for so many calls is given to so many at once, once to tasks and once to threads.
    deadline_seconds: `timeout_seconds` of the calls to a slow provider.
    patience_seconds: `timeout_seconds` of all others. A call that goes on for 5 s more is given up, and left behind.
    rules: those to check; else all. waived: names of rules that this adapter does not keep, each with the reason.

    Sent are 21 calls and four streams, `calls` more from tasks, and from threads as many as fit of `attempts`; three
    to the slow provider and two to each failing one. Nothing but what is passed is called.

    Raises ConformanceError, an AssertionError whose text is a report of all broken rules. Rules whose means were not
    passed are never counted as kept: they are in the report, and a NotCheckedWarning names them. When nothing at all
    could be checked, unittest.SkipTest is raised, which pytest and unittest show as a skipped test.
    """
    means = Means(
        make=make,
        slow=slow,
        failing=(failing,) if callable(failing) else tuple(failing),
        count_requests=count_requests,
        billed_tokens=billed_tokens,
        secrets=(secrets,) if isinstance(secrets, str) else tuple(secrets),
        prompt=prompt,
        config=config or RunConfig(),
        calls=calls,
        attempts=attempts,
        deadline_seconds=deadline_seconds,
        patience_seconds=patience_seconds,
    )
    report = _Check(means, dict(waived or {})).of(RULES if rules is None else tuple(rules))
    _tell(report)
    return report


class _Check:
    """One check: what became of each rule, judged once."""

    def __init__(self, means: Means, waived: Mapping[str, str]) -> None:
        unknown = sorted(set(waived) - {rule.name for rule in RULES})
        if unknown:
            raise LLMConfigurationError(f"waived names no rule: {', '.join(unknown)}. conformance_rules() has them.")
        self._waived = waived
        self._means = means
        self._bench = Bench(means)
        self._results: dict[ConformanceRule, RuleResult] = {}

    def of(self, rules: Iterable[ConformanceRule]) -> ConformanceReport:
        results = tuple(self._result(rule) for rule in rules)
        return ConformanceReport(type(self._bench.adapter).__name__, results)

    def _result(self, rule: ConformanceRule) -> RuleResult:
        if rule not in self._results:
            self._results[rule] = self._judged(rule)
        return self._results[rule]

    def _judged(self, rule: ConformanceRule) -> RuleResult:
        if rule.name in self._waived:
            return RuleResult(rule, "waived", (self._waived[rule.name],))
        if missing := self._means.missing(*rule.needs):
            return RuleResult(rule, "not checked", (f"pass {', '.join(f'{name}=' for name in missing)}",))
        for other in rule.after:
            if (verdict := self._result(other).verdict) != "kept":
                return RuleResult(rule, "not checked", (f"it rests on {other}, which is {verdict}",))
        return self._seen(rule)

    def _seen(self, rule: ConformanceRule) -> RuleResult:
        try:
            seen = list(rule.check(self._bench))
        except NotChecked as reason:
            return RuleResult(rule, "not checked", (str(reason),))
        except Exception as error:
            seen = [f"{type(error).__name__}: {error}"]
        shown = Scrubber(self._means.secrets)
        return RuleResult(rule, "broken" if seen else "kept", tuple(shown.clean(text) for text in seen))


def _tell(report: ConformanceReport) -> None:
    """Say what is not as it should be, in the way that a test runner hears."""
    if report.broken:
        raise ConformanceError(report)
    if report.results and not report.kept:
        from unittest import SkipTest

        raise SkipTest(str(report))
    if report.not_checked:
        warnings.warn(str(report), NotCheckedWarning, stacklevel=3)
