"""The Redis keys of a budget, all in one slot of a cluster."""

from __future__ import annotations

from urllib.parse import quote, unquote

#: The version of this layout of keys. A budget with another version is neither read nor written.
SCHEMA = "1"
_SPENDING = ("meta", "trackers", "changed", "holds", "leases", "owners", "ledger", "open", "totals", "labels", "lost")
NAMES = (*_SPENDING, "learned", "places", "windows", "waiters", "lasts", "allotments")
_PREFIX = "llm-connect:{"
#: The pattern by which `SCAN` finds budgets.
PATTERN = "llm-connect:{*}:meta"


class Keys:
    """The keys of the budget of this name."""

    def __init__(self, name: str) -> None:
        # Braces are quoted: they would end the part of the key that determines the slot.
        self._prefix = f"{_PREFIX}{quote(name, safe='')}}}:"
        self.all: list[str] = [f"{self._prefix}{part}" for part in NAMES]
        self.channel: str = self.of("freed")

    def of(self, part: str) -> str:
        """The key of this part."""
        return f"{self._prefix}{part}"


def name_of(meta: str) -> str:
    """The name of the budget to which this key belongs."""
    return unquote(meta.removeprefix(_PREFIX).removesuffix("}:meta"))
