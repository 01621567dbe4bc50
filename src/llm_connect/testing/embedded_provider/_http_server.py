"""The loopback server: one event loop in one daemon thread, for any number of connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future

from ._http_messages import AT_ONCE, HttpReply, HttpRequest, MalformedRequest, Pace, RequestParser

BACKLOG = 4096

Handler = Callable[[HttpRequest], HttpReply]


class LoopbackServer:
    """Serves `handle` on 127.0.0.1 at a port the system chooses.

        server = LoopbackServer(handle)
        server.start()      # server.port is known from here on
        server.close()

    `handle` runs in the server's own thread, one request at a time, and must not block. `close` may be called
    from any other thread and more than once; it returns when thread, sockets and tasks are gone.
    """

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._connections: set[_Connection] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.port: int | None = None

    def start(self) -> None:
        """Binds and begins to accept; raises RuntimeError when it has been started before."""
        with self._lock:
            if self.port is not None:
                raise RuntimeError("this provider has been started before; make a new one")
            listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
            self.port = int(listener.getsockname()[1])
            accepting: Future[None] = Future()
            self._thread = threading.Thread(
                target=self._run, args=(listener, accepting), name="embedded-provider", daemon=True
            )
            self._thread.start()
            accepting.result()

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return len(self._connections)

    def close(self) -> None:
        """Drops every connection, running replies included, and ends the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            assert self._loop is not None
            assert self._stop is not None
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    def _run(self, listener: socket.socket, accepting: Future[None]) -> None:
        try:
            asyncio.run(self._serve(listener, accepting))
        except BaseException as error:
            if not accepting.done():
                accepting.set_exception(error)
        finally:
            listener.close()

    async def _serve(self, listener: socket.socket, accepting: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # Nothing that clients do to their connections is printed or logged.
        self._loop.set_exception_handler(lambda loop, context: None)
        server = await self._loop.create_server(
            lambda: _Connection(self._handle, self._connections), sock=listener, backlog=BACKLOG
        )
        accepting.set_result(None)
        await self._stop.wait()
        await self._stop_accepting(self._loop, listener)
        server.close()
        await self._drop_connections()
        await server.wait_closed()

    async def _stop_accepting(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        # A connection accepted in this very turn becomes a transport some turns later; when the server is
        # closed by then, asyncio leaves that transport open. A proactor loop has no such gap, and no readers.
        with contextlib.suppress(NotImplementedError):
            loop.remove_reader(listener)
        for _ in range(5):
            await asyncio.sleep(0)

    async def _drop_connections(self) -> None:
        while self._connections:
            for connection in list(self._connections):
                connection.drop()
            await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """One client: answers its requests in order; drops a reply that is under way when the client goes."""

    def __init__(self, handle: Handler, connections: set[_Connection]) -> None:
        self._handle = handle
        self._connections = connections
        self._parser = RequestParser()
        self._delivery: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._delivery is not None:
            self._delivery.cancel()

    def drop(self) -> None:
        """Closes without sending the rest."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        self._answer_what_is_complete()

    def _answer_what_is_complete(self) -> None:
        try:
            while self._is_free() and (request := self._parser.next_request()) is not None:
                self._send(request, self._handle(request))
        except MalformedRequest as error:
            self._transport.write(HttpReply(status=error.status).head(keep_alive=False))
            self._transport.close()
        if self._is_free() and self._parser.expects_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _is_free(self) -> bool:
        return self._delivery is None and not self._transport.is_closing()

    def _send(self, request: HttpRequest, reply: HttpReply) -> None:
        head = reply.head(keep_alive=request.keep_alive)
        body = b"" if request.method == "HEAD" else reply.body
        if reply.pace == AT_ONCE:
            self._transport.write(head + body)
            self._finish(request)
            return
        self._delivery = asyncio.get_running_loop().create_task(self._deliver(request, reply, head, body))

    async def _deliver(self, request: HttpRequest, reply: HttpReply, head: bytes, body: bytes) -> None:
        pace = reply.pace
        await asyncio.sleep(pace.delay)
        if pace.stall == "before_headers":
            await _until_cancelled()
        if pace.cut == "before_reply":
            self._transport.close()
            return
        await self._write(head, pace.drip if pace.drip_headers else None)
        if pace.stall == "after_headers":
            await _until_cancelled()
        parts = reply.parts if pace.cut is None and body else None
        await self._write_parts((body[: pace.cut],) if parts is None else parts, pace)
        if pace.stall == "in_stream":
            await _until_cancelled()
        self._delivery = None
        if pace.cut is None:
            self._finish(request)
            self._answer_what_is_complete()
        else:
            self._transport.close()

    async def _write_parts(self, parts: tuple[bytes, ...], pace: Pace) -> None:
        for part in parts:
            await self._write(part, pace.drip)
            await asyncio.sleep(pace.between)

    async def _write(self, data: bytes, drip: float | None) -> None:
        if drip is None:
            self._transport.write(data)
            return
        for position in range(len(data)):
            self._transport.write(data[position : position + 1])
            await asyncio.sleep(drip)

    def _finish(self, request: HttpRequest) -> None:
        if not request.keep_alive:
            self._transport.close()


async def _until_cancelled() -> None:
    await asyncio.get_running_loop().create_future()
