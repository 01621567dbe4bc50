"""Parts shared by the tests of `llm_connect.testing`."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from llm_connect.testing import EmbeddedProvider, WireFormat

PATHS: dict[WireFormat, str] = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "openrouter": "/api/v1/chat/completions",
    "generate_content": "/v1beta/models/m:generateContent",
    "anthropic_messages": "/v1/messages",
}
KEY_HEADERS: dict[WireFormat, tuple[str, str]] = {
    "openai_chat": ("authorization", "Bearer "),
    "openai_responses": ("authorization", "Bearer "),
    "openrouter": ("authorization", "Bearer "),
    "generate_content": ("x-goog-api-key", ""),
    "anthropic_messages": ("x-api-key", ""),
}


class Wire:
    """A client that sends bytes and reads replies, one connection at a time; closed by the fixture."""

    def __init__(self, provider: EmbeddedProvider) -> None:
        self.provider = provider
        self._sockets: list[socket.socket] = []

    @staticmethod
    def body(wire_format: WireFormat, prompt: str = "hello", limit: int | None = None) -> dict[str, Any]:
        """A plain request body with an output limit in that format's field."""
        match wire_format:
            case "openai_responses":
                body: dict[str, Any] = {"model": "m", "input": prompt}
                return body | ({"max_output_tokens": limit} if limit else {})
            case "generate_content":
                config = {"maxOutputTokens": limit} if limit else {}
                return {
                    "contents": [{"role": "user", "parts": [{"text": prompt}]}],
                    "generationConfig": config,
                }
            case "anthropic_messages":
                messages = [{"role": "user", "content": prompt}]
                return {"model": "m", "max_tokens": limit or 1000, "messages": messages}
        body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
        return body | ({"max_tokens": limit} if limit else {})

    def connect(self) -> socket.socket:
        """A new connection with a timeout of five seconds."""
        port = int(self.provider.url.rsplit(":", 1)[1])
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._sockets.append(connection)
        return connection

    def exchange(self, raw: bytes) -> bytes:
        """Sends bytes and reads until the server closes."""
        connection = self.connect()
        connection.sendall(raw)
        return b"".join(iter(lambda: connection.recv(65536), b""))

    def post(
        self,
        wire_format: WireFormat,
        body: dict[str, Any] | bytes | None = None,
        *,
        key: str | None = "k",
        path: str | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on its own connection: status, headers in lower case, body."""
        content = self.body(wire_format) if body is None else body
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        name, prefix = KEY_HEADERS[wire_format]
        auth = f"{name}: {prefix}{key}\r\n" if key is not None else ""
        head = f"POST {path or PATHS[wire_format]} HTTP/1.1\r\nhost: h\r\n{auth}connection: close\r\n"
        return split(self.exchange(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw))

    def ask(self, wire_format: WireFormat, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON reply to one request."""
        answer: dict[str, Any] = json.loads(self.post(wire_format, body)[2])
        return answer

    def close(self) -> None:
        """Closes what is open."""
        for connection in self._sockets:
            connection.close()


def split(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a raw reply."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    """A running provider."""
    with EmbeddedProvider() as running:
        yield running


@pytest.fixture
def wire(provider: EmbeddedProvider) -> Iterator[Wire]:
    """Bytes to and from the running provider."""
    client = Wire(provider)
    yield client
    client.close()
