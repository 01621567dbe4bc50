"""The folder of one run of a command. It goes with the run; folders of killed processes go at the next start.

A run holds a lock on a file in its folder, and the kernel drops the lock when the process ends, however it ends. So a
folder with a free lock belongs to nobody, even in another container with the same temporary directory.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "llm-connect-"
_LOCK = "lock"
_MOST_TRIES = 100

_cleared: set[str] = set()
_clearing = threading.Lock()


@contextmanager
def workplace() -> Iterator[Path]:
    """Provide a folder while the block runs. Raises OSError if it cannot be made."""
    _clear_once(tempfile.gettempdir())
    place, lock = _made()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def _made() -> tuple[Path, int]:
    """Make a folder and take its lock. Another process may clear a new folder before its lock is taken."""
    for _ in range(_MOST_TRIES):
        place = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = os.open(place / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if _locked(lock) and os.fstat(lock).st_nlink:
            return place, lock
        os.close(lock)
    raise OSError("no folder could be made for the run")


def _clear_once(parent: str) -> None:
    """Remove the folders of dead processes, at the first run of this process."""
    with _clearing:
        if parent in _cleared:
            return
        _cleared.add(parent)
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX):
                _clear(entry.path)


def _clear(path: str) -> None:
    """Remove a folder of this user whose run is over. Links, and folders without a lock, are not touched."""
    with suppress(OSError):
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return
        lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if _locked(lock):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _locked(lock: int) -> bool:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
