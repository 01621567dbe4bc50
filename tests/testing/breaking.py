"""Saying of an adapter which rule it breaks."""

from __future__ import annotations

from collections.abc import Callable

from tests.testing.good_adapters import Good

#: For each rule, the adapters that break it and no other.
BROKEN: dict[str, list[type[Good]]] = {}


def breaks(rule: str) -> Callable[[type[Good]], type[Good]]:
    def added(kind: type[Good]) -> type[Good]:
        BROKEN.setdefault(rule, []).append(kind)
        return kind

    return added
