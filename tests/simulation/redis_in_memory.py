"""A Redis server in Python objects: the commands that the library uses, and its own Lua scripts, in Lua 5.1.

The scripts are those of the package, so a simulated step is decided by the code that a real server runs. A planted
fault changes their text.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

from lupa import lua51
from redis.exceptions import NoScriptError

#: The formats of Lua's `struct` that have other names in Python.
_TYPES = (("i8", "q"), ("i4", "i"))


class RedisInMemory:
    """The keys of one server. `call` runs a command and returns its reply, as redis-py gives it."""

    def __init__(self, clock: Callable[[], float], changes: Callable[[str], str] = str) -> None:
        self._clock = clock
        #: Changes the text of a script, to plant a fault.
        self._changes = changes
        self.keys: dict[bytes, Any] = {}
        self.published: Callable[[bytes], None] = lambda client: None
        self._scripts: dict[bytes, Any] = {}
        self._lua = lua51.LuaRuntime(encoding=None, register_eval=False, unpack_returned_tuples=True)
        names = self._lua.globals()
        names[b"redis"] = self._lua.table_from({b"call": self._call_from_lua})
        names[b"struct"] = self._lua.table_from({b"pack": pack, b"unpack": unpack})
        names[b"cjson"] = self._lua.table_from({b"decode": lambda text: self._to_lua(json.loads(text))})

    def call(self, *command: bytes) -> Any:
        """Run one command."""
        name, *values = command
        method: Callable[..., Any] = getattr(self, f"_{name.decode().lower()}")
        return method(*values)

    # Scripts.

    def forget_scripts(self) -> None:
        """Lose the scripts, as a server does when it is restarted."""
        self._scripts.clear()

    def _script(self, _: bytes, source: bytes) -> bytes:
        digest = hashlib.sha1(source).hexdigest().encode()
        self._scripts[digest] = self._lua.compile(self._changes(source.decode()).encode())
        return digest

    def _evalsha(self, digest: bytes, keys: bytes, *values: bytes) -> Any:
        if digest not in self._scripts:
            raise NoScriptError
        number, names = int(keys), self._lua.globals()
        names[b"KEYS"], names[b"ARGV"] = self._to_lua(values[:number]), self._to_lua(values[number:])
        return self._scripts[digest]()

    def _eval(self, source: bytes, *values: bytes) -> Any:
        return self._evalsha(self._script(b"LOAD", source), *values)

    def _call_from_lua(self, *command: Any) -> Any:
        reply = self.call(*map(_text, command))
        return False if reply is None else self._to_lua(reply)

    def _to_lua(self, value: Any) -> Any:
        """A value for a script. A missing element of a reply is false, as in Redis."""
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict):
            return self._lua.table_from({key.encode(): self._to_lua(each) for key, each in value.items()})
        if isinstance(value, list | tuple):
            return self._lua.table_from([False if each is None else self._to_lua(each) for each in value])
        return value

    # Commands.

    def _hash(self, key: bytes) -> dict[bytes, Any]:
        found: dict[bytes, Any] = self.keys.setdefault(key, {})
        return found

    def _list(self, key: bytes) -> list[bytes]:
        found: list[bytes] = self.keys.setdefault(key, [])
        return found

    def _time(self) -> list[bytes]:
        now = round(self._clock() * 1e6)
        return [b"%d" % (now // 1_000_000), b"%d" % (now % 1_000_000)]

    def _exists(self, key: bytes) -> int:
        return int(bool(self.keys.get(key)))

    def _del(self, key: bytes) -> int:
        return int(bool(self.keys.pop(key, None)))

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        of, before = self._hash(key), len(self._hash(key))
        of.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(of) - before

    def _hsetnx(self, key: bytes, field: bytes, value: bytes) -> int:
        new = field not in self._hash(key)
        self._hash(key).setdefault(field, value)
        return int(new)

    def _hget(self, key: bytes, field: bytes) -> bytes | None:
        return self._hash(key).get(field)

    def _hmget(self, key: bytes, *fields: bytes) -> list[bytes | None]:
        return [self._hash(key).get(field) for field in fields]

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [each for pair in self._hash(key).items() for each in pair]

    def _hkeys(self, key: bytes) -> list[bytes]:
        return list(self._hash(key))

    def _hlen(self, key: bytes) -> int:
        return len(self._hash(key))

    def _hexists(self, key: bytes, field: bytes) -> int:
        return int(field in self._hash(key))

    def _hdel(self, key: bytes, *fields: bytes) -> int:
        return sum(self._hash(key).pop(field, None) is not None for field in fields)

    def _zadd(self, key: bytes, score: bytes, member: bytes) -> int:
        return self._hset(key, member, float(score))  # type: ignore[arg-type]

    def _zscore(self, key: bytes, member: bytes) -> bytes | None:
        score = self._hash(key).get(member)
        return None if score is None else _text(score)

    def _zrem(self, key: bytes, member: bytes) -> int:
        return self._hdel(key, member)

    def _zrangebyscore(self, key: bytes, _least: bytes, most: bytes, _limit: bytes, _: bytes, count: bytes) -> Any:
        found = sorted((score, member) for member, score in self._hash(key).items() if score <= float(most))
        return [member for _, member in found[: int(count)]]

    def _rpush(self, key: bytes, value: bytes) -> int:
        self._list(key).append(value)
        return len(self._list(key))

    def _llen(self, key: bytes) -> int:
        return len(self._list(key))

    def _lindex(self, key: bytes, place: bytes) -> bytes | None:
        values, at = self._list(key), int(place)
        return values[at] if -len(values) <= at < len(values) else None

    def _lset(self, key: bytes, place: bytes, value: bytes) -> bytes:
        self._list(key)[int(place)] = value
        return b"OK"

    def _lrange(self, key: bytes, first: bytes, last: bytes) -> list[bytes]:
        assert last == b"-1"
        return self._list(key)[int(first) :]

    def _ltrim(self, key: bytes, first: bytes, last: bytes) -> bytes:
        self.keys[key] = self._lrange(key, first, last)
        return b"OK"

    def _publish(self, _channel: bytes, client: bytes) -> int:
        self.published(client)
        return 0


def _text(value: Any) -> bytes:
    """A number as Redis writes it."""
    return value if isinstance(value, bytes) else b"%.17g" % value


@cache
def _layout(form: bytes) -> struct.Struct:
    text = form.decode()
    for lua, python in _TYPES:
        text = text.replace(lua, python)
    return struct.Struct(text)


def pack(form: bytes, *values: Any) -> bytes:
    """Lua's `struct.pack`."""
    return _layout(form).pack(*map(int, values))


def unpack(form: bytes, data: bytes, at: int = 1) -> tuple[int, ...]:
    """Lua's `struct.unpack`, which also returns the place behind the values."""
    layout = _layout(form)
    return (*layout.unpack_from(data, int(at) - 1), int(at) + layout.size)
