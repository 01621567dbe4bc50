"""A server on loopback that reads one request after the other, and answers each with the bytes it was told."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

TLS = Path(__file__).parent / "data" / "tls"


@dataclass
class RawServer:
    """`reply` is what is sent, then the connection is closed; `early` sends it before the body has been read."""

    reply: bytes = b""
    early: bool = False
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        """One request and its reply."""
        self.connections += 1
        request = b""
        while b"\r\n\r\n" not in request and (part := connection.recv(65536)):
            request += part
        if not request:
            return
        if self.early:
            connection.sendall(self.reply)
            connection.shutdown(socket.SHUT_WR)
        size = int(request.lower().partition(b"content-length:")[2].split()[0])
        end = request.index(b"\r\n\r\n") + 4 + size
        while len(request) < end and (part := connection.recv(65536)):
            request += part
        self.requests.append(request)
        if not self.early:
            connection.sendall(self.reply)


@contextmanager
def raw_server(*, tls: bool = False) -> Iterator[RawServer]:
    """A running server; with `tls` it has a certificate for `localhost`, which TLS / "certificate.pem" vouches for."""
    server = RawServer()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server.port = listener.getsockname()[1]
        thread = threading.Thread(target=_accept, args=(server, listener, tls))
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def good(body: bytes, *headers: bytes) -> bytes:
    """A reply with 200."""
    return b"\r\n".join((b"HTTP/1.1 200 OK", *headers, b"content-length: %d" % len(body), b"", body))


def _accept(server: RawServer, listener: socket.socket, tls: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.settimeout(20)
        with suppress(OSError):
            if tls:
                with connection, context.wrap_socket(connection, server_side=True) as secured:
                    server.serve(secured)
            else:
                with connection:
                    server.serve(connection)
        connection.close()
