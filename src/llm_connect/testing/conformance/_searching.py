"""Searches for keys and prompts in everything that a program may print, send or keep of an error."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

#: The length from which on a part of a key, and of a prompt, counts as found (ERROR-5).
KEY_PART, PROMPT_PART = 12, 20


def has_part_of(planted: str, length: int, text: str) -> bool:
    """True if `text` has `planted`, or a part of it of that length."""
    if len(planted) <= length:
        return planted in text
    return any(planted[start : start + length] in text for start in range(len(planted) - length + 1))


def texts_of(error: BaseException) -> Iterator[tuple[str, str]]:
    """The texts of an error and of the errors behind it, each with its place."""
    yield "its traceback", "".join(traceback.format_exception(error))
    yield "its pickle", _pickled(error)
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        name = type(link).__name__
        yield from ((f"the text of {name}", str(link)), (f"the repr of {name}", repr(link)))
        yield f"the attributes of {name}", repr(vars(link))
        link = link.__cause__ or link.__context__


@contextmanager
def logged() -> Iterator[list[str]]:
    """Record all log messages that the program's logging lets through while the block runs."""
    texts: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(_formatted(record))  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield texts
    finally:
        root.removeHandler(handler)


def _formatted(record: logging.LogRecord) -> str:
    return f"{logging.Formatter().format(record)} {vars(record)}"


def _pickled(error: BaseException) -> str:
    try:
        return pickle.dumps(error).decode("utf-8", "replace")
    except Exception:
        return ""  # Another rule reports errors that cannot be pickled.
