"""Replies as bytes, in each wire format, for a server that says exactly what it is told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

TEXT = "Hello, Grüße"
CHAT_USAGE = {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}
FIGURES = {"promptTokenCount": 10, "candidatesTokenCount": 7, "totalTokenCount": 17}
RESPONSES_USAGE = {"input_tokens": 10, "output_tokens": 7, "total_tokens": 17}
DONE = b"data: [DONE]\n\n"


def reply(status: int, body: bytes, kind: str = "application/json", *headers: str) -> bytes:
    """A whole HTTP reply, after which the connection is closed."""
    lines = (f"HTTP/1.1 {status} Said", f"content-type: {kind}", "connection: close", *headers)
    return "\r\n".join((*lines, f"content-length: {len(body)}", "", "")).encode() + body


def streamed(body: bytes, status: int = 200) -> bytes:
    """A stream that ends with its connection."""
    return f"HTTP/1.1 {status} Said\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".encode() + body


def event(said: Any) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def whole(wire_format: str) -> bytes:
    """The body of a good answer."""
    if wire_format == "generate_content":
        return json.dumps({**_piece(TEXT, finishReason="STOP"), "usageMetadata": FIGURES}).encode()
    if wire_format == "openai_responses":
        return json.dumps(_response()).encode()
    message = {"role": "assistant", "content": TEXT}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps({"model": "m", "choices": choices, "usage": CHAT_USAGE}).encode()


def begun(wire_format: str) -> bytes:
    """The events of the same answer, up to its whole text."""
    if wire_format == "generate_content":
        return b"".join(map(event, map(_piece, halves())))
    if wire_format == "openai_responses":
        created = {"type": "response.created", "response": {"status": "in_progress", "output": []}}
        return event(created) + b"".join(event({"type": "response.output_text.delta", "delta": it}) for it in halves())
    return b"".join(event({"model": "m", "choices": [{"index": 0, "delta": {"content": it}}]}) for it in halves())


def ended(wire_format: str) -> bytes:
    """What follows on `begun`."""
    if wire_format == "generate_content":
        return event({**_piece("", finishReason="STOP"), "usageMetadata": FIGURES})
    if wire_format == "openai_responses":
        return event({"type": "response.completed", "response": _response()})
    stop = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return event(stop) + event({"choices": [], "usage": CHAT_USAGE}) + DONE


def halves() -> Iterable[str]:
    return TEXT[:5], TEXT[5:]


def _piece(content: str, **candidate: Any) -> dict[str, Any]:
    return {"modelVersion": "m", "candidates": [{"content": {"parts": [{"text": content}]}, **candidate}]}


def _response() -> dict[str, Any]:
    message = {"type": "message", "content": [{"type": "output_text", "text": TEXT}]}
    return {"object": "response", "model": "m", "status": "completed", "output": [message], "usage": RESPONSES_USAGE}
