"""A provider on loopback, fast enough not to count: it does not read the request.

    python server.py

If the first part of the path is a number, the answer comes after so many milliseconds:
/1000/v1/chat/completions.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from serving import Connection, serve

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
_DELAY = re.compile(rb"[A-Z]+ /(\d+)/")


def _reply(body: object) -> bytes:
    data = json.dumps(body).encode()
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_0123456789abcdef\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


_REPLIES = {True: _reply(_GEMINI), False: _reply(_CHAT)}


class Performance(Connection):
    """Answers with the whole reply at once, or after the delay in the path."""

    def answer(self, head: bytes, body: bytes) -> None:
        delay = _DELAY.match(head)
        reply = _REPLIES[b":generateContent" in head.partition(b"\r\n")[0]]
        if delay is None or delay[1] == b"0":
            self.write(reply)
        else:
            asyncio.get_running_loop().call_later(int(delay[1]) / 1000, self.write, reply)


if __name__ == "__main__":
    serve(Performance)
