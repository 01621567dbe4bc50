"""What a block of a test leaves in this process. What earlier tests left may come to its end meanwhile."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DESCRIPTORS = Path("/proc/self/fd")


def sockets() -> set[tuple[str, str]]:
    """The descriptors of this process that are no files, each with what it stands for; none where /proc is missing."""
    if not DESCRIPTORS.is_dir():
        return set()
    found = set()
    for name in os.listdir(DESCRIPTORS):
        with suppress(FileNotFoundError):
            found.add((name, os.readlink(DESCRIPTORS / name)))
    return {(name, target) for name, target in found if not target.startswith("/")}


@contextmanager
def nothing_left() -> Iterator[None]:
    """Checks that no thread, socket or pipe is there after the block that was not there before."""
    gc.collect()
    before, threads = sockets(), set(threading.enumerate())
    yield
    gc.collect()
    assert sockets() - before == set()
    assert set(threading.enumerate()) - threads == set()
