"""What tokens cost, as a user declares it."""

from __future__ import annotations

from decimal import Decimal
from typing import Self

from llm_connect.core.units import nano_usd_of, usd_of
from llm_connect.core.usage import Usage

_MILLION = 1_000_000
Rate = int | str | float | Decimal


class Price:
    """USD per million tokens, for a budget that limits USD.

        price = Price(prompt="0.40", completion="1.60", cached="0.10")
        adapter = OpenAIAdapter(model="gpt-4.1-mini", price=price)

    prompt, completion: all input, all output. cached, cache_write: parts of the input that have a rate of their
        own; without one they cost what `prompt` says. call: USD for each request.

    A call is held at the dearest rate that it can get, and settled part by part: cached tokens are counted once.
    `Price.free()` is the price of a local model. Raises LLMConfigurationError for a rate that is none.
    """

    __slots__ = ("cache_write", "cached", "call", "completion", "prompt")

    def __init__(
        self,
        *,
        prompt: Rate,
        completion: Rate,
        cached: Rate | None = None,
        cache_write: Rate | None = None,
        call: Rate = 0,
    ) -> None:
        #: Nano-USD for a million tokens.
        self.prompt: int = nano_usd_of("prompt", prompt)
        self.completion: int = nano_usd_of("completion", completion)
        self.cached: int = self.prompt if cached is None else nano_usd_of("cached", cached)
        self.cache_write: int = self.prompt if cache_write is None else nano_usd_of("cache_write", cache_write)
        #: Nano-USD for one request.
        self.call: int = nano_usd_of("call", call)

    @classmethod
    def free(cls) -> Self:
        """The price of what costs nothing."""
        return cls(prompt=0, completion=0)

    def at_most(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:
        """Nano-USD at the dearest rates, rounded up."""
        dearest = max(self.prompt, self.cached, self.cache_write)
        return calls * self.call + _rounded_up(prompt_tokens * dearest + completion_tokens * self.completion)

    def of(self, usage: Usage, calls: int = 1) -> Decimal:
        """USD of what was used, rounded up once to a nano-dollar."""
        plain = max(0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens)
        parts = plain * self.prompt + usage.cached_tokens * self.cached + usage.cache_write_tokens * self.cache_write
        return usd_of(calls * self.call + _rounded_up(parts + usage.completion_tokens * self.completion))

    def __repr__(self) -> str:
        rates = ", ".join(f"{name}={Decimal(getattr(self, name)).scaleb(-9).normalize():f}" for name in self.__slots__)
        return f"Price({rates})"


def cost_of(
    reported: Decimal | None, source: str | None, usage: Usage | None, price: Price | None
) -> tuple[Decimal | None, str | None]:
    """What a call cost and who says so: the provider's reply before the declared price; None when nobody does."""
    if reported is not None or price is None or usage is None or usage.estimated:
        return reported, source
    return price.of(usage), "declared"


def _rounded_up(nano_usd_for_a_million: int) -> int:
    return -(-nano_usd_for_a_million // _MILLION)
