"""Finding the processes that a command has left behind, also those that have a session of their own.

The environment of a command carries a mark that is its own, and its children inherit it. Where there is a /proc, as on
Linux, all that carry the mark are found, whoever their parent is by now. A process that is given another environment on
purpose is not.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress

_NAME = "LLM_CONNECT_RUN"
_PROC = "/proc"
#: A process may have made another while it was looked for.
_MOST_ROUNDS = 20


def new_mark() -> dict[str, str]:
    """The variable to put into the environment of one command."""
    return {_NAME: secrets.token_hex(16)}


def kill_marked(mark: dict[str, str]) -> None:
    """End all processes that carry the mark."""
    wanted = f"{_NAME}={mark[_NAME]}".encode()
    for _ in range(_MOST_ROUNDS):
        if not [pid for pid in _processes() if _killed(pid, wanted)]:
            return


def _processes() -> Iterator[int]:
    with suppress(OSError), os.scandir(_PROC) as entries:
        yield from (int(entry.name) for entry in entries if entry.name.isdecimal())


def _killed(pid: int, wanted: bytes) -> bool:
    """Whether the process carried the mark, and was ended; its number cannot pass to another in the meantime."""
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
        # It has ended, or is another user's; of a zombie there is nothing to read.
        return False
