"""A rule: one sentence, and a function that gives what was seen to break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .bench import Bench

Check: TypeAlias = "Callable[[Bench], Iterator[str]]"


@dataclass(frozen=True, slots=True)
class ConformanceRule:
    """One rule that every adapter keeps; its text is its name, so that `ids=str` names tests by it.

    sentence: the rule in a sentence, with the invariant of `contracts/` that it is about.
    needs: the arguments of `check_adapter` without which it cannot be checked.
    after: the rules without which it cannot be judged.
    """

    name: str
    sentence: str
    needs: tuple[str, ...]
    after: tuple[ConformanceRule, ...] = field(repr=False)
    check: Check = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.name


def rule(*, needs: tuple[str, ...] = (), after: tuple[ConformanceRule, ...] = ()) -> Callable[[Check], ConformanceRule]:
    """Makes a rule of a function that yields what it sees; its docstring is the sentence."""

    def made(check: Check) -> ConformanceRule:
        sentence = " ".join((check.__doc__ or "").split())
        return ConformanceRule(check.__name__, sentence, needs, after, check)

    return made
