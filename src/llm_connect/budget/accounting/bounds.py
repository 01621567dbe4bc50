"""Upper bounds on the usage of a call, known before it is sent; their correction; and the demand of a reservation.

A bound may be wrong. After an overrun, the next bounds of that adapter and model are raised (`LearnedFactor`), and a
demand is the bound of one call with that correction.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Literal, NamedTuple, Protocol, TypeAlias

from llm_connect._validation import check_count
from llm_connect.budget.accounting.accounts import Path, fits, hold, limits_output, take
from llm_connect.budget.accounting.prices import Price
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST, Amount, shown
from llm_connect.types.usage import Usage

#: The reliability of an upper bound. "unbounded": the call has no upper bound.
Grade: TypeAlias = Literal["proven", "estimated", "unbounded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An upper bound on the usage of one call.

    bound = adapter.bound("Hello", RunConfig(max_tokens=100))
    print(bound.total_tokens, bound.grade)

    prompt_tokens: all input tokens.
    max_tokens: the output limit that the request carries, in tokens.
    outputs: the number of times that the call may use this limit in full, as with several answers or several requests.
    calls: the number of requests that the provider may receive.
    least_max_tokens: the smallest output limit that the provider accepts; a hold never assumes a smaller one.
    grade: `proven`, `estimated` or `unbounded`.

    Raises LLMConfigurationError for a figure that is not a whole number, since sums would not be exact, and for more
    tokens or calls than a budget counts for one call, 10^15.
    """

    prompt_tokens: int
    max_tokens: int
    outputs: int = 1
    calls: int = 1
    least_max_tokens: int = 1
    grade: Grade = "estimated"

    def __post_init__(self) -> None:
        figures = (self.prompt_tokens, self.max_tokens, self.outputs, self.calls, self.least_max_tokens)
        if {*map(type, figures)} != {int} or min(figures) < 0 or max(figures) > MOST:
            for name in ("prompt_tokens", "max_tokens", "outputs", "calls", "least_max_tokens"):
                check_count(name, getattr(self, name), least=0, most=MOST)
        if self.prompt_tokens + self.outputs * self.max_tokens > MOST:
            check_count("total_tokens", self.total_tokens, least=0, most=MOST)

    @property
    def completion_tokens(self) -> int:
        return self.outputs * self.max_tokens

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def amount_at(self, max_tokens: int, price: Price | None = None, factor: LearnedFactor | None = None) -> Amount:
        """The bound as an amount for the output limit `max_tokens`, raised by `factor`; 0 USD without a price."""
        prompt_tokens, completion_tokens = self.prompt_tokens, self.outputs * max_tokens
        if factor is not None:
            prompt_tokens, completion_tokens = factor.prompt(prompt_tokens), factor.completion(completion_tokens)
        nano_usd = 0 if price is None else price.at_most(prompt_tokens, completion_tokens, self.calls)
        if price is not None and factor is not None:
            nano_usd = factor.cost(nano_usd)
        return Amount(prompt_tokens + completion_tokens, self.calls, nano_usd)


def utf8_bytes(text: str | None) -> int:
    """The number of UTF-8 bytes of `text`. A byte-level tokenizer never makes more tokens than bytes.

    Measured on o200k and cl100k with 20,000 random strings from all planes of Unicode; `len(text) / 4` was too low by
    a factor of up to 16.
    """
    if not text:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def normalized_utf8_bytes(text: str | None) -> int:
    """The number of UTF-8 bytes of `text` before or after NFKC, whichever is larger, plus one for the start token.

    SentencePiece normalizes with NFKC, which can make text longer (U+FDFA grows from 3 bytes to 33), and then falls
    back to bytes. Measured on Gemma 3, 8,000 bytes made 8,001 tokens.
    """
    if not text:
        return 0
    plain = utf8_bytes(text)
    return 1 + (plain if text.isascii() else max(plain, utf8_bytes(unicodedata.normalize("NFKC", text))))


#: An upper bound on the tokens of a text; 0 for None.
Size: TypeAlias = Callable[[str | None], int]


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """A tokenizer for `count_tokens=`, together with its reliability.

        encoding = tiktoken.get_encoding("o200k_base")
        counter = TokenCounter(lambda text: len(encoding.encode(text, disallowed_special=())), exact=True)
        adapter = OpenAIAdapter(model="gpt-4.1-mini", count_tokens=counter)

    count: returns the number of tokens of a text. Every attempt calls it, in its own thread or event loop, so it must
        be quick.
    exact: True if it is the tokenizer of the model that is called. The bound then keeps the grade that it would have by
        bytes; if False, the bound is an estimate. If you pass True for a different tokenizer, spend may exceed a limit
        by the tokens that it missed.

    Raises LLMConfigurationError if `count` is not callable, or `exact` is not a bool.
    """

    count: Callable[[str], int]
    exact: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.count) or not isinstance(self.exact, bool):
            raise LLMConfigurationError("TokenCounter takes a function from text to a number of tokens, and exact=.")


