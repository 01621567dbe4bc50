"""Turns a provider's token figures into a `Usage`, for every format, whole replies and streams alike.

The figures of a stream may be in several events, early, late, or twice: `StreamedFigures` makes one account of them.

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from llm_connect.types.usage import MOST_TOKENS, MOST_USD, Usage

#: The names of a total, and how the names of figures end that count tokens.
_TOTALS = ("total_tokens", "totalTokenCount")
_COUNTS = ("_tokens", "TokenCount")
#: The field for figures that do not cover the whole reply.
SO_FAR = "usage_so_far"
_WRITTEN = re.compile(r"\s*(\d{1,18})(?:\.0*)?\s*", re.ASCII)


class Told(NamedTuple):
    """The reading of a reply's token figures.

    usage: the usage of the call; None if it is unknown.
    least: the least usage that is certain, if no more is known.
    """

    usage: Usage | None = None
    least: Usage | None = None


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


@dataclass(frozen=True, slots=True)
class FigureNames:
    """The names of the figures in a format's account of tokens; None for a figure that the format does not have.

    of_prompt, of_completion: the objects with the parts of the input and of the output; None if they are beside it.
    unsaid: the output if an account does not name it. thinks_apart: as for `Figures`.
    """

    prompt: str
    completion: str
    total: str | None = None
    cached: str | None = None
    cache_write: str | None = None
    reasoning: str | None = None
    tools: str | None = None
    of_prompt: str | None = None
    of_completion: str | None = None
    unsaid: int | None = None
    thinks_apart: bool = False


def figures_at_openai(sent: str, written: str) -> FigureNames:
    """The names in a format of OpenAI, by its words for input and output."""
    return FigureNames(
        f"{sent}_tokens",
        f"{written}_tokens",
        "total_tokens",
        cached="cached_tokens",
        cache_write="cache_write_tokens",
        reasoning="reasoning_tokens",
        of_prompt=f"{sent}_tokens_details",
        of_completion=f"{written}_tokens_details",
    )


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


def figures_in(account: dict[Any, Any], names: FigureNames) -> Figures:
    """Read the figures of an account."""
    sent, written = _part(account, names.of_prompt), _part(account, names.of_completion)
    return Figures(
        prompt=figure(account.get(names.prompt)),
        completion=figure(account.get(names.completion, names.unsaid)),
        total=figure(account.get(names.total)),
        cached=figure(sent.get(names.cached)),
        cache_write=figure(sent.get(names.cache_write)),
        reasoning=figure(written.get(names.reasoning)),
        tools=figure(account.get(names.tools)),
        thinks_apart=names.thinks_apart,
    )


def _part(account: dict[Any, Any], name: str | None) -> dict[Any, Any]:
    part = account if name is None else account.get(name)
    return part if isinstance(part, dict) else {}


def told_in(body: dict[str, Any], usage: dict[str, Any], names: FigureNames, wrote: Callable[[], bool]) -> Told:
    """Interpret the account of a reply. Figures after which a stream wrote more are the least usage."""
    so_far = None if usage else body.get(SO_FAR)
    if not so_far or not isinstance(so_far, dict):
        return told(figures_in(usage, names), wrote)
    said = told(figures_in(so_far, names), lambda: False)
    return Told(None, said.usage or said.least)


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


class StreamedFigures:
    """The figures of a stream. They only grow, so an event with less, or nothing, takes nothing back.

    wholes: the figures for output and total: the name of each, and the name of the part in it that was not written.
    """

    def __init__(self, *wholes: tuple[str, str | None]) -> None:
        self._wholes = wholes
        self._final = True
        self.said: dict[str, Any] = {}

    def wrote(self) -> None:
        """Note that more was written, or may have been, so the figures so far do not cover the whole reply."""
        self._final = False

    def take(self, said: object) -> None:
        """Take the figures of an event, if it has some."""
        if isinstance(said, dict) and said:
            merge(self.said, said)
            self._final = self._final or any(self._is_told(said, *whole) for whole in self._wholes)

    def named(self, name: str, *, whole: bool) -> dict[str, Any]:
        """The figures as in a whole reply; under SO_FAR if the reply is `whole` but more was written after them."""
        return {SO_FAR if whole and not self._final else name: self.said}

    def _is_told(self, said: dict[str, Any], name: str, within: str | None) -> bool:
        now = figure(said.get(name)) or 0
        inside = 0 if within is None else figure(said.get(within)) or 0
        return now > inside and now >= (figure(self.said.get(name)) or 0)


def merged(accounts: Iterable[object]) -> dict[str, Any]:
    """Merge several accounts of the same reply: of each figure the greatest plausible one counts."""
    whole: dict[str, Any] = {}
    for account in accounts:
        if isinstance(account, dict):
            merge(whole, account)
    return whole


def merge(whole: dict[str, Any], account: dict[str, Any]) -> None:
    """Add to `whole` the new and larger figures of `account`.

    A total that another account told counts only if it covers the parts; else it was told before the last of them.
    """
    for name, value in account.items():
        before = whole.get(name)
        if type(value) is int and type(before) is int:
            if before < value <= MOST_TOKENS or before > MOST_TOKENS:
                whole[name] = value
        elif isinstance(before, dict):
            parts = value.items() if isinstance(value, dict) else ()
            whole[name] = before | {key: part for key, part in parts if _size(part) > _size(before.get(key))}
        elif name not in whole or isinstance(value, dict) or _size(value) > _size(before):
            whole[name] = value
    for name in _TOTALS:
        told_with_parts = figure(account.get(name)) and _sum_of_parts(account)
        if name in whole and not told_with_parts and (figure(whole[name]) or 0) < _sum_of_parts(whole):
            del whole[name]


def _sum_of_parts(account: dict[str, Any]) -> int:
    return sum(figure(account[name]) or 0 for name in account if name.endswith(_COUNTS) and name not in _TOTALS)


def _size(value: object) -> Decimal | int:
    if isinstance(value, bool):
        return int(value)
    count = figure(value)
    size = usd_figure(value) if count is None else count
    return -1 if size is None else size
