"""What tokens cost."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Self

from llm_connect._validation import check_count
from llm_connect.budget.accounting.money import checked_usd, scaled_usd
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST, plain, usd_of
from llm_connect.types.usage import Usage

Rate = int | str | float | Decimal

#: A rate is a whole number of 10^-18 USD for a million tokens: exact for whatever has up to 18 decimals.
_DIGITS = 18
#: A nano-USD in rates times tokens.
_NANO_USD = 10**15
_RATES = ("prompt", "completion", "cached", "cache_write")
#: Costs that nobody bills: what the `claude` command reckons by its own list, and may reckon too low.
_RECKONED = frozenset({"claude-cli"})


class Price:
    """USD per million tokens, for a budget that limits USD.

        price = Price(prompt="0.40", completion="1.60", cached="0.10")
        adapter = OpenAIAdapter(model="gpt-4.1-mini", price=price)

    prompt, completion: all input, all output. cached, cache_write: parts of the input that have a rate of their
        own; without one they cost what `prompt` says. call: USD for each request.
    above: for long prompts, the price of a whole request whose prompt has more tokens than so many:
        `Price(prompt="1.25", completion=10, above={200_000: Price(prompt="2.50", completion=15)})`.

    A call is held at the dearest rate that it can get, and settled part by part: cached tokens are counted once.
    `Price.free()` is the price of a local model. Raises LLMConfigurationError for a rate that is none.
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
        #: From the longest prompts down.
        self._levels: tuple[tuple[int, Price], ...] = () if above is None else _levels(above)

    @classmethod
    def free(cls) -> Self:
        """The price of what costs nothing."""
        return cls(prompt=0, completion=0)

    @property
    def source(self) -> str:
        """Who says so, for `cost_source`."""
        return "declared"

    def at_most(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:
        """Nano-USD of a call with at most so many tokens, at the dearest rates that it can get, rounded up."""
        cost = calls * self.call + _nano_usd(prompt_tokens * self._dearest + completion_tokens * self.completion)
        for start, price in self._levels:
            if prompt_tokens > start:
                cost = max(cost, price.at_most(prompt_tokens, completion_tokens, calls))
        return cost

    def dearest(self, tokens: int, calls: int) -> int:
        """Nano-USD of so many tokens, whichever of them are input and whichever output."""
        cost = calls * self.call + _nano_usd(tokens * max(self._dearest, self.completion))
        for start, price in self._levels:
            if tokens > start:
                cost = max(cost, price.dearest(tokens, calls))
        return cost

    def of(self, usage: Usage, calls: int = 1) -> Decimal:
        """USD of what was used, rounded up once to a nano-dollar."""
        for start, price in self._levels:
            if usage.prompt_tokens > start:
                return price.of(usage, calls)
        written = min(usage.cache_write_tokens, usage.prompt_tokens)
        cached = min(usage.cached_tokens, usage.prompt_tokens - written)
        plain = usage.prompt_tokens - written - cached
        parts = plain * self.prompt + cached * self.cached + written * self.cache_write
        return usd_of(calls * self.call + _nano_usd(parts + usage.completion_tokens * self.completion))

    def billed_as(self, service_tier: str | None) -> Price | None:
        """The price by the service tier that a reply names (None: it names none); None when that one is not known."""
        return self

    def in_usd(self) -> dict[str, Decimal]:
        """The rates as they are given: USD for a million tokens, and USD for a call."""
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
    """What a call cost and who says so; None when nobody knows.

    What the provider's reply says goes before the price. Where it is only reckoned, or says 0, the dearer of the two
    counts.
    """
    billed = None if price is None else price.billed_as(service_tier)
    if price is None or billed is None or usage is None or usage.estimated:
        return reported, source
    own = billed.of(usage)
    if reported is None or (own > reported and (source in _RECKONED or not reported)):
        return own, price.source
    return reported, source


def checked_prices(prices: object) -> dict[str, Price]:
    """Prices by model as a user gives them. Raises LLMConfigurationError for what is no such thing."""
    if not isinstance(prices, Mapping):
        raise LLMConfigurationError(f"prices must be a mapping of models to Price, not {type(prices).__name__}.")
    for model, price in prices.items():
        if not isinstance(model, str) or not isinstance(price, Price):
            raise LLMConfigurationError(
                f"prices must have a Price for the name of a model, not {price!r} for {model!r}."
            )
    return dict(prices)


def _rate(name: str, value: object) -> int:
    return scaled_usd(name, value, _DIGITS, MOST * 10 ** (_DIGITS - 9))


def _levels(above: object) -> tuple[tuple[int, Price], ...]:
    if not isinstance(above, Mapping):
        raise LLMConfigurationError(f"above must be a mapping of tokens to Price, not {type(above).__name__}.")
    for start, price in above.items():
        check_count("above", start, least=0)
        if not isinstance(price, Price) or price._levels:
            raise LLMConfigurationError("above must have, for so many tokens each, a Price without `above` of its own.")
    return tuple(sorted(above.items(), key=lambda level: -level[0]))


def _nano_usd(parts: int) -> int:
    return -(-parts // _NANO_USD)
