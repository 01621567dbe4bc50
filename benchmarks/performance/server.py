"""A provider on loopback that is fast enough not to count: it does not look at what it is asked.

    python server.py [CPU]

It prints its port and answers until its standard input ends. A first part of the path that is a number is the time
in milliseconds after which the answer comes: /1000/v1/chat/completions. Standard library only.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import sys

#: About 700 bytes with its headers, as the providers' own for a short answer.
_TEXT = "The loopback provider answers with a sentence that is long enough to be one, and then with a second one."
_CHAT = {
    "id": "chatcmpl-0123456789abcdefghij",
    "object": "chat.completion",
    "created": 1_780_000_000,
    "model": "gpt-4.1-mini-2025-04-14",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": _TEXT, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 12,
        "completion_tokens": 24,
        "total_tokens": 36,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
    "service_tier": "default",
    "system_fingerprint": "fp_0123456789",
}
_GEMINI = {
    "candidates": [
        {
            "content": {"parts": [{"text": _TEXT}], "role": "model"},
            "finishReason": "STOP",
            "index": 0,
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 12,
        "candidatesTokenCount": 24,
        "totalTokenCount": 36,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}],
    },
    "modelVersion": "gemini-2.5-flash",
    "responseId": "0123456789abcdefghij",
}
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_DELAY = re.compile(rb"[A-Z]+ /(\d+)/")


def _reply(body: object) -> bytes:
    data = json.dumps(body).encode()
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_0123456789abcdef\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


_REPLIES = {True: _reply(_GEMINI), False: _reply(_CHAT)}


class Connection(asyncio.Protocol):
    """One connection, on which one request follows the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._head = b""
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            length = _LENGTH.search(head)
            self._missing = (int(length[1]) if length else 0) - len(body)
            self._head = head
        if self._missing <= 0:
            self._missing = 0
            head, self._head = self._head, b""
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        delay = _DELAY.match(head)
        reply = _REPLIES[b":generateContent" in head.partition(b"\r\n")[0]]
        if delay is None or delay[1] == b"0":
            self._write(reply)
        else:
            self._loop.call_later(int(delay[1]) / 1000, self._write, reply)

    def _write(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(loop), "127.0.0.1", 0, backlog=16_384)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if len(sys.argv) > 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(main())
