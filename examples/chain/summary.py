"""The display after a run: its ledger as a table, and a check that the budget has kept its promise."""

from __future__ import annotations

from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from llm_connect import BudgetTracker, LedgerEntry, LLMBudgetExceededError
from llm_connect.testing import MeterReading

from .agents import Report

_COLUMNS = ("id", "tracker", "adapter", "model", "outcome", "held", "actual", "grade", "labels")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the chain: its budget, its ceiling for research, and how it ended.

    billed: the count of the provider's own meter; None if there is no meter.
    """

    budget: BudgetTracker
    research_total: int
    report: Report | None = None
    refusal: LLMBudgetExceededError | None = None
    billed: MeterReading | None = None

    @property
    def entries(self) -> list[LedgerEntry]:
        return list(self.budget.ledger)

    @property
    def booked(self) -> int:
        """The tokens of the ledger, added up."""
        return self.budget.ledger.earlier.tokens + sum(entry.amount.tokens for entry in self.entries)

    @property
    def booked_research(self) -> int:
        path = f"{self.budget.path}/research"
        return sum(entry.amount.tokens for entry in self.entries if entry.tracker.startswith(path))

    @property
    def checks(self) -> dict[str, bool]:
        """Return the budget's promises, and whether each held."""
        budget, cap = self.budget, self.budget.total or 0
        checks = {
            "nothing is held any more": budget.held == 0 and budget.held_calls == 0,
            f"the ledger adds up to what is spent, {budget.spent:,}": self.booked == budget.spent,
            f"{budget.spent:,} tokens spent are within the cap of {cap:,}": budget.spent <= cap,
            f"{self.booked_research:,} tokens of it for research are within the ceiling of {self.research_total:,}": (
                self.booked_research <= self.research_total
            ),
        }
        if self.billed is not None:
            tokens, calls = self.billed.total_tokens, self.billed.calls
            checks[f"the provider has billed {tokens:,} tokens, within the cap"] = tokens <= cap
            checks[f"the provider got {calls} calls, those of the ledger and no other"] = calls == budget.spent_calls
        return checks


def ledger_table(run: Run) -> Table:
    """Return one row for each attempt, and the sum."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, show_footer=True, padding=0)
    sums = {"tracker": "total", "outcome": f"{run.budget.spent_calls} calls", "actual": f"{run.booked:,}"}
    for name in _COLUMNS:
        number = name in ("id", "held", "actual")
        table.add_column(name, justify="right" if number else "left", footer=sums.get(name, ""), overflow="fold")
    for entry in run.entries:
        labels = " ".join(f"{name}={value}" for name, value in entry.labels.items())
        row = (entry.id, entry.tracker, entry.adapter, entry.model, entry.outcome)
        figures = (f"{entry.bound.tokens:,}", f"{entry.amount.tokens:,}", entry.grade, labels)
        table.add_row(*(Text(str(cell)) for cell in (*row, *figures)))
    return table


def total_line(run: Run) -> str:
    """Return the sum of the ledger, the tracker's figure, and the provider's meter."""
    line = f"total {run.booked:,} tokens = spent {run.budget.spent:,}, held {run.budget.held:,}"
    if run.billed is None:
        return line
    return f"{line}; the provider's meter: {run.billed.total_tokens:,} tokens in {run.billed.calls} calls"


def report_text(report: Report) -> Text:
    """Return the work of the agents, one paragraph each."""
    paragraphs = [("A asked", "\n".join(report.questions)), ("C wrote", report.text), ("D remarks", report.review)]
    parts = [(f"{who}: ", "bold", f"{' '.join(said.split())}\n") for who, said in paragraphs if said.strip()]
    return Text.assemble(*(piece for who, style, said in parts for piece in ((who, style), said)))
