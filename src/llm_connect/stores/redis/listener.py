"""Listens for budget that other processes free while callers of this one wait."""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import suppress
from typing import Any, Protocol

from llm_connect._threads import DaemonThread
from llm_connect.budget.admission.log import POLLED, log_event
from llm_connect.stores.redis.keys import Keys
from llm_connect.stores.redis.server import Server

#: The interval in which the listener checks that a caller still waits.
_LOOK_SECONDS = 0.2
_RETRY_SECONDS = 0.5


class Awaiting(Protocol):
    """A session whose callers wait for budget that other processes may free."""

    @property
    def server(self) -> Server: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def client(self) -> str: ...
    @property
    def waited_for(self) -> bool: ...
    def notice(self) -> None: ...


class Listener:
    """A thread with its own connection, which runs while a caller waits."""

    def __init__(self, session: Awaiting) -> None:
        self._session = weakref.ref(session)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the thread unless it runs."""
        with self._starting:
            if self._thread is None:
                listening = DaemonThread(self._run, name="llm-connect listener")
                listening.start()
                self._thread = listening if listening.is_alive() else None

    def _run(self) -> None:
        while self._wanted():
            try:
                self._listen()
            except Exception as error:
                log_event(POLLED, error=type(error).__name__)
                time.sleep(_RETRY_SECONDS)

    def _wanted(self) -> bool:
        """True if a caller waits. If none does, the thread ends, and the next waiter starts another."""
        with self._starting:
            session = self._session()
            wanted = session is not None and session.waited_for
            if not wanted:
                self._thread = None
            return wanted

    def _listen(self) -> None:
        session = self._session()
        if session is None:
            return
        connection, channel, client = session.server.new_connection(), session.keys.channel, session.client.encode()
        del session
        try:
            connection.connect()
            connection.send_command("SUBSCRIBE", channel)
            while self._still():
                if connection.can_read(timeout=_LOOK_SECONDS):
                    self._hear(connection.read_response(), client)
        finally:
            with suppress(Exception):
                connection.disconnect()

    def _still(self) -> bool:
        session = self._session()
        return session is not None and session.waited_for

    def _hear(self, message: Any, client: bytes) -> None:
        session = self._session()
        if session is not None and not (message[0] == b"message" and message[2] == client):
            session.notice()
