"""The connections of a process to a Redis server, the server's clock, and the errors when it cannot be used."""

from __future__ import annotations

import importlib.resources
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from llm_connect.budget.admission.booking import wall_clock
from llm_connect.errors import LLMConfigurationError, LLMStoreError

#: The options that a URL may contain.
_OPTIONS = {"db", "username", "password"} | {
    f"ssl_{option}"
    for option in ("keyfile", "certfile", "cert_reqs", "ca_certs", "ca_path", "ca_data", "check_hostname", "password")
}
_FORM = "The URL of a Redis store is redis://host:port/db, where db is a number."
#: The duration of the first try at a server that hangs, in seconds.
_SHORTEST_TRY = 0.05
_PAUSE_SECONDS = 0.02
#: A reply tells the offset for this many seconds. Later, the machine may have slept, or its clock may have been set.
_GOOD_SECONDS = 10.0
#: A server tells its time in whole milliseconds.
_STEP = 0.001


class Outage:
    """The outage of a server. While it lasts, calls do not wait for the server.

    Every call tries a server that refuses connections, which takes no time. A server that hangs is tried only now and
    then, by one call, for a fifth of the time since the last try.
    """

    def __init__(self) -> None:
        self._error: LLMStoreError | None = None
        self._next_try = 0.0
        #: The duration of a try at a server that hangs; 0 for any other.
        self.try_seconds: float = 0.0

    def note(self, error: LLMStoreError, *, hangs: bool) -> None:
        """Note that the server did not answer."""
        self._error = error
        self.try_seconds = min(1.0, max(_SHORTEST_TRY, 2 * self.try_seconds)) if hangs else 0.0
        self._next_try = time.monotonic() + 5 * self.try_seconds

    def end(self) -> bool:
        """Note that the server has answered. True if an outage was known."""
        known = self._error is not None
        self._error, self.try_seconds = None, 0.0
        return known

    def patience(self, seconds: float) -> float:
        """The time for which a call may retry. Raises LLMStoreError if it must not try at all."""
        if self._error is None:
            return seconds
        if time.monotonic() < self._next_try:
            raise LLMStoreError(self._error.message, store=self._error.store)
        return 0.0


class Server:
    """One connection to a server, opened on demand and again after it was lost.

    The caller must make sure that only one thread uses it at a time.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self.url = url
        self._seconds = seconds
        self._connection: Any = None
        self._moved: dict[str, Any] = {}
        #: True if the server may have executed the last command although its answer was not read.
        self.unsure: bool = False
        self._outage = Outage()
        #: The number of connections so far. A new one may lead to another server, or to an earlier state. After the
        #: first one, a command is retried if its connection is lost.
        self.connected: int = 0

    def call(self, *command: Any) -> Any:
        """Return the answer to a command that may be repeated. Raises LLMStoreError."""
        sent = b"*%d\r\n%b" % (len(command), b"".join(map(part_of, command)))
        return self.patiently(lambda again: sent)

    def patiently(self, command: Callable[[bool], bytes]) -> Any:
        """Return the answer to a command. Its argument is True if the server may have executed it already.

        Raises LLMStoreError or NotLoaded; then `unsure` is True if the server may have executed the command.
        """
        end, self.unsure = time.monotonic() + self._outage.patience(self._seconds), False
        while True:
            connection, again = None, self.unsure
            try:
                connection = self._taken()
                data = command(again)
                self.unsure = True
                connection.send_packed_command([data])
                answer = connection.read_response()
            except BaseException as error:
                self._leave(connection, error, again)
                if not self._may_retry(error, end):
                    raise
            else:
                self._keep(connection)
                return answer

    def _taken(self) -> Any:
        """Take the connection until a whole answer has been read, so that an interrupted one is never used again."""
        connection, self._connection = self._connection, None
        if connection is None:
            connection = self.new_connection()
            connection.connect()
            self.connected += 1
        return connection

    def _keep(self, connection: Any) -> None:
        if self._outage.end():
            # It was opened with the short timeout of a try.
            connection.disconnect()
        else:
            self._connection = connection

    def _leave(self, connection: Any, error: BaseException, again: bool) -> None:
        """Keep a connection on which the server answered with an error; close any other."""
        from redis.exceptions import MovedError, ResponseError

        if connection is None:
            return
        if isinstance(error, ResponseError):
            self.unsure = again
        if isinstance(error, ResponseError) and not isinstance(error, MovedError):
            self._connection = connection
        else:
            connection.disconnect()

    def _may_retry(self, error: BaseException, end: float) -> bool:
        """True when a failed command may be retried; False if its error is not the server's.

        It does not raise `error` itself: its frame, and with it the caller's hold, would then live until a garbage
        collection. Raises LLMStoreError or NotLoaded.
        """
        from redis import exceptions

        if isinstance(error, exceptions.NoScriptError):
            raise NotLoaded from None
        if isinstance(error, exceptions.MovedError):
            self._moved = {"host": error.host, "port": error.port}
            return True
        if not isinstance(error, exceptions.RedisError | OSError):
            return False
        lost = isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError)
        failure = store_error(self.url, error)
        if not lost or not self.connected or isinstance(error, exceptions.AuthenticationError):
            raise failure from None
        if time.monotonic() >= end:
            self._outage.note(failure, hangs=isinstance(error, exceptions.TimeoutError))
            raise failure from None
        time.sleep(_PAUSE_SECONDS)
        return True

    def new_connection(self, **details: Any) -> Any:
        """Make a separate connection, not yet open. Raises LLMConfigurationError if redis-py is not installed."""
        _check(self.url)
        try:
            from redis.backoff import NoBackoff
            from redis.connection import Connection, parse_url
            from redis.retry import Retry
        except ImportError:
            raise LLMConfigurationError("A budget in Redis needs redis-py: install the extra `redis`.") from None
        try:
            place: dict[str, Any] = {**parse_url(self.url)}  # type: ignore[no-untyped-call]
        except ValueError:
            raise LLMConfigurationError(_FORM) from None
        kind: Any = place.pop("connection_class", Connection)
        seconds = self._outage.try_seconds or self._seconds
        limits = {"socket_timeout": seconds, "protocol": 2, "retry": Retry(NoBackoff(), 0)}
        if urlsplit(self.url).scheme != "unix":
            limits["socket_connect_timeout"] = seconds
        return kind(**{**place, **limits, **self._moved, **details})

    def close(self) -> None:
        """Close the connection; the next command opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


