"""What carries async calls: aiohttp where it is installed, else httpx2 alone."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Literal, TypeAlias

import pytest

Transport: TypeAlias = Literal["aiohttp", "httpx2"]
TRANSPORTS: tuple[Transport, ...] = ("aiohttp", "httpx2")


def choose(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clients that are made from here on use it."""
    if transport == "httpx2":
        # Taken out while it is half imported, it would come back as two halves.
        if find_spec("aiohttp") is not None:
            import_module("aiohttp")
        monkeypatch.setitem(sys.modules, "aiohttp", None)
