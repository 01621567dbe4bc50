"""The rows of a benchmark's table: each measure, its comparison and its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """One measure. turns: the number of turns in a round. before: the measure that precedes it, in its own process."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    turns: int = 1
    before: tuple[Measure, ...] = ()

    @classmethod
    def of(cls, name: str, *, turns: int = 1, before: tuple[Measure, ...] = (), **options: Any) -> Measure:
        return cls(name, tuple(options.items()), turns, before)

    def __str__(self) -> str:
        return " ".join((self.name, *(f"{name}={value}" for name, value in self.options)))


@dataclass(frozen=True)
class Row:
    """One row. value: the field of the measure. must: the most (or least) of ours / reference, or of ours alone."""

    group: str
    what: str
    ours: str
    reference: str | None
    measure: Measure
    must: float
    value: str = "cpu"
    least: bool = False
    unit: str = ""

    @property
    def subjects(self) -> list[str]:
        return [self.ours] if self.reference is None else [self.ours, self.reference]

    def met(self, reached: float) -> bool:
        return reached >= self.must if self.least else reached <= self.must
