"""The result of a check, as data and as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ._rule import ConformanceRule

#: `not checked`: an argument that it needs is missing, or a rule that it rests on is not kept.
Verdict: TypeAlias = Literal["kept", "broken", "not checked", "waived"]


@dataclass(frozen=True, slots=True)
class RuleResult:
    """The result of one rule; `seen` has the reason if it is broken or was not checked."""

    rule: ConformanceRule
    verdict: Verdict
    seen: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.rule.name}: {self.rule.sentence}", *(f"  - {text}" for text in self.seen)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """The findings of `check_adapter`.

        report = check_adapter(make)
        print(report)

    results: one for each requested rule, in order. `str()` shows the broken ones in full, and the reasons why others
    were not checked.
    """

    adapter: str
    results: tuple[RuleResult, ...]

    @property
    def kept(self) -> tuple[RuleResult, ...]:
        return self._with("kept")

    @property
    def broken(self) -> tuple[RuleResult, ...]:
        return self._with("broken")

    @property
    def not_checked(self) -> tuple[RuleResult, ...]:
        return self._with("not checked")

    @property
    def waived(self) -> tuple[RuleResult, ...]:
        return self._with("waived")

    def _with(self, verdict: Verdict) -> tuple[RuleResult, ...]:
        return tuple(result for result in self.results if result.verdict == verdict)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        counts = (self.kept, self.broken, self.not_checked, self.waived)
        kept, broken, not_checked, waived = map(len, counts)
        yield f"{self.adapter}: {kept} rules kept, {broken} broken, {not_checked} not checked, {waived} waived."
        yield from (f"\n{result}" for result in self.broken)
        for title, results in (("not checked", self.not_checked), ("waived", self.waived)):
            if results:
                yield f"\n{title}:"
                yield from (f"  {result.rule}: {'; '.join(result.seen)}" for result in results)


class ConformanceError(AssertionError):
    """An adapter breaks rules. The text is the whole report, which is also in `report`."""

    def __init__(self, report: ConformanceReport) -> None:
        super().__init__(str(report))
        self.report = report


class NotCheckedWarning(UserWarning):
    """Some rules could not be checked. The text names the arguments of `check_adapter` that they need."""
