"""Everything that goes wrong, in one place: what is seen, what the caller gets, and what becomes of the hold.

`TABLE` is the table in docs/adapters.md, row by row, with the cases that prove each row. `test_failure_table.py` plays
them, `test_no_secrets.py` looks for secrets in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_connect import (
    LLMAPIError,
    LLMAuthenticationError,
    LLMBudgetNeverFitsError,
    LLMConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMResponseError,
    LLMSubprocessError,
    LLMTimeoutError,
)
from llm_connect.testing import Behaviour
from tests.dead_ends import DEAD_ENDS

HTTP = ("openai", "gemini", "openrouter")
CLAUDE = ("claude-code",)
ALL = HTTP + CLAUDE
SOON = 0.02

Outcome = Literal["released", "presumed", "settled"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to bring a row about.

    behaviour: what the provider does; by_adapter: the same, where formats differ.
    at: the adapters that it is played at.
    config: fields of the call's config. total: the tracker's limit in tokens. listening: False for a port where
        nobody is. dead_end: where no connection can be made, see dead_ends.py.
    command: the lines of a stand-in for the `claude` command, see claude_stand_in.py.
    forms: whether it is played as calls, as streams, or as both. requests: how many requests one attempt is.
    retry_after: the wait that the body asks for.
    """

    name: str
    behaviour: Behaviour = field(default_factory=Behaviour)
    by_adapter: Mapping[str, Behaviour] = field(default_factory=dict)
    at: tuple[str, ...] = HTTP
    config: Mapping[str, Any] = field(default_factory=dict)
    total: int = 100_000
    listening: bool = True
    dead_end: str | None = None
    command: str | None = None
    forms: Literal["calls", "streams", "both"] = "both"
    requests: int = 1
    retry_after: float | None = None

    def behaviour_at(self, adapter: str) -> Behaviour:
        """What the provider of this adapter does."""
        return self.by_adapter.get(adapter, self.behaviour)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    outcome: the class of the error; for a call that gives a response all the same, what is special in it.
    repeated: whether it is tried again, as long as `max_retries` allows.
    hold: how the hold of each attempt ends; None when none was taken.
    says: what the text of the error tells the caller to do.
    """

    what: str
    outcome: type[LLMError] | str
    repeated: bool = False
    hold: Outcome | None
    says: str = ""
    cases: tuple[Case, ...]

    @property
    def kind(self) -> type[LLMError] | None:
        """The class of the error; None for a response."""
        return None if isinstance(self.outcome, str) else self.outcome

    @property
    def documented(self) -> str:
        """The row as it stands in docs/adapters.md."""
        sent = "yes" if self.sent else "no"
        if isinstance(self.outcome, str):
            return f"| {self.what} | none: {self.outcome} | - | {sent} | {self.hold} |"
        repeated = "yes" if self.repeated else "no"
        return f"| {self.what} | `{self.outcome.__name__}` | {repeated} | {sent} | {self.hold or 'none'} |"

    @property
    def sent(self) -> bool:
        """Whether the request has begun to leave."""
        return self.hold is not None and all(case.requests for case in self.cases)


def statuses(*numbers: int, at: tuple[str, ...] = HTTP, **fields: Any) -> tuple[Case, ...]:
    """A case for each HTTP status."""
    return tuple(Case(name=str(number), behaviour=Behaviour(status=number, **fields), at=at) for number in numbers)


def bodies(**texts: bytes) -> tuple[Case, ...]:
    """A case for each body under HTTP 200."""
    return tuple(Case(name=name.replace("_", " "), behaviour=Behaviour(body=body)) for name, body in texts.items())


def openrouter_error(status: int, **error: Any) -> Behaviour:
    """An error with OpenRouter's own fields."""
    return Behaviour(status=status, body=json.dumps({"error": {"code": status, "message": "no"} | error}).encode())


def events(*said: dict[str, Any]) -> Behaviour:
    """A stream of these events, whatever was asked."""
    return Behaviour(body=b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in said))


