"""The httpx2 clients of all HTTP adapters: no redirects, a total deadline, and our limits of connections and replies.

Our own clients send a request as it is, and do nothing else. A client of httpx2 follows redirects, logs in, keeps
cookies and calls hooks. Calls need none of that, and it costs a tenth of a call, and a dozen objects for each call
under way. Joining the address and the headers for each request costs about as much, although they are the same for all;
here requests share them.

The user's own clients are lent: they build and send the requests, their replies are measured, and nobody here closes
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import httpx2
from httpx2._decoders import IdentityDecoder, MultiDecoder

from llm_connect import _forks
from llm_connect.engine.certificates import CertificateRefused, told_of_certificate, trusted
from llm_connect.engine.deadline import Head, awaited
from llm_connect.engine.framing import BadFraming
from llm_connect.engine.http_options import DEFAULT_OPTIONS, HttpOptions
from llm_connect.engine.lost_loops import close_after, close_transports, transports_of_pool
from llm_connect.engine.measuring import ReplyRefused, gauged
from llm_connect.engine.sockets import watch
from llm_connect.errors import LLMConfigurationError, LLMError
from llm_connect.protocols.http_failures import no_reply
from llm_connect.protocols.wire import Failure

_Joined: TypeAlias = tuple[httpx2.URL, httpx2.Headers]

#: The most that are kept: a client has few addresses, and its key rarely changes.
_MOST = 64
#: Headers of every request of httpx2 that HTTP/1.1 implies. Each costs two percent of a call.
_IMPLIED = ("Accept", "Connection")
_NO_TIMEOUT = {"timeout": httpx2.Timeout(None).as_dict()}
_MOST_DIGITS = 10


def prepare() -> None:
    """Do the slow imports and loading for clients of both forms, in any thread."""
    trusted(True)
    import_module("llm_connect.engine.http_stream")
    if find_spec("aiohttp") is not None:
        import_module("llm_connect.engine.aiohttp_transport")


def sync_client(max_connections: int, options: HttpOptions = DEFAULT_OPTIONS, **more: Any) -> httpx2.Client:
    """Make a client for threads, or wrap the user's own. Its sockets obey the deadline of the awaited head."""
    if options.http_client is not None:
        return LentClient(options.http_client, options)
    transport = httpx2.HTTPTransport(**_options(max_connections, options))
    client = PlainClient(transport=transport, options=options, **_PLAIN, **more)
    watch(client)
    return client


def async_client(max_connections: int, options: HttpOptions = DEFAULT_OPTIONS, **more: Any) -> httpx2.AsyncClient:
    """Make a client for one event loop, or wrap the user's own. The caller bounds its calls with a timeout.

    It uses aiohttp if that is installed. With a proxy it uses httpx2 alone, which supports every kind of proxy.
    """
    if options.async_http_client is not None:
        return AsyncLentClient(options.async_http_client, options)
    transport: httpx2.AsyncBaseTransport
    if options.proxy is None and find_spec("aiohttp") is not None:
        from llm_connect.engine.aiohttp_transport import AiohttpTransport

        transport = AiohttpTransport(max_connections=max_connections, trusted=trusted(options.verify))
    else:
        transport = httpx2.AsyncHTTPTransport(**_options(max_connections, options))
    client = AsyncPlainClient(transport=transport, options=options, **_PLAIN, **more)
    watch(client)
    return client


def refuse_half(given: object, other: object, missing: str) -> None:
    """Refuse the form of a call for which the user passed no client: ours would have other settings."""
    if given is None and other is not None:
        raise LLMConfigurationError(f"This form of the call needs a client of your own, too: pass {missing}=.")


def abandon(client: httpx2.AsyncClient) -> None:
    """Close the connections of a client after its event loop is gone, when nothing can be awaited."""
    transport = client._transport
    if isinstance(client, AsyncLentClient):
        return
    if isinstance(transport, httpx2.AsyncHTTPTransport):
        close_transports(transports_of_pool(transport._pool))
    else:
        transport.abandon()  # type: ignore[attr-defined]


