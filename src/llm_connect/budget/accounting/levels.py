"""The figures of one tracker, as one immutable record, so that no exception can stop between two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from llm_connect.types.amounts import UNITS, Unit

if TYPE_CHECKING:
    from llm_connect.budget.accounting.windows import Window

#: A limit that no amount reaches, in place of none: comparing with it needs no special case.
_ENDLESS = 1 << 89
_ZEROS = 0, 0, 0


class Terms(NamedTuple):
    """The figures of one tracker that no call changes, by unit."""

    limits: tuple[int | None, ...] = (None, None, None)
    allotted: tuple[int, ...] = _ZEROS


#: The free and the spent amounts of the three units, the terms, and the step that has changed the record last. A free
#: amount is what a limit leaves beside spend, holds and shares; it is negative if they are more than the limit.
Record: TypeAlias = tuple[int, int, int, int, int, int, Terms, object]


class Level:
    """The three accounts of one tracker, whose changes are one assignment each."""

    __slots__ = ("record",)

    def __init__(self, limits: tuple[int | None, ...]) -> None:
        self.load(limits)

    def load(
        self,
        limits: tuple[int | None, ...],
        spent: tuple[int, ...] = _ZEROS,
        held: tuple[int, ...] = _ZEROS,
        allotted: tuple[int, ...] = _ZEROS,
    ) -> None:
        """Set all figures."""
        taken = map(sum, zip(spent, held, allotted, strict=True))
        free = [(_ENDLESS if limit is None else limit) - more for limit, more in zip(limits, taken, strict=True)]
        self.record: Record = (*free, *spent, Terms(limits, allotted), None)  # type: ignore[assignment]


class Account:
    """The spend and the holds of one tracker in one unit, against its limit (None: no limit)."""

    __slots__ = ("allotment", "index", "level", "path", "presumed", "unit", "window")

    def __init__(self, path: str, unit: Unit, level: Level) -> None:
        self.path: str = path
        self.unit: Unit = unit
        #: The index of the unit in an `Amount`.
        self.index: int = UNITS.index(unit)
        self.level: Level = level
        #: The part of `spent` that belongs to attempts with an unknown outcome.
        self.presumed: int = 0
        #: True for an allotment: the accounts above have set its limit aside.
        self.allotment: bool = False
        #: The window in which `spent` counts; None if spend counts for ever.
        self.window: Window | None = None

    @property
    def limit(self) -> int | None:
        return self.level.record[6].limits[self.index]

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self._set(limit, self.spent, self.held, self.allotted)

    @property
    def spent(self) -> int:
        spent: int = self.level.record[3 + self.index]  # type: ignore[assignment]
        return spent

    @spent.setter
    def spent(self, spent: int) -> None:
        self._set(self.limit, spent, self.held, self.allotted)

    @property
    def held(self) -> int:
        *figures, terms, _ = self.level.record
        index, limit = self.index, terms.limits[self.index]
        held: int = (_ENDLESS if limit is None else limit) - figures[index] - figures[3 + index] - terms.allotted[index]
        return held

    @held.setter
    def held(self, held: int) -> None:
        self._set(self.limit, self.spent, held, self.allotted)

    @property
    def allotted(self) -> int:
        """The amount that allotments below have set aside and not used."""
        return self.level.record[6].allotted[self.index]

    @allotted.setter
    def allotted(self, allotted: int) -> None:
        self._set(self.limit, self.spent, self.held, allotted)

    @property
    def free(self) -> int:
        """The part of the limit that is neither spent nor held nor set aside; negative if these are more than it."""
        free: int = self.level.record[self.index]  # type: ignore[assignment]
        return free

    @property
    def left(self) -> int | None:
        """Like `free`, but never below 0; None without a limit."""
        return None if self.limit is None else max(0, self.free)

    @property
    def breached(self) -> bool:
        return self.limit is not None and self.spent > self.limit

    def _set(self, limit: int | None, spent: int, held: int, allotted: int) -> None:
        index = self.index
        *figures, (limits, shares), step = self.level.record
        figures[index] = (_ENDLESS if limit is None else limit) - spent - held - allotted
        figures[3 + index] = spent
        terms = Terms((*limits[:index], limit, *limits[index + 1 :]), (*shares[:index], allotted, *shares[index + 1 :]))
        self.level.record = (*figures, terms, step)  # type: ignore[assignment]


#: The accounts of one tracker, one for each unit.
TrackerAccounts: TypeAlias = tuple[Account, Account, Account]


def accounts_of(path: str, limits: tuple[int | None, ...]) -> TrackerAccounts:
    """The accounts of a new tracker."""
    level = Level(limits)
    tokens, calls, usd = (Account(path, unit, level) for unit in UNITS)
    return tokens, calls, usd
