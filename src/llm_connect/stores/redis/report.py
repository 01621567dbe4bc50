"""Reports on the budgets of a server. Reading changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import unquote

from llm_connect.budget.accounting.ledger import By, Total
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.redis import layout
from llm_connect.stores.redis.server import Server, ServerClock, shown
from llm_connect.stores.redis.session import ROOT
from llm_connect.stores.reports import Report, figures_data, hold_data
from llm_connect.stores.serialization import Row, window_of

_SECONDS = 5.0
#: The end of a key by which `SCAN` finds a budget.
_META = "}:meta"


class ServerReport(Report):
    """The budgets of a server. The parts of a report may come from slightly different moments."""

    def __init__(self, server: Server, url: str) -> None:
        self._server = server
        self._url = shown(url)
        self._clock = ServerClock.of(server)
        self._now = self._clock()

    def entries(self, name: str, last: int) -> list[dict[str, Any]]:
        self.number(name)
        rows = self._read(name, "LRANGE", "ledger", -last, -1) if last else []
        return [layout.entry_from(row).to_dict() for row in rows]

    def number(self, name: str) -> int:
        schema = self._read(name, "HGET", "meta", "schema")
        if schema is None:
            raise LLMConfigurationError(f"{self._url} has no budget {name!r}: `ls` lists its budgets.")
        if schema.decode() != layout.SCHEMA:
            raise LLMConfigurationError(
                f"Budget {name!r} of {self._url} was created by another version of llm-connect: use that version."
            )
        return ROOT

    def _names(self) -> list[str]:
        names: set[str] = set()
        cursor = "0"
        while True:
            found, keys = self._server.call("SCAN", cursor, "MATCH", f"{layout.PREFIX}*{_META}", "COUNT", 1000)
            names.update(unquote(key.decode().removeprefix(layout.PREFIX).removesuffix(_META)) for key in keys)
            cursor = found.decode()
            if cursor == "0":
                return sorted(names)

    def _trackers(self, name: str) -> list[tuple[Row, dict[str, Any]]]:
        paths = self._paths(name)
        windows = {int(number): layout.row_of_window(text) for number, text in self._pairs(name, "windows")}
        states = layout.states_of(b"".join(self._read(name, "HVALS", "trackers")))
        found: list[tuple[Row, dict[str, Any]]] = []
        for number, (closed, lease, *figures) in sorted(states, key=lambda each: (paths[each[0]], each[0])):
            window = window_of(windows[number], self._clock) if number in windows else None
            found.append(((paths[number], closed, lease), figures_data(figures, window)))
        return found

    def _paths(self, name: str) -> dict[int, str]:
        places = {int(key): json.loads(text) for key, text in self._pairs(name, "places") if key.isdigit()}

        def path(number: int) -> str:
            return f"{path(places[number][0])}/{places[number][1]}" if number in places else name

        return {number: path(number) for number in (ROOT, *places)}

    def _holds(self, name: str) -> list[dict[str, Any]]:
        paths = self._paths(name)
        owners = {lease: json.loads(text)[:2] for lease, text in self._pairs(name, "owners")}
        rows = self._read(name, "ZRANGE", "leases", 0, -1, "WITHSCORES")
        ends = {lease.decode(): float(end) / 1000 for lease, end in layout.pairs(rows)}
        found = []
        for _, text in sorted(self._pairs(name, "holds")):
            lease, tracker, state, tokens, calls, nano_usd, _, _, *facts = json.loads(text)
            who = (*owners.get(lease, (None, None)), ends.get(lease))
            found.append(hold_data(self._now, paths[tracker], state, tokens, calls, nano_usd, *facts, *who))
        return found

    def _totals(self, name: str, by: By) -> dict[str, Total]:
        return layout.sums_by(by, self._read(name, "HGETALL", "labels" if by == "label" else "totals"))

    def _pairs(self, name: str, key: str) -> list[tuple[str, str]]:
        return [(field.decode(), text.decode()) for field, text in layout.pairs(self._read(name, "HGETALL", key))]

    def _read(self, name: str, command: str, key: str, *values: Any) -> Any:
        return self._server.call(command, layout.Keys(name).of(key), *values)


@contextmanager
def reading(url: str) -> Iterator[ServerReport]:
    """Open the server at `url` for a report. Raises LLMStoreError if it cannot be read."""
    with closing(Server(url, _SECONDS)) as server:
        yield ServerReport(server, url)
