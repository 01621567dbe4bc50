"""A relay between one run of a command and its provider, which lets exactly one request through.

The command sends by its own rules: it follows redirects, and repeats a request after some errors. Behind a relay it
cannot. The relay refuses all further requests, and shows the command only a good reply. It listens on loopback only,
and serves only clients that know the address of this one call.
"""

from __future__ import annotations

import errno
import hmac
import json
import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from llm_connect.engine.deadline import Deadline
from llm_connect.engine.deadline import Head as Sent
from llm_connect.engine.names import alook_up, look_up
from llm_connect.errors import LLMConfigurationError, LLMSubprocessError
from llm_connect.protocols.error_bodies import said_in
from llm_connect.protocols.http_failures import error_reply, no_reply
from llm_connect.protocols.wire import Failure, Reply, request_id_in, shown
from llm_connect.providers.relay_streams import Addresses, BadMessage, Head, Stream, connected
from llm_connect.providers.strands import READ, Pause, RunFailed, Strand, Strands, seconds_left

_MESSAGES = "/v1/messages"
_MOST_REQUEST_BYTES = 256 * 1024 * 1024
_MOST_ERROR_BYTES = 1024 * 1024
#: The most clients at the same time that have not shown that they know the address.
_MOST_STRANGERS = 8
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_UNTIL_THERE_IS_ROOM = Pause(0.05)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a provider: `Endpoint.of("https://gateway.example/claude")`."""

    tls: bool
    host: str
    port: int
    netloc: str
    prefix: str

    @classmethod
    def of(cls, base_url: str) -> Endpoint:
        """Parse an address. Raises LLMConfigurationError if it is not an http(s) address."""
        with suppress(ValueError):
            parts = urlsplit(base_url)
            default = _PORTS.get(parts.scheme, 0)
            port = default and (default if parts.port is None else parts.port)
            plain = base_url.isascii() and base_url.isprintable() and " " not in base_url
            rest = parts.username or parts.password or parts.query or parts.fragment
            if parts.hostname and port and plain and not rest:
                return cls(parts.scheme == "https", parts.hostname, port, parts.netloc, parts.path.rstrip("/"))
        raise LLMConfigurationError("base_url is not an http(s) address: set one such as https://host/path.")

    @property
    def url(self) -> str:
        """The complete address."""
        return f"{'https' if self.tls else 'http'}://{self.netloc}{self.prefix}"

    def addresses(self, deadline: Deadline) -> Addresses:
        """Look the name up. Raises RunFailed, and TimeoutError at the deadline."""
        try:
            return look_up(self.host, self.port, seconds_left(deadline))
        except OSError as error:
            if deadline.passed:
                raise
            raise _no_reply(error, unsent=True) from error

    async def aaddresses(self) -> Addresses:
        """Like `addresses`, for a coroutine."""
        try:
            return await alook_up(self.host, self.port)
        except OSError as error:
            raise _no_reply(error, unsent=True) from error


class Relay:
    """The relay of one run. It consists of strands among `strands`, which close it.

    url: the address that the command gets instead of the endpoint's.
    head: notes when the first byte of the request leaves.
    request_id: the provider's id of a request that it answered with 2xx; else empty.
    admits: checks that a request body is the one that the command was told to send.

    The strands raise RunFailed, also for a reply of the provider other than 2xx. A 2xx passes while it arrives.
    """

    def __init__(
        self, endpoint: Endpoint, addresses: Addresses, admits: Callable[[bytes], bool], strands: Strands, head: Sent
    ) -> None:
        self._endpoint = endpoint
        self._addresses = addresses
        self._admits = admits
        self._strands = strands
        self._taken = False
        #: Clients that have not shown that they know the address, the oldest first.
        self._strangers: OrderedDict[Stream, Strand] = OrderedDict()
        self.head: Sent = head
        self.request_id: str = ""
        listener = socket.create_server(("127.0.0.1", 0))
        self._path = f"/{secrets.token_urlsafe(32)}"
        self.url: str = f"http://127.0.0.1:{listener.getsockname()[1]}{self._path}"
        strands.start(self._listen(listener))

    def facts(self) -> dict[str, str]:
        """The relay's facts about the request, for the reply."""
        return {"sent": "yes" if self.head.sent else "no", "request-id": self.request_id}

    def _listen(self, listener: socket.socket) -> Strand:
        with listener:
            listener.setblocking(False)
            while True:
                yield ((listener, READ),)
                try:
                    connection, _ = listener.accept()
                except OSError as error:
                    if error.errno in _NO_ROOM:
                        # Clients in the backlog go on waiting, and cost nothing.
                        yield (_UNTIL_THERE_IS_ROOM,)
                    continue
                connection.setblocking(False)
                self._take_in(Stream(connection))

    def _take_in(self, client: Stream) -> None:
        """Serve a client. Strangers cannot use up descriptors: the one that has been silent longest makes room."""
        if len(self._strangers) >= _MOST_STRANGERS:
            self._strands.end(self._strangers.popitem(last=False)[1])
        strand = self._strangers[client] = self._serve(client)
        self._strands.start(strand)

    def _serve(self, client: Stream) -> Strand:
        with closing(client), suppress(OSError, BadMessage):
            try:
                head = yield from client.head()
                path = self._path_asked_for(head)
            finally:
                self._strangers.pop(client, None)
            if path is None:
                yield from client.write(_refusal(404, "There is nothing here."))
                return
            body = yield from client.body(head, _MOST_REQUEST_BYTES)
            if self._taken:
                yield from client.write(_refusal(400, "A call may make one request, and this one has made it."))
                return
            self._taken = True
            yield from self._forward(client, head, path, body)

    def _path_asked_for(self, head: Head) -> str | None:
        """The provider's path for a request for messages; None for any other request, or for a stranger's."""
        method, _, rest = head.first.decode("latin-1").partition(" ")
        target = rest.rpartition(" ")[0]
        ours, path = target[: len(self._path)], target[len(self._path) :]
        known = hmac.compare_digest(ours.encode(), self._path.encode())
        asked = known and method == "POST" and path.partition("?")[0] == _MESSAGES
        return path if asked and "content-length" in head.headers else None

    def _forward(self, client: Stream, head: Head, path: str, body: bytes) -> Strand:
        if not self._admits(body):
            message = "The claude command asked for more output than it was told to, so its request was blocked."
            raise RunFailed(Failure(kind=LLMSubprocessError, message=message, maybe_billed=False))
        try:
            provider = yield from connected(self._addresses, self._endpoint.host if self._endpoint.tls else None)
        except OSError as error:
            raise _no_reply(error, unsent=True) from error
        with closing(provider):
            self.head.sent = True
            try:
                yield from self._send(provider, head, path, body)
                reply = yield from self._good_head(provider)
            except (OSError, BadMessage) as error:
                raise _no_reply(error, unsent=False) from error
            yield from client.write(reply)
            while part := (yield from provider.some()):
                yield from client.turn()
                yield from client.write(part)

    def _send(self, provider: Stream, head: Head, path: str, body: bytes) -> Strand:
        first = f"POST {self._endpoint.prefix}{path} HTTP/1.1".encode("latin-1")
        host = self._endpoint.netloc.encode()
        request = head.rewritten(first, host=host, connection=b"close", accept_encoding=b"identity", expect=b"")
        # A provider may answer and close before it has read the whole request.
        with suppress(ConnectionError):
            yield from provider.write(request + body)

    def _good_head(self, provider: Stream) -> Strand:
        """The head of a 2xx for the command; raises RunFailed for any other reply once it is complete."""
        head = yield from provider.head()
        while head.status < 200:
            head = yield from provider.head()
        if 200 <= head.status < 300:
            self.request_id = request_id_in(head.headers) or ""
            return head.rewritten(head.first, connection=b"close", keep_alive=b"")
        body = b"" if head.status < 400 else (yield from provider.body(head, _MOST_ERROR_BYTES))
        raise RunFailed(error_reply(Reply(head.status, head.headers, body), said_in(body)))


def _no_reply(error: Exception, *, unsent: bool) -> RunFailed:
    return RunFailed(no_reply(shown(f"{type(error).__name__}: {error}"), unsent=unsent))


def _refusal(status: int, message: str) -> bytes:
    """An error in the provider's form, after which the command gives up."""
    body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": message}}).encode()
    head = f"HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body
