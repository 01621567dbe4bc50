"""Telling whether this process is a fork of the one in which an object was made."""

from __future__ import annotations

import os

#: A number that is another one in every forked process.
generation: int = 0


def _forked() -> None:
    global generation
    generation += 1


os.register_at_fork(after_in_child=_forked)
