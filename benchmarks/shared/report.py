"""The result of a run: medians as ratios with their spread, as a table and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, TypeAlias

from measures import Measure, Row

#: What was measured of a subject, in the order of turns: the same place of two subjects is the same moment.
Results: TypeAlias = dict[tuple[str, Measure], list[dict[str, float]]]

_HEAD = ("what", "must be", "is", "spread", "ours")


class Report:
    """The rows of one run."""

    def __init__(self, rows: list[Row], results: Results, versions: Mapping[str, Mapping[str, str]]) -> None:
        self._rows, self._results, self._versions = rows, results, versions

    def text(self) -> str:
        """For a terminal."""
        lines = self.lines()
        widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )

    def lines(self) -> list[tuple[str, ...]]:
        """The table, with its head."""
        return [_HEAD, *map(self._cells, self._rows)]

    def ratio(self, what: str) -> float:
        """The median of the row that is called so."""
        return statistics.median(next(self.reached(row) for row in self._rows if row.what == what))

    def when(self) -> str:
        """Date, machine and versions."""
        where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
        versions = "\n".join(f"- {name}: {_listed(found)}" for name, found in self._versions.items())
        return f"Measured on {datetime.now(UTC):%Y-%m-%d} on {where}. The environments:\n\n{versions}"

    def data(self) -> dict[str, Any]:
        """Return all figures."""
        rows = [
            {
                **{name: getattr(row, name) for name in ("group", "what", "must", "least", "value", "unit")},
                "reached": self.reached(row),
                "figures": {subject: self._figures(subject, row) for subject in row.subjects},
            }
            for row in self._rows
        ]
        return {"when": self.when(), "versions": self._versions, "rows": rows}

    def _cells(self, row: Row) -> tuple[str, ...]:
        reached, sign = self.reached(row), "≥" if row.least else "≤"
        if not reached:
            return (row.what, f"{sign} {_shown(row.must)}", "not measured", "", "")
        middle = statistics.median(reached)
        met = "" if row.met(middle) else " (missed)"
        ours = statistics.median(self._figures(row.ours, row))
        absolute = f"{ours * 1e6:,.0f} µs" if row.value == "cpu" and row.reference is not None else ""
        return (
            row.what,
            f"{sign} {_shown(row.must)} {row.unit}".strip(),
            f"{_shown(middle)} {row.unit}".strip() + met,
            f"{_shown(min(reached))} to {_shown(max(reached))}" if len(reached) < 4 else _quartiles(reached),
            absolute,
        )

    def reached(self, row: Row) -> list[float]:
        """The figures of ours, or their ratios to those of the reference, turn by turn."""
        ours = self._figures(row.ours, row)
        if row.reference is None:
            return ours
        return [mine / theirs for mine, theirs in zip(ours, self._figures(row.reference, row), strict=True)]

    def _figures(self, subject: str, row: Row) -> list[float]:
        answers = self._results.get((subject, row.measure), [])
        return [answer[row.value] for answer in answers if row.value in answer]


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a table; the first one is its head."""
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))


def with_table(text: str, lines: Sequence[Sequence[str]]) -> str:
    """Return `text` with a new table in place of the one that begins with the same cell."""
    rest = text[text.index(f"| {lines[0][0]} |") :].splitlines(keepends=True)
    old = "".join(takewhile(lambda line: line.startswith("|"), rest))
    return text.replace(old, f"{as_markdown(lines)}\n")


def _quartiles(values: list[float]) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{_shown(low)} to {_shown(high)}"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
