"""Bytes of any kind, for every parser: mutations of good replies, driven by hypothesis.

    python -m pytest tests/protocols/test_fuzz_bytes.py --nightly

10 seconds in the gate, 10 minutes each night. `fuzz_one` takes its decisions from bytes, so that a fuzzer guided by
coverage can drive it as well: `python -m tests.protocols.test_fuzz_bytes` does, with atheris where that is installed.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from llm_connect.protocols import chat_completions, claude_cli, generate_content, openrouter_replies, responses
from llm_connect.protocols.claude_output import LinesReading
from llm_connect.protocols.openrouter_replies import Generation, cost_in, with_openrouters_words
from llm_connect.protocols.stream_reading import EventReading, Reading
from llm_connect.protocols.wire import Answer, Failure, Reply
from tests.protocols.test_fuzz import check
from tests.protocols.test_usage_figures import TEXT, account, body, events

pytestmark = pytest.mark.slow

SECONDS = {False: 10, True: 600}
#: Replies that follow from one that hypothesis draws.
MORE = 50
#: What parsers stumble over.
TOKENS = (
    b"9" * 5_000,
    b"1e999",
    b"NaN",
    b"-1",
    b"null",
    b"true",
    b"[" * 2_000,
    b'{"a":' * 2_000,
    b'"\\ud83d"',
    b"\xff\xfe",
    b"\x00",
    b"\r\n\r\n",
    b"data: ",
    b"event: error\n",
    b"data: [DONE]\n\n",
    b'"error":',
    b'"usage":{},',
    b"}",
    b",",
)


def openrouter(reply: Reply) -> Answer | Failure:
    outcome = chat_completions.parse(reply, cost_in)
    return with_openrouters_words(outcome, reply) if isinstance(outcome, Failure) else outcome


Parse = Callable[[Reply], Answer | Failure | Generation]
PARSERS: list[tuple[Parse, str, Callable[[], Reading]]] = [
    (chat_completions.parse, "chat", lambda: EventReading(chat_completions.StreamAssembly())),
    (openrouter, "chat", lambda: EventReading(chat_completions.StreamAssembly())),
    (responses.parse, "responses", lambda: EventReading(responses.StreamAssembly())),
    (generate_content.parse, "gemini", lambda: EventReading(generate_content.StreamAssembly())),
    (claude_cli.parse, "claude", LinesReading),
    (openrouter_replies.generation_in, "generation", lambda: EventReading(chat_completions.StreamAssembly())),
]
STATUSES = (200, 200, 200, 200, 201, 206, 302, 400, 402, 429, 500, 503, 0)


def seeds() -> dict[str, list[bytes]]:
    """Good replies and errors of each format, whole and as streams."""
    said: dict[str, Any] = {"prompt": 10, "completion": 7, "total": 17, "cached": 3, "reasoning": 2}
    made: dict[str, list[bytes]] = {}
    for wire in ("chat", "responses", "gemini"):
        usage = account(wire, **said) | {"cost": 0.5, "is_byok": True, "cost_details": {"upstream_inference_cost": 1}}
        stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events(wire, usage))
        made[wire] = [json.dumps(body(wire, usage)).encode(), stream.encode(), *ERRORS]
    assistant = {"type": "assistant", "message": {"model": "m", "content": [{"type": "text", "text": TEXT}]}}
    usage = {"input_tokens": 10, "output_tokens": 7, "cache_read_input_tokens": 3}
    end = {"type": "result", "terminal_reason": "completed", "stop_reason": "end_turn", "usage": usage}
    models = {"modelUsage": {"m": {"inputTokens": 10, "outputTokens": 7, "costUSD": 1}}, "total_cost_usd": 0.5}
    made["claude"] = [f"{json.dumps(assistant)}\n{json.dumps(end | models)}\n".encode(), *ERRORS]
    data = {"id": "gen-1", "native_tokens_prompt": 10, "native_tokens_completion": 7, "total_cost": 0.5}
    made["generation"] = [json.dumps({"data": data}).encode(), *ERRORS]
    return made


ERRORS = [
    b'{"error": {"message": "slow down", "code": 429, "metadata": {"retry_after": 2}}, "usage": {"prompt_tokens": 5}}',
    b'[{"error": {"code": 429, "details": [{"reason": "x", "retryDelay": "2s"}], "status": "RESOURCE_EXHAUSTED"}}]',
    b'{"detail": [{"msg": "field required", "loc": ["body", 1]}]}',
    b"<html><body>Bad gateway</body></html>",
    b'event: error\ndata: {"message": "overloaded"}\n\ndata: [DONE]\n\n',
    b"",
]
SEEDS = seeds()


class Choices:
    """Decisions that come from bytes; 0 when there are no more."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, limit: int) -> int:
        taken = self._data[self._at : self._at + 2]
        self._at += 2
        return int.from_bytes(taken, "big") % max(limit, 1)

    @property
    def left(self) -> bool:
        return self._at < len(self._data)