#: The types of an adapter's `count_tokens`; "provider" means the provider's counting endpoint.
CountTokens: TypeAlias = Callable[[str], int] | TokenCounter | Literal["provider"] | None


def counter_of(count_tokens: CountTokens) -> TokenCounter | None:
    """Normalise `count_tokens` to a TokenCounter; None stays None. Raises LLMConfigurationError for anything else."""
    if count_tokens is None or isinstance(count_tokens, TokenCounter):
        return count_tokens
    if callable(count_tokens):
        return TokenCounter(count_tokens)
    if count_tokens == "provider":
        raise LLMConfigurationError(
            "count_tokens='provider' needs a counting endpoint (Gemini, or OpenAI with api='responses'), and this "
            "adapter has none: pass a tokenizer."
        )
    kind = type(count_tokens).__name__
    raise LLMConfigurationError(f"count_tokens must be a function from text to a number of tokens, not {kind}.")


def measured(size: Size, counter: TokenCounter | None) -> Size:
    """The smaller of `size` and the count of `counter`, for each text."""
    if counter is None:
        return size
    return lambda text: min(size(text), _counted(counter, text)) if text else 0


def _counted(counter: TokenCounter, text: str) -> int:
    count: object = None
    wrong = ""
    try:
        count = counter.count(text)
    except Exception as error:
        # The error and its message may contain the prompt, so only its type is shown.
        wrong = f"raised {type(error).__name__}"
    if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
        return count
    wrong = wrong or f"returned an invalid {type(count).__name__}"
    raise LLMConfigurationError(f"count_tokens {wrong}: it must return a whole number of at least 0 for any text.")


# The correction of bounds: after an overrun, the next bounds of that adapter and model are raised.

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


#: What asks for budget: a call of an adapter, or `reserve`, `allot` or `consume` of a user.
Asker: TypeAlias = Literal["call", "reservation", "allotment", "booking"]


class Demand(Protocol):
    """The amount that a call may need, between a largest and a smallest one."""

    @property
    def amount(self) -> Amount:
        """The largest amount that the call may need."""
        ...

    @property
    def smallest(self) -> Amount:
        """The smallest amount with which the call can be sent."""
        ...

    @property
    def likely_tokens(self) -> int | None:
        """An estimate of the tokens that the call will use; None if there is no estimate."""
        ...

    def take(self, path: Path) -> tuple[Amount, int | None] | None:
        """Hold the largest amount that fits and return it with its output limit; None if the smallest does not fit."""
        ...

    def raised(self, factor: LearnedFactor | None) -> Demand:
        """This demand with its bounds raised by `factor`."""
        ...

    def at(self, max_tokens: int | None) -> Amount:
        """The amount for this output limit."""
        ...

    def seen(self, used: Used) -> Seen:
        """The bound of the call beside its actual figures."""
        ...


class PlainDemand(Amount):
    """A fixed amount: a learned factor does not raise it, and it is held as it is."""

    __slots__ = ()

    @property
    def amount(self) -> Amount:
        return self

    @property
    def smallest(self) -> Amount:
        return self

    @property
    def likely_tokens(self) -> None:
        return None

    def take(self, path: Path) -> tuple[Amount, int | None] | None:
        return (self, None) if take(path, self) else None

    def raised(self, factor: LearnedFactor | None) -> Demand:
        return self

    def at(self, max_tokens: int | None) -> Amount:
        return self

    def seen(self, used: Used) -> Seen:
        return Seen.of_total(self[0], used, None)


