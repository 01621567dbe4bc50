"""A hold that grows with the text of its stream."""

from __future__ import annotations

from typing import Self

from llm_connect.core.bounds import utf8_bytes
from llm_connect.core.demand import GrowingDemand
from llm_connect.core.holds import Hold
from llm_connect.core.usage import Usage


class Growth:
    """How much of an answer its hold covers: the text that has come, by its bytes, since a token has one at least.

    What nobody sees, such as thinking, is not in it.
    """

    def __init__(self, hold: Hold, demand: GrowingDemand) -> None:
        self._hold = hold
        self._demand = demand
        self._covered = demand.least
        self._seen = 0

    @classmethod
    def of(cls, hold: Hold) -> Self | None:
        """The growth of a hold that is to grow; None for one that covers its bound."""
        return cls(hold, hold.demand) if isinstance(hold.demand, GrowingDemand) else None

    def covers(self, text: str) -> bool:
        """Whether the next `text` may be given on: the hold covers it, after it has grown if need be.

        A hold that has ended covers everything: what the answer came to is booked.
        """
        self._seen += utf8_bytes(text)
        most, step = self._demand.bound.max_tokens, self._demand.least
        if self._seen <= self._covered or self._covered >= most or self._hold.ended:
            return True
        steps = -(-(self._seen - self._covered) // step)
        return self._grow_to(min(self._covered + steps * step, most)) or self._grow_to(min(self._seen, most))

    async def acovers(self, text: str) -> bool:
        """Like `covers`; a hold in a store grows without blocking the event loop."""
        worker = self._hold.tracker.gate.worker
        if worker is None or self._seen + utf8_bytes(text) <= self._covered:
            return self.covers(text)
        return await worker.run(self.covers, text)

    def estimate(self, text: str) -> Usage:
        """What an answer of this text has used at most, but for what nobody sees."""
        return Usage(prompt_tokens=self._demand.bound.prompt_tokens, completion_tokens=utf8_bytes(text), estimated=True)

    def _grow_to(self, covered: int) -> bool:
        more = self._demand.at(covered).minus(self._demand.at(self._covered))
        grown = self._hold.tracker.gate.extend(self._hold, more)
        if grown:
            self._covered = covered
        return grown
