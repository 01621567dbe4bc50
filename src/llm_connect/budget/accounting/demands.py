"""What a reservation asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from llm_connect.budget.accounting.accounts import Path, fits, hold, limits_output, take
from llm_connect.budget.accounting.bounds import Bound, Grade
from llm_connect.budget.accounting.calibration import Key, LearnedFactor, Seen, Used
from llm_connect.budget.accounting.prices import Price
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST, Amount, shown


class Demand(Protocol):
    """What a call may need at most."""

    @property
    def amount(self) -> Amount:
        """All that it may need."""
        ...

    @property
    def smallest(self) -> Amount:
        """The least that the call can do with."""
        ...

    @property
    def likely_tokens(self) -> int | None:
        """About what the call will use; None when nobody knows."""
        ...

    def take(self, path: Path) -> tuple[Amount, int | None] | None:
        """Hold the largest amount that fits now: it, and its output limit; None when not even the smallest fits."""
        ...

    def raised(self, factor: LearnedFactor | None) -> Demand:
        """The demand as it is under what was learned."""
        ...

    def at(self, max_tokens: int | None) -> Amount:
        """The amount with this output limit."""
        ...

    def seen(self, used: Used) -> Seen:
        """What it said of the call beside what the call used."""
        ...


class PlainDemand(Amount):
    """An amount as a user says it: it is not raised, and it is itself what is held."""

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
    """So many tokens as a user says, at `nano_usd`, or at the dearest rate of `price`."""

    __slots__ = ("_nano_usd", "_price", "_said", "amount")

    def __init__(
        self, tokens: int, calls: int, nano_usd: int | None, price: Price | None, factor: LearnedFactor | None = None
    ) -> None:
        self._said = (tokens, calls)
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
        return ManualDemand(*self._said, self._nano_usd, self._price, factor)

    def at(self, max_tokens: int | None) -> Amount:
        return self.amount

    def seen(self, used: Used) -> Seen:
        return Seen.of_total(self._said[0], used, self._price)


class BoundDemand:
    """What a call with a bound asks for, with an output limit from `least` to that of the bound.

    One that was `unasked` for is sent only where a limit in tokens or USD needs it.
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
        """A token has four bytes in most languages."""
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
        return Seen.of(self.bound, used, self.price)


@dataclass(slots=True, kw_only=True)
class CallFacts:
    """What the ledger remembers of a call beside its figures."""

    adapter: str | None = None
    model: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    grade: Grade = "proven"
    price: Price | None = None
    #: Whether a user has reserved it, so that the price tells what it came to where nobody else says.
    manual: bool = False

    @property
    def key(self) -> Key:
        """What is learned of overruns by."""
        return self.adapter, self.model


#: The facts of a reservation of which nothing was said.
NO_FACTS = CallFacts()


def _too_dear(amount: Amount) -> LLMConfigurationError:
    cost, most = shown("usd", amount.nano_usd), shown("usd", MOST)
    return LLMConfigurationError(
        f"{amount.tokens:,} tokens would cost {cost} at this price, and a budget counts at most {most} of one call: "
        "look at the price, and at the output limit."
    )


def _largest(low: int, high: int, good: Callable[[int], bool]) -> int:
    """The largest number from `low` to `high` that is good, when all below a good one are."""
    while low < high:
        middle = (low + high + 1) // 2
        if good(middle):
            low = middle
        else:
            high = middle - 1
    return low
