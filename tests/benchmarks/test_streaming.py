"""The streaming benchmark asks each contender for what it measures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for sdk in ("openai", "google.genai", "aiohttp"):
    pytest.importorskip(sdk, reason=f"{sdk} is not installed")

FOLDER = Path(__file__).parents[2] / "benchmarks" / "streaming"
OURS = ("ours-openai", "ours-gemini", "ours-openrouter")
CONTENDERS = ("openai", "google-genai", "httpx2", *OURS)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The server of the benchmark."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, FOLDER / "server.py"], text=True, **pipes) as server:  # type: ignore[call-overload]
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


def measured(address: str, measures: list[dict[str, object]]) -> list[dict[str, float]]:
    """What a worker of the benchmark answers."""
    lines = "".join(f"{json.dumps(measure)}\n" for measure in measures)
    done = subprocess.run(
        [sys.executable, FOLDER / "worker.py", address], input=lines, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("subject", CONTENDERS)
def test_each_contender_streams(address: str, subject: str) -> None:
    """In both forms it reads all texts of an answer, those that come alone and those that come at once."""
    measures = [
        {"subject": subject, "awaited": awaited, **measure}
        for awaited in (False, True)
        for measure in ({"measure": "read", "chunks": 50}, {"measure": "read", "chunks": 50, "pace": 1})
    ]
    assert [answer["texts"] for answer in measured(address, measures)] == [50] * 4


@pytest.mark.parametrize("subject", OURS)
def test_the_server_says_when_a_stream_was_closed(address: str, subject: str) -> None:
    """For each of those that are left one after the other, and at once."""
    measures = [{"subject": subject, "measure": "leave", "count": 5, "awaited": awaited} for awaited in (False, True)]
    first = {"subject": subject, "measure": "first", "count": 2}
    assert all(value > 0 for answer in measured(address, [first, *measures]) for value in answer.values())
