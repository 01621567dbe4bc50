"""The provider that all contenders call, and its meter, which is the judge."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from benchmarks.overshoot.scenarios import COMPLETION_USD, PROMPT_USD, Scenario, tokens_of
from llm_connect.testing import Behaviour, EmbeddedProvider, Tariff

#: Tokens of an answer that no limit cuts.
ANSWER_TOKENS = 400


@dataclass(frozen=True, slots=True)
class Bill:
    """The server's bill; `by_agent` counts the calls of each agent of a chain."""

    calls: int
    tokens: int
    usd: Decimal
    by_agent: dict[str, int]

    def of(self, unit: str) -> Decimal:
        """The bill in one unit."""
        return {"tokens": Decimal(self.tokens), "usd": self.usd, "calls": Decimal(self.calls)}[unit]


class Judge:
    """Answers on loopback and bills each request when it has arrived.

    with Judge() as judge:
        judge.begin(scenario)
        ...
        print(judge.bill())
    """

    def __init__(self) -> None:
        tariff = Tariff(
            prompt_usd_per_million=PROMPT_USD, completion_usd_per_million=COMPLETION_USD, count_tokens=tokens_of
        )
        self._provider = EmbeddedProvider(reply_tokens=ANSWER_TOKENS, tariff=tariff)
        self._desk = ThreadingHTTPServer(("127.0.0.1", 0), _desk(self._provider))

    def __enter__(self) -> Self:
        self._provider.start()
        threading.Thread(target=self._desk.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._desk.shutdown()
        self._desk.server_close()
        self._provider.close()

    @property
    def url(self) -> str:
        """The `base_url` for OpenAI's SDK."""
        return self._provider.openai_url

    @property
    def desk_url(self) -> str:
        """Reports the number of calls that have arrived, so that a scenario cancels them in flight."""
        return f"http://127.0.0.1:{self._desk.server_port}/"

    def begin(self, scenario: Scenario) -> None:
        """Reset the meter, and behave as the scenario says."""
        self._provider.reset()
        stall = "before_headers" if scenario.stalls else None
        self._provider.script(Behaviour(delay=scenario.reply_seconds, ignore_limit=scenario.ignore_limit, stall=stall))

    def bill(self) -> Bill:
        """Return the bill since `begin`."""
        meter = self._provider.meter.read()
        agents = Counter(request.prompt[:1] for request in self._provider.requests)
        return Bill(meter.calls, meter.total_tokens, meter.cost, dict(sorted(agents.items())))


def _desk(provider: EmbeddedProvider) -> type[BaseHTTPRequestHandler]:
    class Desk(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = str(provider.meter.calls).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """A benchmark prints its table only."""

    return Desk
