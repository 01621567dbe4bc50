"""The names that the open children of a tracker have, so that no two of them have the same path."""

from __future__ import annotations

import itertools
import logging
from contextlib import suppress

from llm_connect.budget.admission.log import write

#: So many are remembered, for children that are never closed.
_MOST = 1_000


class ChildNames:
    """Names of open children: one that is taken gets a number, and the log says so once for each tracker."""

    __slots__ = ("_taken", "_warned")

    def __init__(self) -> None:
        #: By name, something that only its taker has; changed in single steps, which need no lock.
        self._taken: dict[str, object] = {}
        self._warned = False

    def take(self, name: str, above: str, *, shared: bool) -> str:
        """The name for a new child of the tracker at this path; one that is shared keeps its name."""
        mine = object()
        if self._taken.setdefault(name, mine) is mine or shared:
            self._forget_oldest()
            return name
        self._warn(name, above)
        numbered = (f"{name}#{number}" for number in itertools.count(2))
        free = next(other for other in numbered if self._taken.setdefault(other, mine) is mine)
        self._forget_oldest()
        return free

    def give_back(self, name: str) -> None:
        """The child of this name is closed."""
        self._taken.pop(name, None)

    def _forget_oldest(self) -> None:
        if len(self._taken) > _MOST:
            with suppress(KeyError, RuntimeError, StopIteration):
                del self._taken[next(iter(self._taken))]

    def _warn(self, name: str, above: str) -> None:
        if not self._warned:
            self._warned = True
            write(
                logging.WARNING,
                "Budget %r has an open child %r already: each call of child() makes a new ceiling. Share one by "
                "child(..., join=True), or close it by a with block.",
                above,
                name,
            )
