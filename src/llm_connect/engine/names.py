"""Looks host names up in threads of its own.

The operating system's lookup can hang, and nothing ends it early. A thread that is left behind delays neither a call
nor an event loop nor the end of the interpreter, and there are never more than a few.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from llm_connect import _forks
from llm_connect._threads import DaemonThread
from llm_connect.engine.threads import known

#: An item of the result of `socket.getaddrinfo`.
Address: TypeAlias = tuple[Any, Any, int, str, Any]

#: The most threads at once.
MOST_LOOKUPS = 8
#: After this time a lookup counts as hung, and no other call joins it.
_HANGS_AFTER_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class _Lookup:
    host: str
    port: int
    since: float = field(default_factory=time.monotonic)
    answer: Future[list[Address]] = field(default_factory=Future)

    @property
    def hangs(self) -> bool:
        return time.monotonic() - self.since > _HANGS_AFTER_SECONDS

    def run(self) -> None:
        self.since = time.monotonic()
        try:
            self.answer.set_result(socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
        except UnicodeError:
            self.answer.set_exception(OSError("the host name is not valid"))
        except BaseException as error:
            self.answer.set_exception(error)


class Lookups:
    """Runs at most `most` lookups at once. Calls that ask for the same name at the same time share one."""

    def __init__(self, most: int = MOST_LOOKUPS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._latest: dict[tuple[str, int], _Lookup] = {}
        self._running: set[_Lookup] = set()
        self._waiting: deque[_Lookup] = deque()

    def ask(self, host: str, port: int) -> Future[list[Address]]:
        """Return a future of the addresses of a name. Raises OSError if every thread hangs."""
        with self._lock:
            latest = self._latest.get((host, port))
            if latest is not None and not latest.hangs:
                return latest.answer
            return self._start(_Lookup(host, port)).answer

    def _start(self, lookup: _Lookup) -> _Lookup:
        if len(self._running) < self._most:
            DaemonThread(self._work, args=(lookup,), name="llm-connect-lookup").start()
            self._running.add(lookup)
        elif all(one.hangs for one in self._running):
            raise OSError(f"{self._most} name lookups hang already: check the resolver of this machine")
        else:
            self._waiting.append(lookup)
        self._latest[lookup.host, lookup.port] = lookup
        return lookup

    def _work(self, first: _Lookup) -> None:
        lookup: _Lookup | None = first
        while lookup is not None:
            lookup.run()
            lookup = self._next(lookup)

    def _next(self, ended: _Lookup) -> _Lookup | None:
        with self._lock:
            self._running.discard(ended)
            if self._latest.get((ended.host, ended.port)) is ended:
                del self._latest[ended.host, ended.port]
            following = self._waiting.popleft() if self._waiting else None
            if following is not None:
                self._running.add(following)
            return following


#: By the generation of the process: the threads of its parent do not run in a fork.
_lookups = {_forks.generation: Lookups()}


def _of_this_process() -> Lookups:
    return _lookups.get(_forks.generation) or _lookups.setdefault(_forks.generation, Lookups())


def look_up(host: str, port: int, seconds: float | None) -> list[Address]:
    """Look up the addresses of `host`. Raises TimeoutError after `seconds`, and OSError."""
    return _number(host, port) or _of_this_process().ask(host, port).result(seconds)


async def alook_up(host: str, port: int) -> list[Address]:
    """Like `look_up`, for a coroutine; the caller bounds it with a timeout."""
    number = _number(host, port)
    if number is not None:
        return number
    return await known(_of_this_process().ask(host, port))


def _number(host: str, port: int) -> list[Address] | None:
    """The address if `host` is a number, which needs no lookup; else None."""
    for family, *rest in ((socket.AF_INET,), (socket.AF_INET6, 0, 0)):
        with suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, *rest))]
    return None