def mutated(reply: bytes, choose: Choices) -> bytes:
    """The reply, with pieces of it cut, doubled, changed, or replaced by what parsers stumble over."""
    for _ in range(choose.below(6)):
        start = choose.below(len(reply) + 1)
        end = min(start + choose.below(40), len(reply))
        piece = reply[start:end]
        put = (b"", piece * 3, bytes([choose.below(256)]), TOKENS[choose.below(len(TOKENS))], piece[::-1])[
            choose.below(5)
        ]
        reply = reply[:start] + put + reply[end:]
    return reply


def fuzz_one(data: bytes) -> None:
    """One reply for one parser, whole and as a stream that is cut anywhere: an answer or a failure, no exception."""
    choose = Choices(data)
    parse, wire, make = PARSERS[choose.below(len(PARSERS))]
    given_bytes = SEEDS[wire][choose.below(len(SEEDS[wire]))]
    reply = mutated(given_bytes, choose)
    status = STATUSES[choose.below(len(STATUSES))]
    check_outcome(parse(Reply(status, {"retry-after": "2", "exit-code": "1"}, reply)))
    reading, texts = make(), []
    while reply:
        size = 1 + choose.below(len(reply)) if choose.left else len(reply)
        texts += reading.feed(reply[:size])
        reply = reply[size:]
    texts += reading.end()
    outcome = parse(Reply(200, {"exit-code": "0"}, reading.body))
    check_outcome(outcome)
    if texts and wire in ("chat", "gemini"):
        # What was given on is not lost.
        kept = outcome.content if isinstance(outcome, Answer | Failure) else ""
        assert isinstance(outcome, Failure) or kept == "".join(texts)


def check_outcome(outcome: Answer | Failure | Generation) -> None:
    if isinstance(outcome, Generation):
        assert outcome.usage.total_tokens >= 0
    else:
        check(outcome)


def fuzz_usage(data: bytes) -> None:
    """Bytes in place of a usage: while the rest can be read, the answer comes."""
    choose = Choices(data)
    parse, wire, _ = PARSERS[choose.below(4)]
    name = "usageMetadata" if wire == "gemini" else "usage"
    usage = mutated(json.dumps(account(wire, prompt=10, completion=7, total=17)).encode(), choose)
    reply = json.dumps(body(wire, "?")).encode().replace(f'"{name}": "?"'.encode(), f'"{name}": '.encode() + usage)
    outcome = parse(Reply(200, {}, reply))
    try:
        readable = list(json.loads(usage, parse_int=float)) is not None
    except (ValueError, TypeError, RecursionError):
        return
    assert readable
    assert isinstance(outcome, Answer)
    assert outcome.content == TEXT
    check(outcome)


def play(fuzz: Callable[[bytes], None], seconds: float) -> int:
    """Replies that were played: hypothesis drives it, one seed after the other, of which the first is printed."""

    def several(data: bytes) -> None:
        fuzz(data)
        more = random.Random(data)
        for _ in range(MORE):
            fuzz(more.randbytes(64))

    until, number, rounds = time.monotonic() + seconds, random.SystemRandom().randrange(2**32), 0
    print(f"first seed: {number}")
    while time.monotonic() < until:
        limits = settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        seed(number + rounds)(limits(given(st.binary(max_size=64))(several)))()
        rounds += 1
    return rounds * 20 * (1 + MORE)


@pytest.mark.scales
@pytest.mark.parametrize("fuzz", [fuzz_one, fuzz_usage])
def test_bytes_of_any_kind_are_an_answer_or_a_failure(fuzz: Callable[[bytes], None], nightly: bool) -> None:
    """No parser of bodies, events, envelopes, errors, usage or generations raises, and no answer is lost.
    (WIRE-5, WIRE-31)"""
    played = play(fuzz, SECONDS[nightly] / 2)
    print(f"about {played} replies")
    assert played


if __name__ == "__main__":
    import atheris  # type: ignore[import-untyped]

    atheris.instrument_all()
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
