"""Heads of exchanges, as the steps of a call set them around what they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llm_connect.engine.deadline import Deadline, Head, awaited, awaited_head


@contextmanager
def obeying(deadline: Deadline) -> Iterator[None]:
    """The sockets of this thread's sync clients end by `deadline` in the block."""
    head = Head()
    head.until = deadline.at
    token = awaited.set(head)
    try:
        yield
    finally:
        awaited.reset(token)


def note_headers(request_id: str) -> None:
    """Note that a reply has begun to arrive, as the clients do."""
    awaited_head().headers = {"x-request-id": request_id}
