"""A reply that is read while it arrives: its status is known, its body is still to come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from llm_connect.engine.deadline import Deadline


class OpenReply(Protocol):
    """Such a reply in a thread."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...

    def read(self, deadline: Deadline) -> bytes:
        """Return the next bytes of the body, or none at its end; wait until `deadline`."""
        ...

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it, at once."""
        ...

    def abandon(self) -> None:
        """Like `close`, for a stream that is garbage."""
        ...


class AsyncOpenReply(Protocol):
    """Such a reply in an event loop."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...

    async def aread(self) -> bytes:
        """Like `read`; the caller bounds it with a timeout, and may cancel it."""
        ...

    async def aclose(self) -> None:
        """Like `close`."""
        ...

    def abandon(self) -> None:
        """Close the connection when nothing can be awaited, because the event loop is gone."""
        ...
