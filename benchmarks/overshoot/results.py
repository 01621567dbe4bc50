"""The result of one contender in one scenario: its own figures, and the server's bill."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from benchmarks.overshoot.attempts import ANSWER
from benchmarks.overshoot.roster import Entry
from benchmarks.overshoot.scenarios import Scenario, Unit
from benchmarks.overshoot.server import Bill


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run. Amounts are in the unit of the contender's cap.

    outcomes: the number of attempts with an answer, and with each error. lost: billed calls whose answer never reached
    the caller; None if the caller cancelled them. below: for B and C, the spend of them and the agents below them,
    and their caps. failed: the reason if there is no result.
    """

    contender: str
    scenario: str
    unit: Unit
    attempts: int
    cap: Decimal
    calls: int = 0
    bill: Decimal = Decimal(0)
    tokens: int = 0
    outcomes: dict[str, int]
    lost: int | None = None
    books: Decimal = Decimal(0)
    held: Decimal | None = None
    below: dict[str, tuple[Decimal, Decimal]]
    failed: str | None = None

    @property
    def overshoot_percent(self) -> Decimal:
        """The excess of the bill over the cap; negative if budget was left unused."""
        return (self.bill / self.cap - 1) * 100

    @property
    def books_percent(self) -> Decimal | None:
        """The contender's books in percent of the bill."""
        return self.books / self.bill * 100 if self.bill else None

    def to_json(self) -> dict[str, Any]:
        """Plain data, amounts as text."""
        plain = asdict(self)
        plain["below"] = {agent: [str(amount) for amount in pair] for agent, pair in self.below.items()}
        return {name: str(value) if isinstance(value, Decimal) else value for name, value in plain.items()}


def result_of(entry: Entry, scenario: Scenario, attempts: int, said: dict[str, Any], bill: Bill) -> Result:
    """The result of a run that ended by itself."""
    outcomes: dict[str, int] = said["outcomes"]
    return Result(
        contender=entry.title,
        scenario=scenario.name,
        unit=entry.unit,
        attempts=attempts,
        cap=scenario.cap(entry.unit),
        calls=bill.calls,
        bill=bill.of(entry.unit),
        tokens=bill.tokens,
        outcomes=outcomes,
        lost=None if scenario.stalls else bill.calls - outcomes.get(ANSWER, 0),
        books=Decimal(said["books"]),
        held=None if said["held"] is None else Decimal(said["held"]),
        below=_below(entry, scenario, bill) if scenario.way == "chain" else {},
    )


def failure_of(entry: Entry, scenario: Scenario, attempts: int, why: str) -> Result:
    """The result of a run that gave none."""
    cap = scenario.cap(entry.unit)
    return Result(
        contender=entry.title,
        scenario=scenario.name,
        unit=entry.unit,
        attempts=attempts,
        cap=cap,
        outcomes={},
        below={},
        failed=why,
    )


def _below(entry: Entry, scenario: Scenario, bill: Bill) -> dict[str, tuple[Decimal, Decimal]]:
    """All calls of a chain cost the same, so an agent's spend is its share of the calls."""
    each = bill.of(entry.unit) / bill.calls if bill.calls else Decimal(0)
    return {
        agent: (
            each * sum(calls for name, calls in bill.by_agent.items() if name >= agent),
            scenario.cap(entry.unit, agent),
        )
        for agent in ("B", "C")
    }
