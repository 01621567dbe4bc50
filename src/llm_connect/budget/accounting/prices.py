"""Prices of tokens and requests, and amounts of money as nano-USD."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal, DecimalException, Overflow
from typing import Self

from llm_connect._validation import check_count, shown_value
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MONEY, MOST, NANO, Amount, plain, usd_of
from llm_connect.types.usage import Usage

Rate = int | str | float | Decimal

#: A rate is an integer, in 10^-18 USD per million tokens: exact for rates with up to 18 decimals.
_DIGITS = 18
#: One nano-USD, in units of rate times tokens.
_NANO_USD = 10**15
_RATES = ("prompt", "completion", "cached", "cache_write")
#: Sources that compute a cost and do not bill it: the `claude` command uses a list of its own, which may be too low.
_COMPUTED = frozenset({"claude-cli"})


class Price:
    """The price of a model in USD per million tokens, for a budget that limits USD.

        price = Price(prompt="0.40", completion="1.60", cached="0.10")
        adapter = OpenAIAdapter(model="gpt-4.1-mini", price=price)

    prompt, completion: the rates of input and output tokens.
    cached, cache_write: the rates of input tokens that the provider reads from its cache or writes to it; None means
        the `prompt` rate.
    call: USD for each request.
    above: prices for long prompts; the key is a number of tokens, and its price applies to the whole of a request whose
        prompt has more of them: `Price(prompt="1.25", completion=10, above={200_000: Price(prompt="2.50",
        completion=15)})`.

    A hold assumes the highest rate that the call may get. The settlement charges each part at its own rate and rounds
    the sum up once, to a nano-USD. `Price.free()` is the price of a local model.

    Raises LLMConfigurationError for an invalid rate.
    """

    __slots__ = ("_dearest", "_levels", "cache_write", "cached", "call", "completion", "prompt")

    def __init__(
        self,
        *,
        prompt: Rate,
        completion: Rate,
        cached: Rate | None = None,
        cache_write: Rate | None = None,
        call: Rate = 0,
        above: Mapping[int, Price] | None = None,
    ) -> None:
        self.prompt: int = _rate("prompt", prompt)
        self.completion: int = _rate("completion", completion)
        self.cached: int = self.prompt if cached is None else _rate("cached", cached)
        self.cache_write: int = self.prompt if cache_write is None else _rate("cache_write", cache_write)
        self._dearest: int = max(self.prompt, self.cached, self.cache_write)
        #: Nano-USD for one request.
        self.call: int = checked_usd("call", call)
        #: The prices for long prompts, the longest first.
        self._levels: tuple[tuple[int, Price], ...] = () if above is None else _levels(above)

    @classmethod
    def free(cls) -> Self:
        """The price of a model that costs nothing."""
        return cls(prompt=0, completion=0)

    @property
    def source(self) -> str:
        """The origin of this price, for `cost_source`."""
        return "declared"

    def at_most(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:
        """The cost in nano-USD of a call with at most these tokens, at the highest rates that may apply, rounded up."""
        cost = calls * self.call + _nano_usd(prompt_tokens * self._dearest + completion_tokens * self.completion)
        for start, price in self._levels:
            if prompt_tokens > start:
                cost = max(cost, price.at_most(prompt_tokens, completion_tokens, calls))
        return cost

    def dearest(self, tokens: int, calls: int) -> int:
        """The cost in nano-USD of `tokens` at the highest rate, whether they are input or output."""
        cost = calls * self.call + _nano_usd(tokens * max(self._dearest, self.completion))
        for start, price in self._levels:
            if tokens > start:
                cost = max(cost, price.dearest(tokens, calls))
        return cost

    def of(self, usage: Usage, calls: int = 1) -> Decimal:
        """The cost of `usage` in USD, rounded up once to a nano-USD."""
        for start, price in self._levels:
            if usage.prompt_tokens > start:
                return price.of(usage, calls)
        written = min(usage.cache_write_tokens, usage.prompt_tokens)
        cached = min(usage.cached_tokens, usage.prompt_tokens - written)
        plain = usage.prompt_tokens - written - cached
        parts = plain * self.prompt + cached * self.cached + written * self.cache_write
        return usd_of(calls * self.call + _nano_usd(parts + usage.completion_tokens * self.completion))

    def billed_as(self, service_tier: str | None) -> Price | None:
        """The price for the service tier that a reply names; None if the price for that tier is unknown."""
        return self

    def in_usd(self) -> dict[str, Decimal]:
        """The rates in USD per million tokens, and USD per call."""
        rates = {name: Decimal(f"{getattr(self, name)}E-{_DIGITS}") for name in _RATES}
        return {**rates, "call": usd_of(self.call)}

    def __repr__(self) -> str:
        rates = [f"{name}={plain(value)}" for name, value in self.in_usd().items()]
        levels = ", ".join(f"{start}: {price!r}" for start, price in reversed(self._levels))
        return f"Price({', '.join([*rates, *([f'above={{{levels}}}'] if levels else [])])})"


def cost_of(
    reported: Decimal | None,
    source: str | None,
    usage: Usage | None,
    price: Price | None,
    service_tier: str | None = None,
) -> tuple[Decimal | None, str | None]:
    """The cost of a call in USD and its source; None if it is unknown.

    A cost that the provider reports takes precedence over the price. If it was only computed, or is 0, the higher of
    the two counts.
    """
    billed = None if price is None else price.billed_as(service_tier)
    if price is None or billed is None or usage is None or usage.estimated:
        return reported, source
    by_price = billed.of(usage)
    if reported is None or (by_price > reported and (source in _COMPUTED or not reported)):
        return by_price, price.source
    return reported, source


def charge_of(price: Price, actual: Amount, usage: Usage | None) -> int:
    """The cost in nano-USD: each part of the usage at its own rate, or else all tokens at the highest rate."""
    if usage is None or usage.estimated or usage.total_tokens > MOST:
        return price.dearest(actual.tokens, actual.calls)
    return nano_usd_of("cost", price.of(usage, actual.calls))


def checked_prices(prices: object) -> dict[str, Price]:
    """Validate prices by model. Raises LLMConfigurationError for anything but a mapping from names to `Price`."""
    if not isinstance(prices, Mapping):
        raise LLMConfigurationError(f"prices must be a mapping from models to Price, not {type(prices).__name__}.")
    for model, price in prices.items():
        if not isinstance(model, str) or not isinstance(price, Price):
            raise LLMConfigurationError(f"prices must map the name of a model to a Price, not {model!r} to {price!r}.")
    return dict(prices)


def _rate(name: str, value: object) -> int:
    return scaled_usd(name, value, _DIGITS, MOST * 10 ** (_DIGITS - 9))


def _levels(above: object) -> tuple[tuple[int, Price], ...]:
    if not isinstance(above, Mapping):
        raise LLMConfigurationError(f"above must be a mapping from tokens to Price, not {type(above).__name__}.")
    for start, price in above.items():
        check_count("above", start, least=0)
        if not isinstance(price, Price) or price._levels:
            raise LLMConfigurationError("above must map numbers of tokens to Prices that have no `above` themselves.")
    return tuple(sorted(above.items(), key=lambda level: -level[0]))


def _nano_usd(parts: int) -> int:
    return -(-parts // _NANO_USD)


def nano_usd_of(name: str, value: object) -> int:
    """USD as nano-USD, rounded up; a float has the value that its repr shows.

    Raises LLMConfigurationError unless `value` is a finite amount of at least 0.
    """
    return scaled_usd(name, value, 9)


def checked_usd(name: str, value: object, most: int = MOST) -> int:
    """Like `nano_usd_of`, for at most `most` nano-USD."""
    return scaled_usd(name, value, 9, most)


def scaled_usd(name: str, value: object, digits: int, most: int | None = None) -> int:
    """Like `nano_usd_of`, in units of 10^-digits USD, and for at most `most` of them."""
    wrong = LLMConfigurationError(f"{name} must be an amount of USD of at least 0, not {shown_value(value)}.")
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise wrong
    try:
        amount = Decimal(float.__repr__(value) if isinstance(value, float) else value)
        if not amount.is_finite() or amount < 0:
            raise wrong
        scaled = int(amount.scaleb(digits, MONEY).to_integral_value(ROUND_CEILING))
    except Overflow:
        raise _too_large(name, value, MOST // NANO if most is None else most // 10**digits) from None
    except DecimalException:
        raise wrong from None
    if most is not None and scaled > most:
        raise _too_large(name, value, most // 10**digits)
    return scaled


def _too_large(name: str, value: object, most: int) -> LLMConfigurationError:
    return LLMConfigurationError(f"{name} must be at most {most:,} USD, not {shown_value(value)}.")
