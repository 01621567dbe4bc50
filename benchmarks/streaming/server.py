"""A provider on loopback that streams its answers and does not read the request.

    python server.py

The first part of the path sets the pace of an answer, the rest its format: /2000/v1/chat/completions is 2,000 chunks
of text at once, /250x1/... 250 chunks with a millisecond between two. "/endless/..." never ends, and a request to
/closed waits until the connection of the request whose prompt ends with "#N" has closed, N being the body, and answers
with that moment on the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import defaultdict
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from serving import Connection, serve

_PATH = re.compile(rb"POST /(?:(\d+)(?:x(\d+))?|(endless))/")
_NUMBER = re.compile(rb"#(\d+)\"")
#: Between two chunks of an answer without an end, after the first two.
_PACE_SECONDS = 0.05
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-request-id: req_0123456789abcdef\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_END = b"0\r\n\r\n"
_USAGE = {"prompt_tokens": 12, "completion_tokens": 24, "total_tokens": 36}
_GEMINI_USAGE = {"promptTokenCount": 12, "candidatesTokenCount": 24, "totalTokenCount": 36}


def _event(data: object) -> bytes:
    """One event, in its own chunk as a provider sends it."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    body = f"data: {text}\n\n".encode()
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


def _chat(choices: list[object], usage: object = None) -> bytes:
    return _event(
        {
            "id": "chatcmpl-0123456789abcdefghij",
            "object": "chat.completion.chunk",
            "created": 1_780_000_000,
            "model": "gpt-4.1-mini-2025-04-14",
            "service_tier": "default",
            "system_fingerprint": "fp_0123456789",
            "choices": choices,
            "usage": usage,
        }
    )


def _delta(delta: object, finish: str | None = None) -> bytes:
    return _chat([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])


def _candidate(text: str, finish: str | None = None) -> bytes:
    ended = {} if finish is None else {"finishReason": finish}
    return _event(
        {
            "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **ended}],
            "usageMetadata": _GEMINI_USAGE,
            "modelVersion": "gemini-2.5-flash",
            "responseId": "0123456789abcdefghij",
        }
    )


@cache
def _parts(gemini: bool, chunks: int) -> tuple[bytes, ...]:
    """The events of an answer with so many chunks of text, each of five to eight characters."""
    texts = (f" word{number % 1000}" for number in range(chunks))
    if gemini:
        return (*map(_candidate, texts), _candidate("", "STOP"))
    first = _delta({"role": "assistant", "content": "", "refusal": None})
    last = (_delta({}, "stop"), _chat([], _USAGE), _event("[DONE]"))
    return (first, *(_delta({"content": text}) for text in texts), *last)


@cache
def _whole(gemini: bool, chunks: int) -> bytes:
    return _HEAD + b"".join(_parts(gemini, chunks)) + _END


class Closed:
    """When the connections of numbered requests have closed."""

    def __init__(self) -> None:
        self._moments: defaultdict[int, asyncio.Future[float]] = defaultdict(asyncio.Future)

    def note(self, number: int) -> None:
        self._moments[number].set_result(time.monotonic())

    async def moment(self, number: int) -> float:
        """The moment, once it has come."""
        return await self._moments[number]


class Streaming(Connection):
    """One connection; its streams end with it."""

    def __init__(self, closed: Closed) -> None:
        super().__init__()
        self._closed = closed
        self._number: int | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._number is not None:
            self._closed.note(self._number)
        if self._task is not None:
            self._task.cancel()

    def answer(self, head: bytes, body: bytes) -> None:
        asked, gemini = _PATH.match(head), b"GenerateContent" in head.partition(b"\r\n")[0]
        if asked is None:
            self._start(self._tell(int(body)))
        elif asked[3]:
            number = _NUMBER.search(body)
            self._number = None if number is None else int(number[1])
            self._start(self._endless(gemini))
        elif asked[2]:
            self._start(self._paced(gemini, int(asked[1]), int(asked[2]) / 1000))
        else:
            self.write(_whole(gemini, int(asked[1])))

    def _start(self, work: object) -> None:
        self._task = asyncio.ensure_future(work)  # type: ignore[arg-type]

    async def _tell(self, number: int) -> None:
        moment = repr(await self._closed.moment(number)).encode()
        self.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(moment), moment))

    async def _endless(self, gemini: bool) -> None:
        text = _parts(gemini, 3)[1]
        self.write(_HEAD + text + text)
        while True:
            await asyncio.sleep(_PACE_SECONDS)
            self.write(text)

    async def _paced(self, gemini: bool, chunks: int, seconds: float) -> None:
        self.write(_HEAD)
        for part in _parts(gemini, chunks):
            self.write(part)
            await asyncio.sleep(seconds)
        self.write(_END)


if __name__ == "__main__":
    closed = Closed()
    serve(lambda: Streaming(closed))
