"""The usage of a stream, whose parts may be in several events, early, late, or twice."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from llm_connect.protocols.usage_figures import figure, usd_figure
from llm_connect.types.usage import MOST_TOKENS

#: The names of a total, and how the names of figures end that count tokens.
_TOTALS = ("total_tokens", "totalTokenCount")
_COUNTS = ("_tokens", "TokenCount")
#: The field for figures that do not cover the whole reply.
SO_FAR = "usage_so_far"


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
