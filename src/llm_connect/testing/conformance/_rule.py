"""A rule: one sentence, and a function that yields each violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ._bench import Bench

Check: TypeAlias = "Callable[[Bench], Iterator[str]]"


@dataclass(frozen=True, slots=True)
class ConformanceRule:
    """One rule that every adapter keeps. Its `str()` is its name, so `ids=str` names tests by it.

    sentence: the rule in one sentence, with its invariant in `contracts/`.
    needs: the arguments of `check_adapter` that its check needs.
    after: the rules that must hold before it can be judged.
    """

    name: str
    sentence: str
    needs: tuple[str, ...]
    after: tuple[ConformanceRule, ...] = field(repr=False)
    check: Check = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.name


def rule(*, needs: tuple[str, ...] = (), after: tuple[ConformanceRule, ...] = ()) -> Callable[[Check], ConformanceRule]:
    """Makes a rule of a function that yields violations; its docstring is the sentence."""

    def made(check: Check) -> ConformanceRule:
        sentence = " ".join((check.__doc__ or "").split())
        return ConformanceRule(check.__name__, sentence, needs, after, check)

    return made
