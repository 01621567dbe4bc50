"""Finds the processes that a command has left behind, even those with a session of their own.

Each command has its own mark in its environment, and its children inherit it. On a system with /proc, such as Linux,
all processes with the mark are found, whoever their parent is by now. A process that was deliberately given another
environment is not found.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress

_NAME = "LLM_CONNECT_RUN"
_PROC = "/proc"
#: A process may start another one during the search.
_MOST_ROUNDS = 20


def new_mark() -> dict[str, str]:
    """Make the variable for the environment of one command."""
    return {_NAME: secrets.token_hex(16)}


def kill_marked(mark: dict[str, str]) -> None:
    """Kill all processes with the mark."""
    wanted = f"{_NAME}={mark[_NAME]}".encode()
    for _ in range(_MOST_ROUNDS):
        if not [pid for pid in _processes() if _killed(pid, wanted)]:
            return


def _processes() -> Iterator[int]:
    with suppress(OSError), os.scandir(_PROC) as entries:
        yield from (int(entry.name) for entry in entries if entry.name.isdecimal())


def _killed(pid: int, wanted: bytes) -> bool:
    """Kill the process if it has the mark; True if it was killed. Its number cannot pass to another one meanwhile."""
    if not _carries(pid, wanted):
        return False
    with suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if _carries(pid, wanted):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False


def _carries(pid: int, wanted: bytes) -> bool:
    try:
        with open(f"{_PROC}/{pid}/environ", "rb") as file:
            return wanted in file.read().split(b"\0")
    except OSError:
        # It has ended, or belongs to another user; a zombie has nothing to read.
        return False
