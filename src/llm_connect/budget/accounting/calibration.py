"""Correction of bounds: after an overrun, the next bounds of that adapter and model are raised."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import cycle
from typing import NamedTuple, TypeAlias

from llm_connect.budget.accounting.prices import Price
from llm_connect.types.usage import Usage

#: The name of an adapter, and of a model.
Key: TypeAlias = tuple[str | None, str | None]

#: The largest factor. Usage above four times a bound is not a matter of scale: the provider adds something each time.
_MOST_PERMILLE = 4_000
#: The most that one call adds to the `extra` of input, output and cost, because one absurd figure must not lock a model
#: out. Each further overrun may multiply `extra` by up to `_FURTHER`. It never passes `_MOST_IN_ALL`: no hidden prompt
#: has a million tokens.
_MOST_EXTRA = (2_048, 2_048, 10_000_000)
_MOST_IN_ALL = (2**20, 2**20, 10**10)
_FURTHER = 4
#: This many calls in a row within their bounds halve the factor.
CALM_CALLS = 100


class LearnedFactor(NamedTuple):
    """The correction of the bounds of one adapter and model after an overrun: for input, output and cost separately.

    A bound of `n` counts as `n * permille / 1000 + extra`. The factor is at most four. `extra` (tokens, or nano-USD for
    the cost) covers the rest of the overrun; it is limited, so that a single absurd figure has little effect.
    """

    prompt_permille: int = 1_000
    prompt_extra: int = 0
    completion_permille: int = 1_000
    completion_extra: int = 0
    cost_permille: int = 1_000
    cost_extra: int = 0

    def prompt(self, tokens: int) -> int:
        """A bound on input tokens, raised."""
        return _raised(tokens, self.prompt_permille, self.prompt_extra)

    def completion(self, tokens: int) -> int:
        """A bound on output tokens, raised."""
        return _raised(tokens, self.completion_permille, self.completion_extra)

    def cost(self, nano_usd: int) -> int:
        """A bound on the cost in nano-USD, raised."""
        return _raised(nano_usd, self.cost_permille, self.cost_extra)

    def total(self, tokens: int) -> int:
        """A bound on input and output together, raised as if it were all of the kind that was further off.

        An overrun of such a bound counts for both kinds (`Seen.of_total`), so the sum of their extras would raise the
        next one twice.
        """
        return max(self.prompt(tokens), self.completion(tokens))

    def after(self, seen: Seen) -> LearnedFactor:
        """The factor that would have made the bound of this call cover its usage, unless that is absurd."""
        known = (self[:2], self[2:4], self[4:])
        parts = zip(known, seen.bounds, seen.actual, _MOST_EXTRA, _MOST_IN_ALL, strict=True)
        return LearnedFactor(*(figure for part in parts for figure in _learn(*part)))

    def halved(self) -> LearnedFactor:
        """A factor with half of each correction."""
        return LearnedFactor(*(half(figure) for half, figure in zip(cycle((_half_factor, _half)), self)))


NOTHING_LEARNED = LearnedFactor()


class Used(NamedTuple):
    """The actual figures of a call: tokens, calls and nano-USD (None: unknown); `usage` splits the tokens."""

    tokens: int
    calls: int
    nano_usd: int | None
    usage: Usage | None
    #: The output limit of its request; without one, no output counts as an overrun.
    max_tokens: int | None


class Seen(NamedTuple):
    """The bound of one call beside its actual figures: input and output in tokens, cost in nano-USD.

    The cost bound prices the tokens that were actually used, at the highest rates. So an overrun of the cost means that
    the price was too low, and not that the tokens were too few.
    """

    bounds: tuple[int, int, int]
    actual: tuple[int, int, int]

    @classmethod
    def of_total(cls, tokens: int, used: Used, price: Price | None) -> Seen:
        """For a bound that does not separate input and output: either of them may have been too low."""
        if price is None or used.nano_usd is None:
            return cls((tokens, tokens, 0), (used.tokens, used.tokens, 0))
        priced = price.dearest(used.tokens, used.calls)
        return cls((tokens, tokens, priced), (used.tokens, used.tokens, used.nano_usd))

    @property
    def within(self) -> bool:
        return all(actual <= bound for bound, actual in zip(self.bounds, self.actual, strict=True))


class Lesson(NamedTuple):
    """The effect of one call on the factor of its adapter and model."""

    key: Key
    #: The new factor; None removes it.
    factor: LearnedFactor | None
    #: The number of calls in a row that stayed within their bounds.
    calm: int
    #: True if the factor differs from the one before.
    changed: bool


@dataclass(slots=True)
class Learned:
    """The factors of one tree of trackers; its caller holds the lock of the tree."""

    factors: dict[Key, LearnedFactor] = field(default_factory=dict)
    _calm: dict[Key, int] = field(default_factory=dict, init=False)

    def lesson(self, key: Key, seen: Seen) -> Lesson | None:
        """The lesson of one call for `key`; None if it changes nothing."""
        before = self.factors.get(key)
        if not seen.within:
            after = (before or NOTHING_LEARNED).after(seen)
            return Lesson(key, after, 0, changed=after != before)
        if before is None:
            return None
        calm = self._calm[key] + 1
        if calm < CALM_CALLS:
            return Lesson(key, before, calm, changed=False)
        halved = before.halved()
        return Lesson(key, None if halved == NOTHING_LEARNED else halved, 0, changed=True)

    def learn(self, lesson: Lesson) -> None:
        """Apply a lesson; applying it twice has the same effect as once."""
        key, factor, calm, _ = lesson
        self._calm[key] = calm
        if factor is None:
            self.factors.pop(key, None)
            self._calm.pop(key, None)
        else:
            self.factors[key] = factor

    def better(self, key: Key, seen: Seen | None, *, forgotten: bool) -> Lesson | None:
        """The lesson of a correction for `key`: `seen` replaces the earlier lesson, if that is to be `forgotten`."""
        known = self.factors.get(key)
        before = None if forgotten else known
        if seen is None:
            return Lesson(key, None, 0, changed=True) if forgotten and known is not None else None
        after = (before or NOTHING_LEARNED).after(seen)
        return Lesson(key, after, 0, changed=after != known)

    def become(self, factors: dict[Key, LearnedFactor]) -> None:
        """Take over the factors that a store keeps."""
        self.factors.clear()
        self.factors.update(factors)
        self._calm = {key: self._calm.get(key, 0) for key in factors}


def _learn(known: tuple[int, ...], bound: int, actual: int, most: int, in_all: int) -> tuple[int, int]:
    permille, extra = known
    if actual <= bound:
        return permille, extra
    believed = extra if actual <= _raised(bound, permille, extra) else min(in_all, max(most, _FURTHER * extra))
    permille = max(permille, min(_MOST_PERMILLE, -(-actual * 1_000 // bound) if bound else 1_000))
    return permille, max(extra, min(believed, actual - _raised(bound, permille, 0)))


def _raised(bound: int, permille: int, extra: int) -> int:
    return -(-bound * permille // 1_000) + extra


def _half(figure: int) -> int:
    return figure // 2


def _half_factor(permille: int) -> int:
    return 1_000 + (permille - 1_000) // 2
