"""Turns a provider's token figures into a `Usage`, for every format, whole replies and streams alike.

The rule:

1. A figure is a whole number from 0 to `MOST_TOKENS`. It may be written `17`, `17.0` or `"17"`. Anything else, such as
   `true`, `-1`, `1e308`, a list, or a number of 4,300 digits, means nothing.
2. The provider's own total has priority over its parts if it leaves room for input and output. It shows if thinking is
   part of the output figure or beside it, and if tools or a cache are part of the input figure. Parts that exceed
   their whole are clipped to it. Any rest of the total beyond input and output is output.
3. Without a total, a part that exceeds its whole is not in it but beside it: cached input, or thinking.
4. A call has input, and a reply that wrote something (text, a call of a tool, thinking, or as much as its limit
   allowed) has output. If the figures deny that, are too few, or exclude each other, the usage is unknown. Then the
   bound of the call is booked, or the least that the figures prove if that is more.

Nobody is billed by these rules; they decide what a budget books. More than the hold can be true, and is booked in full.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from llm_connect.types.usage import MOST_TOKENS, MOST_USD, Usage

_WRITTEN = re.compile(r"\s*(\d{1,18})(?:\.0*)?\s*", re.ASCII)


class Told(NamedTuple):
    """The reading of a reply's token figures.

    usage: the usage of the call; None if it is unknown.
    least: the least usage that is certain, if no more is known.
    """

    usage: Usage | None = None
    least: Usage | None = None


#: The reading of a reply without figures.
SILENT = Told()


@dataclass(slots=True)
class Figures:
    """The figures of a reply; None for those that mean nothing.

    tools: input that tools have added, beside `prompt` or within it. thinks_apart: True if thinking is usually not in
    `completion`.
    """

    prompt: int | None
    completion: int | None
    total: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    tools: int | None = None
    thinks_apart: bool = False

    def usual(self) -> tuple[int, int]:
        """Input and output in the usual form."""
        thought = self.reasoning or 0 if self.thinks_apart else 0
        return (self.prompt or 0) + (self.tools or 0), (self.completion or 0) + thought

    def other(self) -> tuple[int, int]:
        """Input and output in the other form: tools within the input or a cache beside it, thinking the other way."""
        cached = 0 if self.tools else (self.cached or 0) + (self.cache_write or 0)
        thought = 0 if self.thinks_apart else self.reasoning or 0
        return (self.prompt or 0) + cached, (self.completion or 0) + thought


def figure(value: object) -> int | None:
    """Read a number of tokens; None if it is not a number or cannot be true."""
    if value is None:
        return None
    number = value if type(value) is int else _whole(value)
    return number if number is not None and 0 <= number <= MOST_TOKENS else None


def usd_figure(value: object) -> Decimal | None:
    """Read an amount of USD; None if it is not an amount or cannot be true."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value))
    except (InvalidOperation, ValueError):
        return None
    return number if number.is_finite() and 0 <= number <= MOST_USD else None


def figures(account: dict[str, Any], *names: str) -> list[int | None]:
    """The token figures of an account under these names."""
    return [
        value
        if (value := account.get(name)) is None or (type(value) is int and 0 <= value <= MOST_TOKENS)
        else figure(value)
        for name in names
    ]


def told(said: Figures, wrote: Callable[[], bool]) -> Told:
    """Interpret `said`; `wrote` is True if the reply wrote something."""
    usual = said.usual()
    if not said.total:
        parts = _split(said, usual)
    else:
        parts = usual if sum(usual) == said.total else _split_by_total(said, usual, said.total)
    if parts is None or not parts[0] or (not parts[1] and wrote()):
        return Told(None, _least(usual, said.total))
    return Told(clipped(said, *parts))


def clipped(said: Figures, prompt: int, completion: int) -> Usage:
    """A usage with this input and output. Its parts are clipped to them, with writes to a cache last."""
    cache_write = min(said.cache_write, prompt) if said.cache_write else 0
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=min(said.cached, prompt - cache_write) if said.cached else 0,
        cache_write_tokens=cache_write,
        reasoning_tokens=min(said.reasoning, completion) if said.reasoning else 0,
    )


def before_the_end(said: Told) -> Told:
    """Interpret figures after which more was written: they are the least usage."""
    return Told(None, said.usage or said.least)


def _split_by_total(said: Figures, usual: tuple[int, int], total: int) -> tuple[int, int] | None:
    """Input and output in the form that adds up to the total; otherwise the total minus the input is output."""
    inputs, outputs = zip(usual, said.other(), strict=True)
    forms = [(sent, written) for sent in inputs for written in outputs if sent + written == total]
    if forms:
        return max(forms, key=lambda form: form[1])
    return next(((sent, total - sent) for sent in inputs if sent < total), None)


def _split(said: Figures, usual: tuple[int, int]) -> tuple[int, int] | None:
    """Input and output without a total."""
    if not said.prompt or said.completion is None:
        return None
    (sent, written), other = usual, said.other()
    cached_beside = max(said.cached or 0, said.cache_write or 0) > sent
    thought_beside = (said.reasoning or 0) > written
    return other[0] if cached_beside else sent, other[1] if thought_beside else written


def _least(usual: tuple[int, int], total: int | None) -> Usage | None:
    sent, written = usual
    if total:
        sent = min(sent, total)
        written = total - sent
    return Usage(prompt_tokens=sent, completion_tokens=written, estimated=True) if sent or written else None


def _whole(value: object) -> int | None:
    if type(value) is float:
        return int(value) if value.is_integer() else None
    match = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else int(match[1])
