"""The ledger in a server: the last entries of all processes, and the sums of all entries ever made."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.ledger import Ended, Ledger, LedgerEntry, PostingOf
from llm_connect.budget.accounting.totals import By, Kind, Total
from llm_connect.budget.admission.booking import Sink
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.holds import Hold
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.again import Again
from llm_connect.stores.books import StoredBooks
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.redis.server import text_of
from llm_connect.stores.redis.windows import TO_COME
from llm_connect.stores.serialization import Row, ended_values, entry_of, entry_values
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.stores.redis.ports import ServerParts


#: The number of entries and their sums, in the script's layout.
_SUM = struct.Struct("<4q")


class ServerLedger(Ledger):
    """Like `Ledger`. The server keeps the last 10,000 entries of all processes; this shows the last `keep` of them."""

    def __init__(self, keep: int, session: ServerParts) -> None:
        super().__init__(0, session.gate.run)
        #: Plain arguments: the server updates the sums when it writes the entry.
        self.posting: PostingOf = lambda *entry: entry
        self._keep = keep
        self._session = session

    def post(self, line: LedgerEntry | Ended, posting: Any) -> None:
        self._session.books.add(line, *posting)

    def post_expiry(self, entry: LedgerEntry) -> None:
        self._session.books.add_expiry(entry)

    def totals(self, by: By) -> dict[str, Total]:
        """Like `Ledger.totals`."""
        if by not in get_args(By):
            raise LLMConfigurationError(f"totals() accepts tracker, adapter, model or label, not {by!r}.")
        return sums_by(by, self._session.fetch_after_all("HGETALL", "labels" if by == "label" else "totals"))

    @property
    def earlier(self) -> Amount:
        total = NOTHING
        for of_kind in sums_by("tracker", self._session.fetch_after_all("HGETALL", "totals")).values():
            total = total.plus(of_kind.amount)
        expired = self._session.fetch_after_all("HGET", "meta", "expired")
        if expired is not None:
            total = total.plus(Amount(*_SUM.unpack(expired)[1:]))
        for entry in self:
            total = total.minus(entry.amount)
        return total

    def __iter__(self) -> Iterator[LedgerEntry]:
        if not self._keep:
            return iter(())
        return map(entry_from, self._session.fetch_after_all("LRANGE", "ledger", -self._keep, -1))

    def __len__(self) -> int:
        return min(int(self._session.fetch_after_all("LLEN", "ledger")), self._keep)


def entry_from(text: bytes) -> LedgerEntry:
    """The entry in this text from the ledger."""
    numbers, row = _parts_of(text)
    return entry_of((numbers[0], *row))


def _parts_of(text: bytes) -> tuple[list[int], list[Any]]:
    """Split the text of an entry: its number, followed by its tracker's number if it can be amended; its row."""
    numbers, bracket, row = text.decode().partition("[")
    return [int(number) for number in numbers.split()], json.loads(bracket + row)


def sums_by(by: By, rows: list[bytes]) -> dict[str, Total]:
    """Sums by tracker, adapter, model or label, from the fields and values of a hash."""
    totals: dict[str, Total] = {}
    # Labels beyond the limit on their number share one field, which has the form of a kind.
    place = 0 if by == "label" else ("tracker", "adapter", "model").index(by)
    for name, text in zip(rows[::2], rows[1::2], strict=True):
        kind = json.loads(name)
        key = kind if isinstance(kind, str) else kind[place] or ""
        entries, *amount = _SUM.unpack(text)
        totals[key] = totals.get(key, Total()).plus(entries, Amount(*amount))
    return dict(sorted(totals.items()))


class ServerBooks(StoredBooks):
    """Like `Books`. An entry gets its number when the server writes it."""

    _session: ServerParts

    def __init__(self, session: ServerParts, ledger: Ledger, outbox: Outbox, sink: Sink | None) -> None:
        super().__init__(session, ledger, outbox, sink)
        self._ids = itertools.repeat(-1)  # type: ignore[assignment]
        self._place: tuple[Scope, Amount] | None = None

    def number(self) -> int:
        return TO_COME + len(self._session.changes.entries)

    def expire(self, plan: Plan, tracker: Scope, spent: Amount, presumed: Amount) -> None:
        super().expire(plan, tracker, spent, presumed)
        number = self._session.trackers.path_of(tracker)[0]
        self._session.changes.say("left", (number, NOTHING.minus(spent), NOTHING.minus(presumed)))

    def add_expiry(self, entry: LedgerEntry) -> None:
        """Add an entry about spend that has left its window to the step. The step sends the figures separately."""
        self._session.changes.add(
            entry, ([], entry.amount, NOTHING), (_text(entry_values(entry)), "", []), (False, False)
        )

    def _presumption(self, entry_id: int) -> Hold | None:
        kept = self._session.fetch("HGET", "open", entry_id)
        if kept is None or not self._session.changes.say_once("correct", str(entry_id)):
            return None
        (number,), row = _parts_of(kept)
        return self._ended_hold(number, entry_of((entry_id, *row)))

    def _settled(self, entry_id: int) -> Hold | None:
        kept = self._kept(entry_id)
        if kept is None:
            return None
        (number, *tracker), row = _parts_of(kept)
        if number != entry_id:
            # The ledger has just dropped earlier entries.
            raise Again
        entry = entry_of((number, *row))
        if entry.outcome != "settled" or not tracker or not self._session.changes.say_once("amend", entry_id):
            return None
        return self._ended_hold(tracker[0], entry)

    def _kept(self, entry_id: int) -> bytes | None:
        """The text of an entry if the ledger still has it; the numbers of its entries are consecutive."""
        first = self._session.fetch("LINDEX", "ledger", 0)
        place = -1 if first is None else entry_id - _parts_of(first)[0][0]
        kept: bytes | None = None if place < 0 else self._session.fetch("LINDEX", "ledger", place)
        return kept

    def open_presumptions(self) -> list[int]:
        return sorted(int(number) for number in self._session.fetch("HKEYS", "open"))

    def _carry_out(self, plan: Plan, tracker: Scope, entry: LedgerEntry, presumed: Amount = NOTHING) -> LedgerEntry:
        self._place = (tracker, presumed)
        return super()._carry_out(plan, tracker, entry, presumed)

    def add(self, line: LedgerEntry | Ended, kind: Kind, labels: Mapping[str, str], amount: Amount) -> None:
        """Add an entry to the step."""
        lost: str | bool = False
        is_open = False
        if isinstance(line, StoredHold):
            values, tracker, presumed = ended_values(line), line.tracker, NOTHING
            if line.ending.outcome == "presumed":
                presumed, is_open = amount, True
            if line.lost and line.row is not None:
                lost = str(line.row)
        else:
            assert isinstance(line, LedgerEntry)
            assert self._place is not None
            tracker, presumed = self._place
            values = entry_values(line)
        path = self._session.trackers.path_of(tracker)
        texts = (_text(values), _kind_text(kind), [text_of(f"{name}={value}") for name, value in labels.items()])
        self._session.changes.add(line, (path, amount, presumed), texts, (is_open, lost))


@lru_cache(maxsize=256)
def _kind_text(kind: Kind) -> str:
    return text_of(kind)


def _text(values: Row) -> str:
    """The text of an entry without its number, which the server adds."""
    return text_of(values[1:])