def failure_of(error: Exception) -> Failure:
    """Translate an exception of httpx2. Only a failed connection proves that nothing was sent."""
    if isinstance(error, ReplyRefused | BadFraming | CertificateRefused):
        return error.failure
    if isinstance(error, LLMError):
        return Failure(kind=type(error), message=error.message, maybe_billed=False)
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        message = "base_url is not an http(s) address: set one such as https://host/path."
        return Failure(kind=LLMConfigurationError, message=message, maybe_billed=False)
    unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    return no_reply(type(error).__name__, unsent=unsent, retryable=isinstance(error, httpx2.TransportError))


class _Requests:
    """Builds requests as httpx2 does, but joins their common parts only once."""

    def __init__(self, *, options: HttpOptions, **more: Any) -> None:
        super().__init__(**more)
        self._options = options
        self._joined: dict[tuple[Any, ...], _Joined] = {}
        for name in _IMPLIED:
            self.headers.pop(name, None)  # type: ignore[attr-defined]

    def build_request(
        self,
        method: str,
        url: httpx2.URL | str,
        *,
        headers: Any = None,
        content: Any = None,
        timeout: Any = None,
        **others: Any,
    ) -> httpx2.Request:
        """Like httpx2's method, which still builds every request that has more than a body and headers."""
        body = content.encode() if isinstance(content, str) else content
        given = tuple(headers.items()) if isinstance(headers, Mapping) else headers
        plain = isinstance(body, bytes) and isinstance(given, tuple | list) and timeout is None
        if not plain or others != dict.fromkeys(others):
            parts = {"headers": headers, "content": content, "timeout": timeout, **others}
            request: httpx2.Request = super().build_request(method, url, **parts)  # type: ignore[misc]
            return request
        address, shared = self._join(url, tuple(given))
        # As a stream, because httpx2 searches the headers eight times for a body in another form.
        stream = httpx2.ByteStream(body)
        request = httpx2.Request(method, address, headers=shared, stream=stream, extensions=_NO_TIMEOUT)
        request.headers["Content-Length"] = str(len(body))
        request.read()
        return request

    def _join(self, url: httpx2.URL | str, headers: tuple[Any, ...]) -> _Joined:
        """The address and all headers except the length of the body, as httpx2 makes them."""
        joined = self._joined.get((url, *headers))
        if joined is None:
            first = super().build_request("POST", url, headers=headers, content=b"-")  # type: ignore[misc]
            del first.headers["Content-Length"]
            if len(self._joined) >= _MOST:
                self._joined.clear()
            joined = self._joined[(url, *headers)] = (first.url, first.headers)
        return joined


