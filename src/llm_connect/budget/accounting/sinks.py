"""Sinks: functions that receive every ledger entry and may keep it for ever."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from llm_connect.budget.accounting.ledger import LedgerEntry


class JsonLinesSink:
    """Appends every ledger entry to a file, one line of JSON each.

        with JsonLinesSink("ledger.jsonl") as sink:
            tracker = BudgetTracker(total=50_000, sink=sink)

    path: the file; it is created if it does not exist.

    Guaranteed: the operating system has the line before the call that made the entry returns. Not guaranteed: that the
    line is on the disk by then. Money is text, so no digit is lost.

    Raises OSError if the file cannot be opened. If a line cannot be written, the budget logs the failure and goes on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - it is open for as long as the sink is

    def __call__(self, entry: LedgerEntry) -> None:
        self._file.write(entry.to_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file. The budget logs later entries as failed, and they are missing from the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
