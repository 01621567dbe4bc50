"""What carries async calls: aiohttp where it is installed, else httpx2 alone."""

from __future__ import annotations

import sys
from typing import Literal, TypeAlias

import pytest

Transport: TypeAlias = Literal["aiohttp", "httpx2"]
TRANSPORTS: tuple[Transport, ...] = ("aiohttp", "httpx2")


def choose(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clients that are made from here on use it."""
    if transport == "httpx2":
        monkeypatch.setitem(sys.modules, "aiohttp", None)
