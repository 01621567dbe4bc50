"""What overruns have taught: by how much the bounds of an adapter and model are raised."""

from __future__ import annotations

from itertools import cycle
from typing import NamedTuple, Protocol, TypeAlias

from llm_connect.budget.accounting.prices import Price
from llm_connect.types.usage import Usage

#: An adapter's name and a model's.
Key: TypeAlias = tuple[str | None, str | None]

#: More than four times a bound is not a matter of scale, but of something that the provider adds each time.
_MOST_PERMILLE = 4_000
#: So much at most is added after one call, for input, output and cost: one absurd figure must not keep a model out. It
#: may be four times as much each time that another call goes beyond what was learned by then.
_MOST_EXTRA = (2_048, 2_048, 10_000_000)
_FURTHER = 4
#: So many calls in a row within their bounds halve what was learned.
CALM_CALLS = 100


class LearnedFactor(NamedTuple):
    """By how much the bounds of one adapter and model are raised after an overrun: input, output and cost apart.

    A bound of `n` counts as `n * permille / 1000 + extra`: a factor of at most four, and in `extra` (tokens, for cost
    nano-USD) what a bound of the size that was overrun would lack beyond that, as far as one call is believed.
    """

    prompt_permille: int = 1_000
    prompt_extra: int = 0
    completion_permille: int = 1_000
    completion_extra: int = 0
    cost_permille: int = 1_000
    cost_extra: int = 0

    def prompt(self, tokens: int) -> int:
        """The raised bound of an input."""
        return _raised(tokens, self.prompt_permille, self.prompt_extra)

    def completion(self, tokens: int) -> int:
        """The raised bound of an output."""
        return _raised(tokens, self.completion_permille, self.completion_extra)

    def cost(self, nano_usd: int) -> int:
        """The raised bound of a cost."""
        return _raised(nano_usd, self.cost_permille, self.cost_extra)

    def total(self, tokens: int) -> int:
        """The raised bound of input and output together, whichever of them the tokens are."""
        return _raised(
            tokens, max(self.prompt_permille, self.completion_permille), self.prompt_extra + self.completion_extra
        )

    def after(self, seen: Seen) -> LearnedFactor:
        """The factor under which the bound of this call would have covered what it used, if that is not absurd."""
        parts = zip((self[:2], self[2:4], self[4:]), seen.bounds, seen.actual, _MOST_EXTRA, strict=True)
        return LearnedFactor(*(figure for part in parts for figure in _learn(*part)))

    def halved(self) -> LearnedFactor:
        """Half as much of everything."""
        return LearnedFactor(*(half(figure) for half, figure in zip(cycle((_half_factor, _half)), self)))


NOTHING_LEARNED = LearnedFactor()


class Used(NamedTuple):
    """What a call used: tokens, calls and, where it is known, nano-USD; `usage` has the parts of the tokens."""

    tokens: int
    calls: int
    nano_usd: int | None
    usage: Usage | None
    #: The output limit of its request; without one whatever it wrote is no overrun.
    max_tokens: int | None


class Parts(Protocol):
    """A bound whose parts are told apart: input, how often the output limit may be used in full, and requests."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def calls(self) -> int: ...


class Seen(NamedTuple):
    """One call as its bound had it, and as it came: input and output in tokens, cost in nano-USD.

    The bound of the cost is what the tokens that were used may cost at the dearest rates, so that too low a price is
    told from too few tokens.
    """

    bounds: tuple[int, int, int]
    actual: tuple[int, int, int]

    @classmethod
    def of(cls, bound: Parts, used: Used, price: Price | None) -> Seen:
        limit = bound.outputs * used.max_tokens if used.max_tokens is not None else used.tokens
        usage, cost = used.usage, used.nano_usd
        if usage is None:
            prompt = min(used.tokens, bound.prompt_tokens)
            parts = (prompt, used.tokens - prompt)
        else:
            parts = (usage.prompt_tokens, usage.completion_tokens)
        if price is None or cost is None:
            return cls((bound.prompt_tokens, limit, 0), (*parts, 0))
        return cls((bound.prompt_tokens, limit, price.at_most(*parts, bound.calls)), (*parts, cost))

    @classmethod
    def of_total(cls, tokens: int, used: Used, price: Price | None) -> Seen:
        """Of a call whose bound does not tell input and output apart: each of them may be what was too low."""
        if price is None or used.nano_usd is None:
            return cls((tokens, tokens, 0), (used.tokens, used.tokens, 0))
        priced = price.dearest(used.tokens, used.calls)
        return cls((tokens, tokens, priced), (used.tokens, used.tokens, used.nano_usd))

    @property
    def within(self) -> bool:
        return all(actual <= bound for bound, actual in zip(self.bounds, self.actual, strict=True))


class Lesson(NamedTuple):
    """What a call has taught: the factor of its adapter and model (None: none any more), and how many were calm."""

    key: Key
    factor: LearnedFactor | None
    calm: int
    #: Whether that is another factor than before.
    changed: bool


class Learned:
    """The factors of one tree of trackers; its caller holds the lock of the tree."""

    def __init__(self) -> None:
        self.factors: dict[Key, LearnedFactor] = {}
        self._calm: dict[Key, int] = {}

    def lesson(self, key: Key, seen: Seen) -> Lesson | None:
        """What is learned of `key` from what a call used; None when that is nothing new."""
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
        """Know it. Learned again, it changes nothing."""
        key, factor, calm, _ = lesson
        self._calm[key] = calm
        if factor is None:
            self.factors.pop(key, None)
            self._calm.pop(key, None)
        else:
            self.factors[key] = factor

    def better(self, key: Key, seen: Seen | None, *, forgotten: bool) -> Lesson | None:
        """What a correction teaches of `key`: what is `seen`, in the place of what is to be `forgotten`."""
        known = self.factors.get(key)
        before = None if forgotten else known
        if seen is None:
            return Lesson(key, None, 0, changed=True) if forgotten and known is not None else None
        after = (before or NOTHING_LEARNED).after(seen)
        return Lesson(key, after, 0, changed=after != known)

    def become(self, factors: dict[Key, LearnedFactor]) -> None:
        """Know what others have learned."""
        self.factors.clear()
        self.factors.update(factors)
        self._calm = {key: self._calm.get(key, 0) for key in factors}


def _learn(known: tuple[int, ...], bound: int, actual: int, most: int) -> tuple[int, int]:
    permille, extra = known
    if actual <= bound:
        return permille, extra
    believed = extra if actual <= _raised(bound, permille, extra) else max(most, _FURTHER * extra)
    permille = max(permille, min(_MOST_PERMILLE, -(-actual * 1_000 // bound) if bound else 1_000))
    return permille, max(extra, min(believed, actual - _raised(bound, permille, 0)))


def _raised(bound: int, permille: int, extra: int) -> int:
    return -(-bound * permille // 1_000) + extra


def _half(figure: int) -> int:
    return figure // 2


def _half_factor(permille: int) -> int:
    return 1_000 + (permille - 1_000) // 2
