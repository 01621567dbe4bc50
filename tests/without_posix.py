"""Takes away what Windows does not have, from the whole process: import it first, or run pytest with `-p`.

    python -m pytest -p tests.without_posix tests/budget

Modules of the standard library that use these names, where they are there, are imported before.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import logging
import multiprocessing.util
import os
import random
import select
import selectors
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from typing import Any

#: Imported so that they find what they use; the names of the others are used below.
IMPORTED = (concurrent.futures.thread, logging, multiprocessing.util, random, shutil, ssl, subprocess)

#: By module: names, or beginnings of names with a star. What the standard library itself uses here stays.
MISSING: dict[Any, str] = {
    os: "fork forkpty register_at_fork kill killpg setsid setpgid getpgid getpgrp getsid geteuid getgid getegid "
    "getgroups chown fchown lchown fchmod mkfifo mknod openpty pipe2 posix_* pread pwrite preadv pwritev readv writev "
    "sched_* set_blocking get_blocking statvfs fstatvfs sync sysconf uname wait wait3 wait4 waitid nice chroot "
    "pidfd_open memfd_create eventfd* getloadavg confstr ctermid lockf getrandom P_* "
    "O_CLOEXEC O_NOFOLLOW O_NONBLOCK O_DIRECTORY O_SYNC O_DSYNC O_NOCTTY",
    signal: "SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR* SIGWINCH alarm setitimer "
    "getitimer pause pthread_* pidfd_* sigpending sigwait* siginterrupt",
    select: "poll epoll kqueue EPOLL* POLL*",
    socket: "AF_UNIX AF_NETLINK MSG_DONTWAIT MSG_NOSIGNAL SO_REUSEPORT send_fds recv_fds",
    time: "clock_gettime* clock_getres pthread_getcpuclockid tzset CLOCK_*",
}
MODULES = "fcntl grp pty pwd readline resource syslog termios tty uvloop"

_select = select.select
_pair, _PAIR = socket.socketpair, int(getattr(socket, "AF_UNIX", socket.AF_INET))


def _take_away() -> None:
    for module, names in MISSING.items():
        for name in names.split():
            found = [each for each in dir(module) if each.startswith(name[:-1])] if name.endswith("*") else [name]
            for each in found:
                if hasattr(module, each):
                    delattr(module, each)
    for name in MODULES.split():
        sys.modules[name] = None  # type: ignore[assignment]


def _selected(self: Any, readers: Any, writers: Any, _: Any, timeout: float | None = None) -> Any:
    """Select as Windows does: it refuses to wait for nothing, and tells failed connections apart."""
    if not readers and not writers:
        raise OSError(10022, "An invalid argument was supplied")
    ready = _select(readers, writers, writers, timeout)
    return ready[0], ready[1] + ready[2], []


_take_away()
# Windows has no sockets of a file, but a function that makes a pair of sockets of another kind.
socket.socketpair = lambda family=None, *more: _pair(_PAIR if family is None else family, *more)  # type: ignore[assignment,misc]
selectors.SelectSelector._select = _selected  # type: ignore[attr-defined]
selectors.DefaultSelector = selectors.SelectSelector  # type: ignore[misc,assignment]
assert asyncio.SelectorEventLoop is not None
