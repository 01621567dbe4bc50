"""A tiny Messages endpoint on loopback: what the `claude` command talks to in these tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class MessagesServer:
    """How it answers, and what it was asked.

    status: an error status to answer with; 200 streams `text` with `stop_reason`.
    tool_input: answers with one call of the first tool offered instead of with text.
    cut: "stream" ends the events before the stop, "socket" drops the connection mid-stream.
    stall: the stream never goes on after its first event, until the server is closed.
    message: the text of an error; body: what is sent instead of a stream of events.
    turns: changes of these fields, one for each coming request.
    """

    status: int = 200
    text: str = "Hello from loopback."
    stop_reason: str = "end_turn"
    headers: dict[str, str] = field(default_factory=dict)
    tool_input: dict[str, Any] | None = None
    output_tokens: int = 20
    cut: str | None = None
    stall: bool = False
    message: str = "made to fail"
    body: bytes | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers_seen: list[dict[str, str]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def prompts(self) -> list[str]:
        """The text of the last message of each request."""
        return ["|".join(texts_of(request["messages"][-1])) for request in self.requests]


@contextmanager
def messages_server() -> Iterator[MessagesServer]:
    server = MessagesServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        http.shutdown()
        http.server_close()
        thread.join()


def texts_of(message: dict[str, Any]) -> list[str]:
    """The text of each part of a message."""
    content = message["content"]
    return [content] if isinstance(content, str) else [block.get("text", block["type"]) for block in content]


def _handler(server: MessagesServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
            server.requests.append(body)
            server.arrived.set()
            for name, value in (server.turns.pop(0) if server.turns else {}).items():
                setattr(server, name, value)
            if server.status != 200:
                self._fail()
            elif server.body is not None:
                self._whole(server.body)
            else:
                self._stream(body)

        def _head(self, content_type: str) -> None:
            self.send_response(server.status)
            self.send_header("content-type", content_type)
            self.send_header("request-id", f"req_{len(server.requests)}")
            for name, value in server.headers.items():
                self.send_header(name, value)

        def _fail(self) -> None:
            kind = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}
            error = {"type": kind.get(server.status, "api_error"), "message": server.message}
            self._whole(json.dumps({"type": "error", "error": error}).encode())

        def _whole(self, data: bytes) -> None:
            self._head("application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _stream(self, body: dict[str, Any]) -> None:
            self._head("text/event-stream")
            self.end_headers()
            events = _events(server, body)
            self._event(events[0])
            if server.stall:
                server.closing.wait()
                return
            for event in events[1:-2] if server.cut else events[1:]:
                self._event(event)
            if server.cut == "socket":
                self.connection.close()

        def _event(self, event: dict[str, Any]) -> None:
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _events(server: MessagesServer, body: dict[str, Any]) -> list[dict[str, Any]]:
    usage = {"input_tokens": 100, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    message = {
        "id": f"msg_{len(server.requests)}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage | {"output_tokens": 1, "service_tier": "standard"},
    }
    stop_reason = server.stop_reason if server.tool_input is None else "tool_use"
    return [
        {"type": "message_start", "message": message},
        *_block(server, body),
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": None},
            "usage": {"output_tokens": server.output_tokens},
        },
        {"type": "message_stop"},
    ]


def _block(server: MessagesServer, body: dict[str, Any]) -> list[dict[str, Any]]:
    if server.tool_input is not None:
        name = body["tools"][0]["name"]
        block = {"type": "tool_use", "id": f"toolu_{len(server.requests)}", "name": name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(server.tool_input)}
    elif server.text:
        block = {"type": "text", "text": ""}
        delta = {"type": "text_delta", "text": server.text}
    else:
        return []
    return [
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
    ]