class PlainClient(_Requests, httpx2.Client):
    """A client for threads. The caller closes a streamed response; any other is read to its end."""

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        try:
            response = self._exchange(request, options)
        except httpx2.ConnectError as error:
            raise told_of_certificate(error, request) from None
        try:
            short = _begun(response, self._options, streamed=stream)
            # A hook of the user's own client may have read it.
            if short and not stream and not response.is_stream_consumed:
                _keep(response, b"".join(response.stream))  # type: ignore[arg-type]
                response.close()
            elif not stream:
                response.read()
        except BaseException:
            response.close()
            raise
        return response

    def _exchange(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        _check_open(self)
        response = self._transport.handle_request(request)
        # The SDKs read the request from the response.
        response.request = request
        return response


class AsyncPlainClient(_Requests, httpx2.AsyncClient):
    """A client for one event loop, like `PlainClient`."""

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        try:
            response = await self._exchange(request, options)
        except httpx2.ConnectError as error:
            raise told_of_certificate(error, request) from None
        try:
            short = _begun(response, self._options, streamed=stream)
            # The content of `AiohttpTransport` has it.
            whole = getattr(response.stream, "whole", None) if short and not stream else None
            if whole is not None:
                _keep(response, await whole())
                response.is_closed = True
            elif not stream:
                await response.aread()
        except BaseException as error:
            await close_after(error, response)
            raise
        return response

    async def _exchange(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        _check_open(self)
        response = await self._transport.handle_async_request(request)
        response.request = request
        return response

    async def aclose(self) -> None:
        """Like httpx2's method, which leaves connections open if it is cancelled at one of them."""
        pool = getattr(self._transport, "_pool", None)
        held = [] if pool is None else list(transports_of_pool(pool))
        try:
            await super().aclose()
        except BaseException:
            close_transports(held)
            raise


class LentClient(PlainClient):
    """Sends through the user's own client, which also builds the requests."""

    def __init__(self, own: httpx2.Client, options: HttpOptions) -> None:
        _check_process(own, options)
        super().__init__(options=options, transport=own._transport, timeout=None, trust_env=False)
        self._own = own

    def build_request(self, *arguments: Any, **options: Any) -> httpx2.Request:
        return self._own.build_request(*arguments, **options)

    def _exchange(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        return self._own.send(request, **{**options, "stream": True, "follow_redirects": False})

    def close(self) -> None:
        """A no-op: only the user closes it."""


class AsyncLentClient(AsyncPlainClient):
    """Like `LentClient`, for one event loop."""

    def __init__(self, own: httpx2.AsyncClient, options: HttpOptions) -> None:
        _check_process(own, options)
        super().__init__(options=options, transport=own._transport, timeout=None, trust_env=False)
        self._own = own

    def build_request(self, *arguments: Any, **options: Any) -> httpx2.Request:
        return self._own.build_request(*arguments, **options)

    async def _exchange(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        return await self._own.send(request, **{**options, "stream": True, "follow_redirects": False})

    async def aclose(self) -> None:
        """A no-op: only the user closes it."""


def _begun(response: httpx2.Response, options: HttpOptions, *, streamed: bool) -> bool:
    """Note that a reply has begun, and have it measured.

    True if it needs no measuring: its content is as it was sent, and so short that no limit concerns it.
    """
    (awaited.get() or Head()).headers = response.headers
    if response.status_code >= 300:
        # An SDK reads errors as text, and raises where one is not in the charset that it claims.
        response.encoding = "utf-8"
    decoder = response._get_content_decoder()
    if isinstance(decoder, MultiDecoder):
        raise ReplyRefused(response, "is compressed more than once, which is not supported: check base_url")
    if isinstance(decoder, IdentityDecoder):
        length = response.headers.get("content-length", "")
        # The transport lets no reply be longer than its header says.
        if length.isdigit() and len(length) < _MOST_DIGITS and int(length) <= options.short:
            return True
    gauged(response, options, streamed=streamed)
    return False


def _check_open(client: httpx2.Client | httpx2.AsyncClient) -> None:
    if client.is_closed:
        raise RuntimeError("This client has been closed.")


def _keep(response: httpx2.Response, content: bytes) -> None:
    """Keep the whole content. httpx2 itself would read it through several generators, for a twentieth of a call."""
    response._content = content
    response.is_stream_consumed = True


def _check_process(own: httpx2.Client | httpx2.AsyncClient, options: HttpOptions) -> None:
    """Raise LLMConfigurationError in a fork if `own` may share a connection with its parent."""
    if options.made_in == _forks.generation:
        return
    pools = [getattr(each, "_pool", None) for each in (own._transport, *own._mounts.values()) if each is not None]
    if any(pool is None or pool.connections for pool in pools):
        raise LLMConfigurationError(
            "Your own HTTP client has connections of the process before os.fork, whose answers it would take: make the "
            "client and its adapter in this process."
        )


_PLAIN: dict[str, Any] = {"timeout": None, "follow_redirects": False, "trust_env": False}


def _options(max_connections: int, options: HttpOptions) -> dict[str, Any]:
    limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    return {"limits": limits, "trust_env": False, "verify": trusted(options.verify), "proxy": _proxy(options)}


def _proxy(options: HttpOptions) -> httpx2.Proxy | None:
    if options.proxy is None:
        return None
    by_tls = options.proxy.startswith("https")
    return httpx2.Proxy(options.proxy, ssl_context=trusted(options.verify) if by_tls else None)
