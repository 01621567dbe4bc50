"""The provider's bill: the tariff, and the meter that adds up."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

_MILLION = Decimal(1_000_000)


def about_four_characters_each(text: str) -> int:
    """Tokens of a prompt at 4.25 characters each, rounded up: 425 characters are 100 tokens."""
    return math.ceil(len(text) / 4.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """The counting of prompts, and the price of a million tokens in USD.

    tariff = Tariff(prompt_usd_per_million=Decimal("0.25"), completion_usd_per_million=Decimal(2))
    """

    prompt_usd_per_million: Decimal = Decimal("1.25")
    completion_usd_per_million: Decimal = Decimal(10)
    count_tokens: Callable[[str], int] = about_four_characters_each

    def prompt_cost(self, prompt_tokens: int) -> Decimal:
        """USD for that many prompt tokens; cached ones cost the same."""
        return prompt_tokens * self.prompt_usd_per_million / _MILLION

    def completion_cost(self, completion_tokens: int) -> Decimal:
        """USD for that many completion tokens, reasoning included."""
        return completion_tokens * self.completion_usd_per_million / _MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReading:
    """One consistent view of the meter: billed calls, tokens, USD, and the requests that were not billed."""

    calls: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Decimal = Decimal(0)

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


class Meter:
    """The clients' debt, counted when a request arrives, even if nobody waits for the reply.

        provider.meter.total_tokens         # one figure
        provider.meter.read()               # all figures of one moment

    Thread-safe. `calls` are billed requests, `refused` are those answered without a bill. Compare a client's own
    books with it: a reply that lies about its usage is billed correctly all the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reading = MeterReading()

    def read(self) -> MeterReading:
        """All figures of one moment."""
        return self._reading

    def reset(self) -> None:
        """Sets everything back to zero."""
        with self._lock:
            self._reading = MeterReading()

    @property
    def calls(self) -> int:
        """Billed requests."""
        return self._reading.calls

    @property
    def refused(self) -> int:
        """Requests that reached an endpoint and were answered without a bill."""
        return self._reading.refused

    @property
    def prompt_tokens(self) -> int:
        """Billed prompt tokens, cached and hidden ones included."""
        return self._reading.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Billed completion tokens, reasoning included."""
        return self._reading.completion_tokens

    @property
    def total_tokens(self) -> int:
        """Billed prompt and completion tokens."""
        return self._reading.total_tokens

    @property
    def cost(self) -> Decimal:
        """Billed USD."""
        return self._reading.cost

    def bill(self, *, prompt_tokens: int, completion_tokens: int, cost: Decimal) -> None:
        """Adds one billed call."""
        with self._lock:
            now = self._reading
            self._reading = MeterReading(
                calls=now.calls + 1,
                refused=now.refused,
                prompt_tokens=now.prompt_tokens + prompt_tokens,
                completion_tokens=now.completion_tokens + completion_tokens,
                cost=now.cost + cost,
            )

    def refuse(self) -> None:
        """Adds one request that costs nothing."""
        with self._lock:
            now = self._reading
            self._reading = MeterReading(
                calls=now.calls,
                refused=now.refused + 1,
                prompt_tokens=now.prompt_tokens,
                completion_tokens=now.completion_tokens,
                cost=now.cost,
            )

    def __repr__(self) -> str:
        now = self._reading
        return f"<Meter calls={now.calls} total_tokens={now.total_tokens} cost={now.cost} USD>"
