"""The ledger in a budget file, which keeps every entry of all processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from llm_connect.budget.accounting.ledger import Ended, Ledger, LedgerEntry, PostingOf
from llm_connect.budget.accounting.totals import By, Total
from llm_connect.budget.admission.booking import Sink
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.holds import Hold
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.books import StoredBooks
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.serialization import Row, ended_values, entry_of, entry_values, sum_of
from llm_connect.stores.sqlite.rows import (
    CORRECT_PRESUMED,
    ENTRY_COLUMNS,
    FIND_SETTLED,
    INSERT_ENTRY,
    OPEN_PRESUMPTIONS,
)
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.stores.sqlite.ports import FileParts

#: All entries except those about spend that has left its window.
_LASTING = "budget = ? AND outcome <> 'expired'"
_SUMS = "sum(tokens), sum(calls), sum(nano_usd)"


class FileLedger(Ledger):
    """Like `Ledger`. It shows the last `keep` entries of all processes; the file keeps the earlier ones too."""

    def __init__(self, keep: int, session: FileParts) -> None:
        super().__init__(0, session.gate.run)
        #: Plain arguments: the file has no separate sums to update.
        self.posting: PostingOf = lambda *entry: entry
        self._keep = keep
        self._session = session

    def post(self, line: LedgerEntry | Ended, posting: Any) -> None:
        place: tuple[int | None, bool, Any, Any] = (None, False, None, None)
        if isinstance(line, LedgerEntry):
            values = entry_values(line)
        else:
            assert isinstance(line, StoredHold)
            values = ended_values(line)
            lease, row = (line.lease.number, line.row) if line.lost and line.lease is not None else (None, None)
            place = (self._session.trackers.number_of(line.tracker), line.ending.outcome == "presumed", lease, row)
        self._session.connection.execute(INSERT_ENTRY, (*values, self._session.budget, *place))

    def post_expiry(self, entry: LedgerEntry) -> None:
        self.post(entry, None)

    def totals(self, by: By) -> dict[str, Total]:
        """Like `Ledger.totals`, computed from all entries in the file."""
        if by not in get_args(By):
            raise LLMConfigurationError(f"totals() accepts tracker, adapter, model or label, not {by!r}.")
        name = {"tracker": "path", "label": "label.key || '=' || label.value"}.get(by, f"ifnull({by}, '')")
        source = "ledger, json_each(ledger.labels) AS label" if by == "label" else "ledger"
        rows = self._read(f"SELECT {name}, count(*), {_SUMS} FROM {source} WHERE {_LASTING} GROUP BY 1 ORDER BY 1")
        return {name: Total(entries, Amount(*sums)) for name, entries, *sums in rows}

    @property
    def earlier(self) -> Amount:
        last = "SELECT id FROM ledger WHERE budget = ? ORDER BY id DESC LIMIT ?"
        query = f"SELECT {_SUMS} FROM ledger WHERE budget = ? AND id NOT IN ({last})"
        (sums,) = self._read(query, self._session.budget, self._keep)
        return sum_of(sums)

    def __iter__(self) -> Iterator[LedgerEntry]:
        rows = self._read(f"SELECT {ENTRY_COLUMNS} FROM ledger WHERE budget = ? ORDER BY id DESC LIMIT ?", self._keep)
        return map(entry_of, reversed(rows))

    def __len__(self) -> int:
        ((entries,),) = self._read("SELECT count(*) FROM ledger WHERE budget = ?")
        return min(int(entries), self._keep)

    def _read(self, query: str, *values: int) -> list[Row]:
        return self._session.read_rows(query, (self._session.budget, *values))


class FileBooks(StoredBooks):
    """Like `Books`. The ids of entries and the open presumptions come from the file."""

    _session: FileParts

    def __init__(self, session: FileParts, ledger: Ledger, outbox: Outbox, sink: Sink | None) -> None:
        super().__init__(session, ledger, outbox, sink)
        # Unlike a generator, this iterator survives an interruption.
        self._ids = iter(self._next_id, None)  # type: ignore[assignment]
        self.last_id: int | None = None

    def _next_id(self) -> int:
        self.last_id = number = self.number()
        return number

    def number(self) -> int:
        """The id of the next entry. It stays free: the next call returns it again unless an entry was written."""
        if self.last_id is None:
            self.last_id = int(self._session.connection.execute("SELECT ifnull(max(id), 0) FROM ledger").fetchone()[0])
        return self.last_id + 1

    def _presumption(self, entry_id: int) -> Hold | None:
        return self._corrected(CORRECT_PRESUMED, entry_id)

    def _settled(self, entry_id: int) -> Hold | None:
        return self._corrected(FIND_SETTLED, entry_id)

    def _corrected(self, query: str, entry_id: int) -> Hold | None:
        row = self._session.connection.execute(query, (entry_id, self._session.budget)).fetchone()
        return None if row is None else self._ended_hold(row[0], entry_of(row[1:]))

    def open_presumptions(self) -> list[int]:
        rows = self._session.connection.execute(OPEN_PRESUMPTIONS, (self._session.budget,)).fetchall()
        return [entry_id for (entry_id,) in rows]
