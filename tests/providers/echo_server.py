"""A server on loopback that keeps its connections and answers `ASK-x.` with `ANS-x.`, in the format of the path."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_USAGE = {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}


class EchoServer(ThreadingHTTPServer):
    """`SLOW` in a prompt waits for `go`, with the head of a stream and its first text sent already."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.go = threading.Event()
        #: Requests that have arrived, and connections that have been closed by the client.
        self.arrived: list[str] = []
        self.connections = 0

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that has gone."""

    def url(self, adapter: str) -> str:
        """The base URL for an adapter."""
        return f"http://127.0.0.1:{self.server_address[1]}" + ("" if adapter == "gemini" else "/v1")

    def wait_for(self, requests: int) -> None:
        """Until so many requests have arrived."""
        end = time.monotonic() + 60
        while len(self.arrived) < requests:
            assert time.monotonic() < end, f"{len(self.arrived)} of {requests} requests arrived"
            time.sleep(0.005)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EchoServer

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        found = re.search(r"ASK-(\w+)\.", body)
        text = f"ANS-{found[1]}." if found else "nothing was asked"
        self.server.arrived.append(text)
        if "streamGenerateContent" in self.path or '"stream":true' in body.replace(" ", ""):
            self._stream(text, slow="SLOW" in body)
            return
        if "SLOW" in body:
            assert self.server.go.wait(60)
        # Long enough for another process to read it.
        time.sleep(0.005)
        answer = json.dumps(_gemini(text) if "generateContent" in self.path else _chat("message", text)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _stream(self, text: str, *, slow: bool) -> None:
        event = _gemini if "Generate" in self.path else _delta
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(event(text[:4], last=False))
        if slow:
            assert self.server.go.wait(60)
        self._chunk(event(text[4:]))
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event: Any) -> None:
        data = f"data: {json.dumps(event)}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _chat(name: str, text: str, *, last: bool = True) -> dict[str, Any]:
    choice = {"index": 0, name: {"role": "assistant", "content": text}, "finish_reason": "stop" if last else None}
    return {"id": "c", "model": "m", "choices": [choice], "usage": _USAGE if last else None}


def _delta(text: str, *, last: bool = True) -> dict[str, Any]:
    return _chat("delta", text, last=last)


def _gemini(text: str, *, last: bool = True) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, **({"finishReason": "STOP"} if last else {})}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 7, "totalTokenCount": 17}
    return {"candidates": [candidate], "modelVersion": "m", **({"usageMetadata": usage} if last else {})}


@contextmanager
def echo_server() -> Iterator[EchoServer]:
    """A running server."""
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.go.set()
            server.shutdown()
            thread.join()
