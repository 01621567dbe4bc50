"""Where ledger entries may be kept for good."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from llm_connect.budget.accounting.ledger import LedgerEntry


class JsonLinesSink:
    """Appends every ledger entry to a file, one line of JSON each.

        with JsonLinesSink("ledger.jsonl") as sink:
            tracker = BudgetTracker(total=50_000, sink=sink)

    path: the file, made when it is not there. A line is handed to the operating system before the call returns whose
    entry it is; it is not forced to disk. Money is text, so that no digit is lost. Raises OSError when the file cannot
    be opened; when a line cannot be written, the budget logs that and goes on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - it is open for as long as the sink is

    def __call__(self, entry: LedgerEntry) -> None:
        self._file.write(entry.to_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; an entry that comes later is lost to it, and that is logged."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