_SOME_CHAT = {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}
_SOME_PIECE = {"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}
_UNKNOWN = {"type": "of.a.kind.nobody.knows", "object": "unknown", "more": [1, {"delta": "no"}]}
_CHAT_USAGE = {"prompt_tokens": 60, "completion_tokens": 9, "total_tokens": 69}
_CHAT_WITH_UNKNOWN = events(_UNKNOWN, {**_SOME_CHAT, "more": 1}, _UNKNOWN, {"choices": [], "usage": _CHAT_USAGE})
_PIECE_WITH_UNKNOWN = events(
    _UNKNOWN, {**_SOME_PIECE, "usageMetadata": {"promptTokenCount": 60, "totalTokenCount": 69}}, _UNKNOWN
)
_IN_FLIGHT = {"limit_source": "openrouter_in_flight_budget", "reason": "in_flight_budget_exhausted"}
_PER_DAY = json.dumps(
    [
        {
            "error": {
                "code": 429,
                "message": "You exceeded your current quota.",
                "status": "RESOURCE_EXHAUSTED",
                "details": [
                    {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
                    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{SOON}s"},
                ],
            }
        }
    ]
).encode()
_FAILED_WITH_USAGE = json.dumps(
    {
        "error": {"code": 502, "message": "the model fell over"},
        "usage": {"prompt_tokens": 60, "completion_tokens": 9, "total_tokens": 69},
    }
).encode()

TABLE: tuple[Row, ...] = (
    Row(
        what="no key, no SDK, no `claude` command, an unknown parameter",
        outcome=LLMConfigurationError,
        hold=None,
        says="not_a_parameter",
        cases=(Case(name="unknown parameter", config={"model_params": {"not_a_parameter": 1}}, at=ALL),),
    ),
    Row(
        what="the bound does not fit the budget",
        outcome=LLMBudgetNeverFitsError,
        hold=None,
        says="does not fit",
        cases=(Case(name="small budget", total=10, at=ALL),),
    ),
    Row(
        what="nobody listens at `base_url`",
        outcome=LLMConnectionError,
        repeated=True,
        hold="released",
        says="check the network and base_url",
        cases=(Case(name="closed port", listening=False, requests=0, at=ALL),),
    ),
    Row(
        what="no connection is made before the deadline: a name lookup hangs, packets are dropped, TLS stalls",
        outcome=LLMTimeoutError,
        hold="released",
        says="so nothing was sent",
        cases=tuple(
            Case(name=name, dead_end=name, config={"timeout_seconds": seconds}, requests=0, at=at)
            for name in DEAD_ENDS
            for at, seconds in ((HTTP, 0.3), (CLAUDE, 2.5))
        ),
    ),
    Row(
        what="the connection breaks before the whole reply",
        outcome=LLMConnectionError,
        repeated=True,
        hold="presumed",
        says="check the network and base_url",
        cases=(
            Case(name="cut before the reply", behaviour=Behaviour(cut="before_reply"), at=ALL),
            Case(name="cut before the body", behaviour=Behaviour(cut=0)),
            Case(name="cut in the body", behaviour=Behaviour(cut=20)),
            Case(name="cut error", behaviour=Behaviour(status=400, cut=20), at=ALL),
            Case(name="cut stream", behaviour=Behaviour(cut_stream=True), at=CLAUDE, forms="calls"),
            Case(name="cut socket", behaviour=Behaviour(cut=600), at=CLAUDE, forms="calls"),
        ),
    ),
    Row(
        what="the deadline comes before the whole reply",
        outcome=LLMTimeoutError,
        hold="presumed",
        says="Raise it, or send less",
        cases=(
            Case(name="no headers", behaviour=Behaviour(stall="before_headers"), config={"timeout_seconds": 0.8}),
            Case(name="no body", behaviour=Behaviour(stall="after_headers"), config={"timeout_seconds": 0.8}),
            Case(name="a drip", behaviour=Behaviour(drip=0.05), config={"timeout_seconds": 0.8}),
            Case(
                name="no reply",
                behaviour=Behaviour(stall="before_headers"),
                config={"timeout_seconds": 8},
                at=CLAUDE,
            ),
            Case(
                name="a stream that stalls",
                behaviour=Behaviour(stall="after_headers"),
                config={"timeout_seconds": 8},
                at=CLAUDE,
            ),
        ),
    ),
    Row(
        what="400, 422",
        outcome=LLMAPIError,
        hold="released",
        says="(change the request)",
        cases=(
            *statuses(400, at=ALL),
            *statuses(422),
            Case(
                name="a detail", behaviour=Behaviour(status=422, body=b'{"detail": [{"msg": "no", "loc": ["body"]}]}')
            ),
            Case(name="a page as body", behaviour=Behaviour(status=400, body=b"<html>", content_type="text/html")),
        ),
    ),
    Row(
        what="413",
        outcome=LLMAPIError,
        hold="released",
        says="send a shorter prompt",
        cases=statuses(413),
    ),
    Row(
        what="404",
        outcome=LLMAPIError,
        hold="released",
        says="check the model name and base_url",
        cases=statuses(404, at=ALL),
    ),
    Row(
        what="401, 403, Gemini's 400 for a bad key",
        outcome=LLMAuthenticationError,
        hold="released",
        says="API key",
        cases=(
            *statuses(401, at=ALL),
            *statuses(403),
            Case(name="bad key", behaviour=Behaviour(status=400, error_code="API_KEY_INVALID"), at=("gemini",)),
        ),
    ),
    Row(
        what="402",
        outcome=LLMAPIError,
        hold="released",
        says="add credits, or ask for fewer tokens",
        cases=(
            *statuses(402, retry_after=SOON),
            Case(
                name="credits",
                behaviour=openrouter_error(402, metadata={"limit_source": "openrouter_credits"}),
                at=("openrouter",),
            ),
        ),
    ),
    Row(
        what="OpenRouter's 402 over requests in flight",
        outcome=LLMAPIError,
        repeated=True,
        hold="released",
        says="add credits, or ask for fewer tokens",
        cases=(
            Case(
                name="in flight",
                behaviour=openrouter_error(402, metadata={**_IN_FLIGHT, "retry_after": SOON}),
                retry_after=SOON,
                at=("openrouter",),
            ),
        ),
    ),
    Row(
        what="408, 409, 425",
        outcome=LLMAPIError,
        repeated=True,
        hold="released",
        says="HTTP 4",
        cases=(*statuses(408, at=ALL, retry_after=SOON), *statuses(409, 425, retry_after=SOON)),
    ),
    Row(
        what="429",
        outcome=LLMRateLimitError,
        repeated=True,
        hold="released",
        says="wait, or send fewer requests at once",
        cases=(
            *statuses(429, at=ALL),
            Case(name="with a wait", behaviour=Behaviour(status=429, retry_after=SOON), at=ALL),
        ),
    ),
    Row(
        what="429 for a quota that is used up (`insufficient_quota`, a limit for a day)",
        outcome=LLMRateLimitError,
        hold="released",
        says="add credits",
        cases=(
            Case(
                name="quota",
                behaviour=Behaviour(status=429, error_code="insufficient_quota", retry_after=SOON),
                at=("openai", "openrouter"),
            ),
            Case(name="Google's for a day", behaviour=Behaviour(status=429, body=_PER_DAY), retry_after=SOON),
            Case(name="a day in words", behaviour=openrouter_error(429, message="free-models-per-day")),
        ),
    ),
    Row(
        what="500, 502, 503, 504, 520 to 524, 529",
        outcome=LLMAPIError,
        repeated=True,
        hold="presumed",
        says="try again later",
        cases=(
            *statuses(500, 503, retry_after=SOON),
            *statuses(529, at=ALL),
            Case(name="a page of a proxy", behaviour=Behaviour(status=502, body=b"<html>", content_type="text/html")),
            Case(name="an empty 504", behaviour=Behaviour(status=504, body=b"")),
        ),
    ),
    Row(
        what="another 5xx",
        outcome=LLMAPIError,
        hold="presumed",
        says="try again later",
        cases=statuses(501, 505),
    ),
    Row(
        what="a redirect, which is not followed",
        outcome=LLMAPIError,
        hold="released",
        says="set base_url to the final address",
        cases=(Case(name="307", behaviour=Behaviour(redirect="http://127.0.0.1:9/elsewhere"), at=ALL),),
    ),
    Row(
        what="HTML, an empty or cut body, or no answer under 200",
        outcome=LLMResponseError,
        hold="presumed",
        says="check that base_url names the provider's API",
        cases=(
            *bodies(a_page=b"<html>", nothing=b"", cut_JSON=b'{"choices": [{"mess', a_list=b"[]", no_answer=b"{}"),
            Case(name="a page", behaviour=Behaviour(body=b"<html>", content_type="text/html"), at=CLAUDE),
        ),
    ),
    Row(
        what="an error under 200 that says 4xx",
        outcome=LLMAPIError,
        hold="presumed",
        says="(change the request)",
        cases=(Case(name="400 in 200", behaviour=Behaviour(status=400, error_code=400, error_in_200=True)),),
    ),
    Row(
        what="an error under 200 that says 429",
        outcome=LLMRateLimitError,
        repeated=True,
        hold="presumed",
        says="wait, or send fewer requests at once",
        cases=(Case(name="429 in 200", behaviour=Behaviour(status=429, error_code=429, error_in_200=True)),),
    ),
    Row(
        what="an error under 200 that says 5xx",
        outcome=LLMAPIError,
        repeated=True,
        hold="presumed",
        says="try again later",
        cases=(Case(name="503 in 200", behaviour=Behaviour(status=503, error_code=503, error_in_200=True)),),
    ),
    Row(
        what="the same, with usage",
        outcome=LLMAPIError,
        repeated=True,
        hold="settled",
        says="the model fell over",
        cases=(Case(name="usage", behaviour=Behaviour(body=_FAILED_WITH_USAGE), at=("openai", "openrouter")),),
    ),
    Row(
        what="a stream breaks off, or ends without its end, after its first text",
        outcome=LLMConnectionError,
        hold="presumed",
        says="check the network and base_url",
        cases=(
            Case(name="no end", behaviour=Behaviour(cut_stream=True, pieces=2), at=ALL, forms="streams"),
            Case(name="cut in a stream", behaviour=Behaviour(cut=900), forms="streams"),
        ),
    ),
    Row(
        what="an error within a stream, after its first text",
        outcome=LLMAPIError,
        hold="presumed",
        says="try again later",
        cases=(
            Case(
                name="502 in a stream",
                behaviour=Behaviour(error_in_200=True, pieces=2, error_code=502),
                forms="streams",
            ),
            Case(
                name="a word as code",
                behaviour=Behaviour(error_in_200=True, pieces=2, error_code="server_error"),
                at=("openai", "openrouter"),
                forms="streams",
            ),
        ),
    ),
    Row(
        what="a stream is without text for longer than `first_chunk_seconds` or `idle_seconds`",
        outcome=LLMTimeoutError,
        hold="presumed",
        says="Raise it, or send less",
        cases=(
            Case(
                name="no first text",
                behaviour=Behaviour(stall="in_stream", pieces=0),
                config={"first_chunk_seconds": 2.5},
                forms="streams",
            ),
            Case(
                name="no first text of the command",
                behaviour=Behaviour(stall="in_stream", pieces=0),
                # The command has to start by then, on a busy machine, too.
                config={"first_chunk_seconds": 6.0},
                at=CLAUDE,
                forms="streams",
            ),
            Case(
                name="no further text",
                behaviour=Behaviour(stall="in_stream", pieces=2),
                config={"idle_seconds": 1.5},
                at=ALL,
                forms="streams",
            ),
        ),
    ),
    Row(
        what="an event of an unknown kind within a stream",
        outcome="a response: it is ignored",
        hold="settled",
        cases=(
            Case(
                name="unknown events",
                behaviour=_CHAT_WITH_UNKNOWN,
                by_adapter={"gemini": _PIECE_WITH_UNKNOWN},
                forms="streams",
            ),
        ),
    ),
    Row(
        what="the `claude` command has not sent its request when the deadline comes",
        outcome=LLMTimeoutError,
        hold="released",
        says="so nothing was sent",
        cases=(
            Case(
                name="a slow start",
                command="time.sleep(60); ask()",
                config={"timeout_seconds": 1.5},
                requests=0,
                at=CLAUDE,
            ),
        ),
    ),
    Row(
        what="the `claude` command fails before its request is sent",
        outcome=LLMSubprocessError,
        hold="released",
        says="check that the command at cli_path runs by itself",
        cases=(
            Case(
                name="failure",
                command="print('started', flush=True); print('it broke', file=sys.stderr); sys.exit(3)",
                requests=0,
                at=CLAUDE,
            ),
            Case(name="silence", command="sys.exit(3)", requests=0, at=CLAUDE),
        ),
    ),
    Row(
        what="the `claude` command fails, or prints no result, after its request was sent",
        outcome=LLMSubprocessError,
        hold="presumed",
        says="check that the command at cli_path runs by itself",
        cases=(
            Case(name="failure after a request", command="ask(); sys.exit(3)", at=CLAUDE),
            Case(name="refusal after a request", command="ask(); sys.exit(1)", at=CLAUDE),
            Case(name="silence after a request", command="ask()", at=CLAUDE),
        ),
    ),
    Row(
        what="the `claude` command asks for more output than it was told to",
        outcome=LLMSubprocessError,
        hold="released",
        says="was blocked",
        cases=(Case(name="more output", command="ask(max_tokens=51)", requests=0, at=CLAUDE),),
    ),
    Row(
        what="the `claude` command asks a second time",
        outcome=LLMResponseError,
        hold="presumed",
        says="its second request was blocked",
        cases=(Case(name="a second request", command="ask(); failed(ask()[0])", at=CLAUDE),),
    ),
    Row(
        what="a good reply without usage",
        outcome="a response with `usage.estimated`",
        hold="presumed",
        cases=(Case(name="no usage", behaviour=Behaviour(usage="missing")),),
    ),
    Row(
        what="an answer that was cut at its limit",
        outcome='a response with `finish_reason` "length"',
        hold="settled",
        cases=(Case(name="limit", config={"max_tokens": 16}, at=ALL),),
    ),
    Row(
        what="an answer without text that ended at its limit",
        outcome="a response with a `hint` in `metadata`",
        hold="settled",
        cases=(
            Case(name="all thinking", behaviour=Behaviour(reasoning_tokens=99), config={"max_tokens": 16}, at=HTTP),
        ),
    ),
    Row(
        what="an answer without text",
        outcome="a response with empty `content`",
        hold="settled",
        cases=(Case(name="empty", behaviour=Behaviour(empty_text=True), at=ALL),),
    ),
    Row(
        what="a refusal of the model",
        outcome='a response with `finish_reason` "content_filter"',
        hold="settled",
        cases=(
            Case(
                name="refusal",
                behaviour=Behaviour(finish_reason="content_filter"),
                by_adapter={
                    "gemini": Behaviour(finish_reason="SAFETY"),
                    "claude-code": Behaviour(finish_reason="refusal"),
                },
                at=ALL,
            ),
        ),
    ),
    Row(
        what="more output than the limit",
        outcome="a response, all of it booked",
        hold="settled",
        cases=(Case(name="too long", behaviour=Behaviour(ignore_limit=3), config={"max_tokens": 16}),),
    ),
)
