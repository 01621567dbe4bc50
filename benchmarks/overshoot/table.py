"""The results as Markdown tables: a contender a row, a scenario a column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from benchmarks.overshoot.results import Result
from benchmarks.overshoot.scenarios import SCENARIOS

Cell = Callable[[Result], str]

#: What the README shows.
SHORT = ("sequential", "gather", "threads", "chain", "cancelled", "chinese")


def short(results: Sequence[Result]) -> str:
    """The overshoot alone, in the scenarios that need no explanation."""
    return grid([result for result in results if result.scenario in SHORT], lambda result: percent(result))


def tables(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Each table with its heading."""
    measured = [result for result in results if not result.failed]
    answered = [result for result in measured if result.lost is not None]
    holding = [result for result in measured if result.held is not None]
    parts = [
        ("Calls that reached the server, and the overshoot", grid(results, lambda r: f"{r.calls}, {percent(r)}")),
        ("Paid replies that the caller never got", grid(answered, lambda r: str(r.lost))),
        ("What was booked, in percent of the bill", grid(measured, _books)),
        ("The chain: spent by B and C, in percent of their own caps", _children(measured)),
        ("Holds left over when nothing runs", grid(holding, lambda r: plain(r.held))),
    ]
    failed = [f"- {r.contender}, {r.scenario}: {r.failed}" for r in results if r.failed]
    return [part for part in parts if part[1]] + ([("No result", "\n".join(failed))] if failed else [])


def markdown(results: Sequence[Result]) -> str:
    """Return all tables, for the screen."""
    return "\n\n".join(f"{heading}:\n\n{body}" for heading, body in tables(results))


def grid(results: Sequence[Result], cell: Cell) -> str:
    """A row for each contender and a column for each scenario; empty without results."""
    names = list(dict.fromkeys(result.scenario for result in results))
    rows: dict[str, dict[str, str]] = {}
    for result in results:
        rows.setdefault(result.contender, {})[result.scenario] = "no result" if result.failed else cell(result)
    cells = {contender: [row.get(name, "") for name in names] for contender, row in rows.items()}
    return aligned([SCENARIOS[name].title for name in names], cells)


def aligned(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table."""
    if not rows:
        return ""
    head = ["contender", *columns]
    lines = [head, ["---", *("---:" for _ in columns)], *([name, *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(result: Result) -> str:
    """The overshoot, as in +900 % and -5 %."""
    return f"{result.overshoot_percent:+.0f} %"


def plain(amount: Decimal | None) -> str:
    """An amount without trailing zeros."""
    return "" if amount is None else f"{amount.normalize():f}"


def _books(result: Result) -> str:
    return "" if result.books_percent is None else f"{result.books_percent:.0f} %"


def _children(results: Sequence[Result]) -> str:
    chains = [result for result in results if result.below]
    rows = {
        result.contender: [f"{spent / cap * 100:.0f} %" for spent, cap in result.below.values()] for result in chains
    }
    return aligned(["B and C together", "C"], rows)
