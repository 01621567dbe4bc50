"""Demands: the amount that a reservation asks for, and how far it may shrink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from llm_connect.budget.accounting.accounts import Path, fits, hold, limits_output, take
from llm_connect.budget.accounting.bounds import Bound, Grade
from llm_connect.budget.accounting.calibration import Key, LearnedFactor, Seen, Used
from llm_connect.budget.accounting.prices import Price
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST, Amount, shown

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
        """The bound of the call beside its actual figures, for calibration."""
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
        return Seen.of(self.bound, used, self.price)


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
