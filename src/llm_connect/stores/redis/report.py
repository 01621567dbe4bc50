"""Reports on the budgets of a server. Reading changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from llm_connect.budget.accounting.totals import By
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.redis.budgets import ROOT
from llm_connect.stores.redis.clock import ServerClock
from llm_connect.stores.redis.keys import PATTERN, SCHEMA, Keys, name_of
from llm_connect.stores.redis.ledger import entry_from, sums_by
from llm_connect.stores.redis.packing import states_of
from llm_connect.stores.redis.server import Server, shown
from llm_connect.stores.redis.windows import window_of
from llm_connect.stores.reports import figures_data, hold_data, sum_data, windowed_data
from llm_connect.stores.serialization import Row

_SECONDS = 5.0
_BY: tuple[By, ...] = ("adapter", "model", "label")


class ServerReport:
    """The budgets of a server. The parts of a report may come from slightly different moments."""

    def __init__(self, server: Server, url: str) -> None:
        self._server = server
        self._url = shown(url)
        self._clock, asked_at = ServerClock(), time.time()
        seconds, micros = map(int, server.call("TIME"))
        self._now = seconds + micros / 1e6
        self._clock.hear(self._now, asked_at)

    def budgets(self) -> list[dict[str, Any]]:
        found = []
        for name in self._names():
            holds = self._holds(name)
            (root,) = (state for number, state in self._states(name) if number == ROOT)
            stale = sum(hold["stale"] for hold in holds)
            found.append({"name": name, **self._figures(root), "holds": len(holds), "stale_holds": stale})
        return found

    def budget(self, name: str) -> dict[str, Any]:
        self.number(name)
        paths = self._paths(name)
        states = sorted(self._states(name), key=lambda each: (paths[each[0]], each[0]))
        trackers = [
            {"path": paths[number], "closed": bool(state[0]), "allotment": state[1] is not None, **self._figures(state)}
            for number, state in states
        ]
        spent_by = {by: self._spent_by(name, by) for by in _BY}
        return {"name": name, "trackers": trackers, "holds": self._holds(name), "spent_by": spent_by}

    def entries(self, name: str, last: int) -> list[dict[str, Any]]:
        self.number(name)
        rows = self._read(name, "LRANGE", "ledger", -last, -1) if last else []
        return [entry_from(row).to_dict() for row in rows]

    def number(self, name: str) -> int:
        schema = self._read(name, "HGET", "meta", "schema")
        if schema is None:
            raise LLMConfigurationError(f"{self._url} has no budget {name!r}: `ls` lists its budgets.")
        if schema.decode() != SCHEMA:
            raise LLMConfigurationError(
                f"Budget {name!r} of {self._url} was created by another version of llm-connect: use that version."
            )
        return ROOT

    def _names(self) -> list[str]:
        names: set[str] = set()
        cursor = "0"
        while True:
            found, keys = self._server.call("SCAN", cursor, "MATCH", PATTERN, "COUNT", 1000)
            names.update(name_of(key.decode()) for key in keys)
            cursor = found.decode()
            if cursor == "0":
                return sorted(names)

    def _states(self, name: str) -> list[tuple[int, Row]]:
        windows = {int(number): text for number, text in self._pairs(name, "windows")}
        return list(states_of(b"".join(self._read(name, "HVALS", "trackers")), windows))

    def _figures(self, state: Row) -> dict[str, Any]:
        figures, window = state[2:-1], state[-1]
        return figures_data(figures) if window is None else windowed_data(window_of(window, self._clock), figures)

    def _paths(self, name: str) -> dict[int, str]:
        places = {int(key): json.loads(text) for key, text in self._pairs(name, "places") if key.isdigit()}

        def path(number: int) -> str:
            return f"{path(places[number][0])}/{places[number][1]}" if number in places else name

        return {number: path(number) for number in (ROOT, *places)}

    def _holds(self, name: str) -> list[dict[str, Any]]:
        paths = self._paths(name)
        owners = {lease: json.loads(text)[:2] for lease, text in self._pairs(name, "owners")}
        rows = self._read(name, "ZRANGE", "leases", 0, -1, "WITHSCORES")
        ends = {lease.decode(): float(end) / 1000 for lease, end in zip(rows[::2], rows[1::2], strict=True)}
        found = []
        for _, text in sorted(self._pairs(name, "holds")):
            lease, tracker, state, tokens, calls, nano_usd, _, _, *facts = json.loads(text)
            who = (*owners.get(lease, (None, None)), ends.get(lease))
            found.append(hold_data(self._now, paths[tracker], state, tokens, calls, nano_usd, *facts, *who))
        return found

    def _spent_by(self, name: str, by: By) -> dict[str, dict[str, Any]]:
        sums = sums_by(by, self._read(name, "HGETALL", "labels" if by == "label" else "totals"))
        return {what: sum_data(*total) for what, total in sums.items()}

    def _pairs(self, name: str, key: str) -> list[tuple[str, str]]:
        rows = self._read(name, "HGETALL", key)
        return [(field.decode(), text.decode()) for field, text in zip(rows[::2], rows[1::2], strict=True)]

    def _read(self, name: str, command: str, key: str, *values: Any) -> Any:
        return self._server.call(command, Keys(name).of(key), *values)


@contextmanager
def reading(url: str) -> Iterator[ServerReport]:
    """Open the server at `url` for a report. Raises LLMStoreError if it cannot be read."""
    with closing(Server(url, _SECONDS)) as server:
        yield ServerReport(server, url)
