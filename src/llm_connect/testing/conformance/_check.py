"""Checks an adapter against the rules that every adapter keeps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping

from llm_connect.engine.scrub import Scrubber
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig

from ._bench import Bench, NotChecked
from ._means import PROMPT, Make, Means
from ._report import ConformanceError, ConformanceReport, NotCheckedWarning, RuleResult
from ._rule import ConformanceRule
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

    make: makes the adapter. The kit calls it once, uses that adapter for all calls, and closes nothing.
    slow: makes an adapter whose provider does not answer within `deadline_seconds`; best if it sends a byte sometimes.
    failing: makes an adapter whose provider fails every call, best by echoing the request; or several factories, for
        different failures.
    count_requests: returns the number of requests that the provider has received. billed_tokens: returns the number of
        tokens that it has billed.
    secrets: keys that must not show.
    prompt: the prompt of the calls. config: the base config of all calls, with `model_name` for example. The kit sets
        budget, times and retries, and also `max_tokens` (16) and `system_prompt` if it has none.
    calls, attempts: `attempts` calls at once get a cap for `calls` of them, once as tasks and once in threads.
    deadline_seconds: `timeout_seconds` of the calls to a slow provider.
    patience_seconds: `timeout_seconds` of all others. A call that takes 5 s more is given up and left behind.
    rules: the rules to check; by default all. waived: names of rules that this adapter does not keep, each with the
        reason.

    The kit sends 21 calls and four streams, `calls` more from tasks, and from threads as many of `attempts` as fit;
    three to the slow provider and two to each failing one. It calls nothing but its arguments.

    Raises ConformanceError, an AssertionError whose text reports all broken rules. A rule whose arguments are missing
    never counts as kept: it is in the report, and a NotCheckedWarning names it. If nothing at all could be checked,
    unittest.SkipTest is raised, which pytest and unittest show as a skipped test.
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
    """One check: the result of each rule, judged once."""

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
    """Report broken and unchecked rules in a way that test runners notice."""
    if report.broken:
        raise ConformanceError(report)
    if report.results and not report.kept:
        from unittest import SkipTest

        raise SkipTest(str(report))
    if report.not_checked:
        warnings.warn(str(report), NotCheckedWarning, stacklevel=3)
