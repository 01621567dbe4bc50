"""A real redis-server for tests: one for each process of the run, on a socket of its own, ended with it.

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
    """A server in a folder; it can be killed and started again."""

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
        """As `kill -9` does."""
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
    """A server of its own. Skips the test when there is no redis-server here."""
    if PROGRAM is None:
        pytest.skip("there is no redis-server here")
    return RedisServer(Path(tempfile.mkdtemp(prefix="llm-connect-redis-")), *options)


@cache
def server() -> RedisServer:
    """The server of this process of the run."""
    found = new_server("--appendonly", "no", "--databases", "1000")
    atexit.register(found.stop)
    return found
