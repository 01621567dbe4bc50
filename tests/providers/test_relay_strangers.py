"""Other processes of the machine at the relay's port: they get nothing, keep nobody out and cost nothing."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llm_connect import ClaudeCodeAdapter, RunConfig
from llm_connect.providers.relay import _MOST_STRANGERS
from llm_connect.testing import EmbeddedProvider
from tests.providers.claude_stand_in import stand_in
from tests.providers.conftest import Ask

pytestmark = pytest.mark.slow

#: A command that tells its address, waits to be told to go on, and then makes its request.
WAITING = """
open(here + '/url.new', 'w').write(os.environ['ANTHROPIC_BASE_URL'])
os.rename(here + '/url.new', here + '/url')
while not os.path.exists(here + '/go'):
    time.sleep(0.005)
answered(ask()[1])
"""


def wait_until(condition: Any) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def is_closed(client: socket.socket) -> bool:
    """Whether the other side has closed it."""
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("said", [b"", b"POST / HTTP/1.1\r\nhost: h\r\n"])
def test_strangers_share_a_few_places(tmp_path: Path, ask: Ask, said: bytes) -> None:
    """No more than a few clients that have not shown that they know the address are open at once; the oldest of them
    makes room for the next, so that the command gets in. (PROVIDER-45)
    """
    with EmbeddedProvider() as provider, ExitStack() as clients, ThreadPoolExecutor(1) as pool:
        command = stand_in(tmp_path, WAITING)
        adapter = ClaudeCodeAdapter(api_key="key-1234", base_url=provider.anthropic_url, cli_path=command)
        answer = pool.submit(ask, adapter, "hi", RunConfig(timeout_seconds=60, max_retries=0, max_tokens=20))
        wait_until((tmp_path / "url").exists)
        port = int(re.findall(r":(\d+)/", (tmp_path / "url").read_text())[0])
        strangers = []
        for _ in range(5 * _MOST_STRANGERS):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            client.sendall(said)
            client.setblocking(False)
            strangers.append(client)
        wait_until(lambda: sum(map(is_closed, strangers)) >= 4 * _MOST_STRANGERS)
        assert not is_closed(strangers[-1])
        (tmp_path / "go").touch()
        assert answer.result(60).usage.total_tokens > 0
        assert provider.meter.calls == 1


NO_DESCRIPTORS = """
import os, resource, sys, threading, time
from pathlib import Path
from llm_connect import ClaudeCodeAdapter, RunConfig

folder, url, form = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
adapter = ClaudeCodeAdapter(api_key="key-1234", base_url=url, cli_path=folder / "claude")
config = RunConfig(timeout_seconds=60, max_retries=0, max_tokens=20)

def call():
    if form == "sync":
        return adapter.execute_prompt("hi", config)
    import asyncio
    return asyncio.run(adapter.async_execute_prompt("hi", config))

answers = []
thread = threading.Thread(target=lambda: answers.append(call()))
thread.start()
while not (folder / "url").exists():
    time.sleep(0.005)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
taken = []
while True:
    try:
        taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        break
os.link(folder / "url", folder / "go")
before = time.process_time()
time.sleep(1.0)
used = time.process_time() - before
for descriptor in taken:
    os.close(descriptor)
thread.join()
print(used, answers[0].usage.total_tokens)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it counts descriptors as Linux does")
@pytest.mark.parametrize("form", ["sync", "async"])
def test_without_descriptors_the_relay_waits(tmp_path: Path, form: str) -> None:
    """At the limit of open files nobody is accepted, nothing spins, and the command gets in when there is room again.

    (PROVIDER-45)
    """
    stand_in(tmp_path, WAITING)
    with EmbeddedProvider() as provider:
        arguments = [sys.executable, "-c", NO_DESCRIPTORS, str(tmp_path), provider.anthropic_url, form]
        ran = subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=dict(os.environ), check=False)
    assert ran.returncode == 0, ran.stderr
    used, tokens = ran.stdout.split()
    assert float(used) < 0.5
    assert int(tokens) > 0