class ManualDemand:
    """A number of tokens that a user gives, at `nano_usd`, or at the highest rate of `price`."""

    __slots__ = ("_nano_usd", "_price", "_stated", "amount")

    def __init__(
        self, tokens: int, calls: int, nano_usd: int | None, price: Price | None, factor: LearnedFactor | None = None
    ) -> None:
        self._stated = (tokens, calls)
        self._nano_usd = nano_usd
        self._price = price
        if factor is not None:
            tokens = factor.total(tokens)
        if nano_usd is None:
            nano_usd = 0 if price is None else price.dearest(tokens, calls)
            nano_usd = nano_usd if factor is None else factor.cost(nano_usd)
        self.amount: Amount = Amount(tokens, calls, nano_usd)
        if nano_usd > MOST and factor is None:
            raise _too_dear(self.amount)

    @property
    def smallest(self) -> Amount:
        return self.amount

    @property
    def likely_tokens(self) -> None:
        return None

    def take(self, path: Path) -> tuple[Amount, int | None] | None:
        return (self.amount, None) if take(path, self.amount) else None

    def raised(self, factor: LearnedFactor | None) -> Demand:
        return ManualDemand(*self._stated, self._nano_usd, self._price, factor)

    def at(self, max_tokens: int | None) -> Amount:
        return self.amount

    def seen(self, used: Used) -> Seen:
        return Seen.of_total(self._stated[0], used, self._price)


class BoundDemand:
    """The demand of a call with a bound; its output limit may shrink to `least`.

    unasked: the caller gave no output limit, so the request carries one only where a limit in tokens or USD needs it.
    """

    __slots__ = ("amount", "bound", "factor", "least", "price", "unasked")

    def __init__(
        self,
        bound: Bound,
        least: int,
        price: Price | None,
        factor: LearnedFactor | None = None,
        *,
        unasked: bool = False,
    ) -> None:
        self.unasked: bool = unasked
        self.amount: Amount = bound.amount_at(bound.max_tokens, price, factor)
        if self.amount[2] > MOST and factor is None:
            raise _too_dear(self.amount)
        self.bound: Bound = bound
        self.least: int = least
        self.price: Price | None = price
        self.factor: LearnedFactor | None = factor

    @property
    def smallest(self) -> Amount:
        return self.at(self.least)

    @property
    def likely_tokens(self) -> int:
        """An estimate by four bytes for each token, as in most languages."""
        return self.bound.prompt_tokens // 4 + self.bound.outputs * self.least

    def take(self, path: Path) -> tuple[Amount, int | None] | None:
        most = self.bound.max_tokens
        if take(path, self.amount):
            return self.amount, None if self.unasked and not limits_output(path) else most
        if self.least == most or not fits(path, self.smallest):
            return None
        limit = _largest(self.least, most, lambda limit: fits(path, self.at(limit)))
        hold(path, self.at(limit))
        return self.at(limit), limit

    def raised(self, factor: LearnedFactor | None) -> Demand:
        return BoundDemand(self.bound, self.least, self.price, factor, unasked=self.unasked)

    def at(self, max_tokens: int | None) -> Amount:
        limit = self.bound.max_tokens if max_tokens is None else max_tokens
        return self.bound.amount_at(limit, self.price, self.factor)

    def seen(self, used: Used) -> Seen:
        bound, price, usage, cost = self.bound, self.price, used.usage, used.nano_usd
        limit = bound.outputs * used.max_tokens if used.max_tokens is not None else used.tokens
        if usage is None:
            prompt = min(used.tokens, bound.prompt_tokens)
            parts = (prompt, used.tokens - prompt)
        else:
            parts = (usage.prompt_tokens, usage.completion_tokens)
        if price is None or cost is None:
            return Seen((bound.prompt_tokens, limit, 0), (*parts, 0))
        return Seen((bound.prompt_tokens, limit, price.at_most(*parts, bound.calls)), (*parts, cost))


@dataclass(slots=True, kw_only=True)
class CallFacts:
    """The metadata of a call that the ledger keeps beside its figures."""

    adapter: str | None = None
    model: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    grade: Grade = "proven"
    price: Price | None = None
    #: If a reservation by a user is settled without a cost, its price determines the cost.
    asker: Asker = "call"

    @property
    def key(self) -> Key:
        """The key of the learned factor that applies to the call."""
        return self.adapter, self.model


#: The facts of a reservation without any metadata.
NO_FACTS = CallFacts()


def _too_dear(amount: Amount) -> LLMConfigurationError:
    cost, most = shown("usd", amount.nano_usd), shown("usd", MOST)
    return LLMConfigurationError(
        f"{amount.tokens:,} tokens would cost {cost} at this price, and a budget counts at most {most} for one call: "
        "check the price and the output limit."
    )


def _largest(low: int, high: int, good: Callable[[int], bool]) -> int:
    """The largest good number from `low` to `high`, given that every number below a good one is good, too."""
    while low < high:
        middle = (low + high + 1) // 2
        if good(middle):
            low = middle
        else:
            high = middle - 1
    return low
