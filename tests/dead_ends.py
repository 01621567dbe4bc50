"""Addresses at which no request can ever begin: each keeps a client waiting at another step of the way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

#: A name whose lookup never ends, under `hanging_lookups`.
HANGS = "hangs.test"


@contextmanager
def hanging_lookups() -> Iterator[str]:
    """The address of a host whose name is looked up for ever; the lookups end with the block."""
    over, look_up = threading.Event(), socket.getaddrinfo

    def hang(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).startswith("hangs"):
            over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", hang)
        try:
            yield f"http://{HANGS}:80"
        finally:
            over.set()


@contextmanager
def dropped_packets(host: str = "127.0.0.1") -> Iterator[str]:
    """An address whose queue of connections is full, so that the next one is never taken."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind((host, 0))
        listener.listen(0)
        for _ in range(4):
            one = sockets.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield "http://{}:{}".format(*listener.getsockname())


@contextmanager
def silent_tls() -> Iterator[str]:
    """An address where connections are taken, and nothing is ever said by TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


DEAD_ENDS: dict[str, Callable[[], Any]] = {
    "a lookup that hangs": hanging_lookups,
    "packets that are dropped": dropped_packets,
    "TLS that stalls": silent_tls,
}