def script(name: str) -> str:
    """The source of the Lua script of this name."""
    return importlib.resources.files("llm_connect.stores.redis").joinpath(f"{name}.lua").read_text("utf-8")


def part_of(part: Any) -> bytes:
    """The bytes of one argument of a command."""
    data = part if isinstance(part, bytes) else str(part).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def _check(url: str) -> None:
    parts = urlsplit(url)
    unknown = {*parse_qs(parts.query, keep_blank_values=True)} - _OPTIONS
    if parts.fragment or unknown:
        raise LLMConfigurationError(
            "The URL of a Redis store takes db, username, password and the ssl_ options of redis-py, and no fragment: "
            f"not {', '.join(sorted(unknown)) or '#'}. Its timeouts follow from lease_seconds."
        )
    if parts.scheme != "unix" and not parts.path.strip("/").isdigit() and parts.path.strip("/"):
        raise LLMConfigurationError(_FORM)


class NotLoaded(Exception):
    """The server has no script with this digest; it may have been restarted."""


def store_error(url: str, error: Exception | str) -> LLMStoreError:
    """The LLMStoreError for a failure of the server at this URL; it shows no password."""
    text, parts = " ".join(str(error).split()), urlsplit(url)
    for secret in (parts.password, *parse_qs(parts.query).get("password", ())):
        if secret:
            text = text.replace(secret, "***")
    said = f"The budget store {shown(url)} cannot be used ({text}): check that the server runs and can be reached."
    return LLMStoreError(said, store=shown(url))


def shown(url: str) -> str:
    """A URL that may be shown: the server and the database, without user and password."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    database = parse_qs(parts.query).get("db")
    return f"{parts.scheme}://{place}{parts.path}" + (f"?db={database[0]}" if database else "")


class ServerClock:
    """The clock of this machine, corrected by its offset from the clock of a server.

    Each reply limits the offset to an interval, as long as the reply took. The offset stays as it is while it lies in
    the interval. So the clock does not jitter, and on the server's own machine the offset is zero.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._heard_at = 0.0

    def __call__(self) -> float:
        return wall_clock() + self._ahead

    @property
    def known(self) -> bool:
        """True if a recent reply has told the time."""
        return 0 <= time.time() - self._heard_at < _GOOD_SECONDS

    def hear(self, moment: float, asked_at: float) -> None:
        """Note that a server, asked at `asked_at`, has just told this time."""
        self._heard_at = time.time()
        least, most = moment - self._heard_at, moment + _STEP - asked_at
        self._ahead = min(max(self._ahead, least), most)

    @classmethod
    def of(cls, server: Server) -> ServerClock:
        """The clock of a server, which is asked for its time."""
        clock, asked_at = cls(), time.time()
        seconds, micros = map(int, server.call("TIME"))
        clock.hear(seconds + micros // 1000 / 1000, asked_at)
        return clock
