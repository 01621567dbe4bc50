"""The server, the workers, and single processes whose CPU time is taken."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from contextlib import suppress

from measures import Measure

_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LLM_CONNECT_CLAUDE")
#: Nobody listens at the discard port of loopback: what a contender would fetch from outside fails at once.
_NOWHERE = "http://127.0.0.1:9"


def variables() -> dict[str, str]:
    """Return a contender's environment: no keys, no proxy for loopback, no way out, nothing that phones home."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    home = tempfile.gettempdir()
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LANGSMITH_TRACING": "false"}
    proxies = {"HTTPS_PROXY": _NOWHERE, "NO_PROXY": "127.0.0.1,localhost"}
    return {**kept, **quiet, **proxies, "HOME": home, "PYTHONHASHSEED": "0"}


class Child:
    """A process that answers lines, on one processor."""

    def __init__(self, *command: str, cpu: int | None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=variables(),
        )
        pin(self._process.pid, cpu)

    def read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended without an answer")
        return line

    def ask(self, subject: str, measure: Measure) -> dict[str, float]:
        """Return the figures of one measure."""
        assert self._process.stdin is not None
        line = {"subject": subject, "measure": measure.name, **dict(measure.options)}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer: dict[str, float] = json.loads(self.read())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def processors() -> tuple[int | None, int | None]:
    """One processor for the contenders and one for the server; None where there are not two to choose from."""
    with suppress(AttributeError):
        chosen = sorted(os.sched_getaffinity(0))[:2]
        if len(chosen) == 2:
            return chosen[0], chosen[1]
    return None, None


def pin(pid: int, cpu: int | None) -> None:
    """Keep a process on one processor, where the system can."""
    if cpu is not None:
        with suppress(AttributeError, OSError):
            os.sched_setaffinity(pid, {cpu})


def cost_of_process(*command: str, cpu: int | None) -> dict[str, float]:
    """CPU and wall seconds of a process from its start to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=variables(), stdout=subprocess.DEVNULL)
    pin(process.pid, cpu)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command} failed")
    return {"cpu": usage.ru_utime + usage.ru_stime, "wall": time.perf_counter() - started}
