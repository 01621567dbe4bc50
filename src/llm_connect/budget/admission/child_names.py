"""Names of the open children of a tracker: no two of them get the same path."""

from __future__ import annotations

import itertools
from contextlib import suppress

from llm_connect.budget.admission.log import NAME_SHARED, log_event

#: The number of names that are remembered, for children that are never closed.
_MOST = 1_000


class ChildNames:
    """The names of open children. A name in use gets a number, and a warning is logged once for each tracker."""

    __slots__ = ("_taken", "_warned")

    def __init__(self) -> None:
        #: For each name, an object that only its taker has. Single operations change the dict, so it needs no lock.
        self._taken: dict[str, object] = {}
        self._warned = False

    def take(self, name: str, above: str, *, shared: bool, quiet: bool = False) -> str:
        """Choose the name of a new child of the tracker at the path `above`; a shared child keeps its name.

        quiet: True for a name that several open children are expected to have.
        """
        mine = object()
        if self._taken.setdefault(name, mine) is mine or shared:
            self._forget_oldest()
            return name
        if not quiet:
            self._warn(name, above)
        numbered = (f"{name}#{number}" for number in itertools.count(2))
        free = next(other for other in numbered if self._taken.setdefault(other, mine) is mine)
        self._forget_oldest()
        return free

    def give_back(self, name: str) -> None:
        """Free the name of a closed child."""
        self._taken.pop(name, None)

    def _forget_oldest(self) -> None:
        if len(self._taken) > _MOST:
            with suppress(KeyError, RuntimeError, StopIteration):
                del self._taken[next(iter(self._taken))]

    def _warn(self, name: str, above: str) -> None:
        if not self._warned:
            self._warned = True
            log_event(NAME_SHARED, path=above, child=name)
