"""A real redis-server for tests: each process of the run starts one on its own socket, and stops it at its end.

LLM_CONNECT_REDIS_SERVER names another program, such as valkey-server.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tests.budget.budget_helpers import until

PROGRAM = shutil.which(os.environ.get("LLM_CONNECT_REDIS_SERVER", "redis-server"))


class RedisServer:
    """A server in a folder; tests can kill and restart it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/socket"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert PROGRAM is not None
        place = ["--port", "0", "--unixsocket", f"{self.folder}/socket", "--dir", str(self.folder), "--save", ""]
        self._process = subprocess.Popen([PROGRAM, *place, *self._options], stdout=DEVNULL, stderr=DEVNULL)
        until(self._answers)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill the server, like `kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        import redis

        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def new_server(*options: str) -> RedisServer:
    """Start a separate server. Skips the test if redis-server is not installed."""
    if PROGRAM is None:
        pytest.skip("there is no redis-server here")
    return RedisServer(Path(tempfile.mkdtemp(prefix="llm-connect-redis-")), *options)


@cache
def server() -> RedisServer:
    """The server that this process of the test run shares."""
    found = new_server("--appendonly", "no", "--databases", "1000")
    atexit.register(found.stop)
    return found
