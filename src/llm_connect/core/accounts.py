"""One account for each unit of each tracker, and the question whether an amount fits on a path of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from llm_connect.core.periods import period_said
from llm_connect.core.units import NOTHING, UNITS, Amount, Unit, shown

if TYPE_CHECKING:
    from llm_connect.core.windows import Window


class Account:
    """What one tracker has spent and held of one unit, against its limit (None: no limit).

    The limit of a slice is set aside on the accounts above it, up to the next slice: what it has neither spent nor held
    of it (`aside`) is a part of their `sliced`.
    """

    __slots__ = ("held", "limit", "path", "place", "presumed", "slice", "sliced", "spent", "unit", "window")

    def __init__(self, path: str, unit: Unit, limit: int | None) -> None:
        self.path: str = path
        self.unit: Unit = unit
        #: The place of the unit in an `Amount`.
        self.place: int = UNITS.index(unit)
        self.limit: int | None = limit
        self.spent: int = 0
        self.held: int = 0
        #: The part of `spent` that was booked without knowing.
        self.presumed: int = 0
        #: What slices below have set aside and not used.
        self.sliced: int = 0
        #: Whether the limit is set aside above.
        self.slice: bool = False
        #: In which `spent` counts; None: for good.
        self.window: Window | None = None

    @property
    def left(self) -> int | None:
        """What is neither spent nor held nor set aside, never below 0; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.spent - self.held - self.sliced)

    @property
    def aside(self) -> int:
        """What of a slice is kept for it on the accounts above."""
        return max(0, self.limit - self.spent - self.held) if self.slice and self.limit is not None else 0

    @property
    def breached(self) -> bool:
        return self.limit is not None and self.spent > self.limit


#: The accounts of one tracker, one for each unit.
Own: TypeAlias = tuple[Account, Account, Account]


class Path:
    """The accounts of a tracker and its ancestors, from itself to the root."""

    __slots__ = ("levels", "sliced", "units")

    def __init__(self, own: Own, above: Path | None = None, *, is_slice: bool = False) -> None:
        #: By tracker.
        self.levels: tuple[Own, ...] = (own,)
        #: By unit, in the order of an `Amount`.
        self.units: tuple[tuple[Account, ...], ...] = tuple((account,) for account in own)
        #: Whether there is a slice among them.
        self.sliced: bool = is_slice
        if above is not None:
            self.levels += above.levels
            self.units = tuple(mine + theirs for mine, theirs in zip(self.units, above.units, strict=True))
            self.sliced = is_slice or above.sliced


def needs(path: Path, amount: Amount) -> Iterator[tuple[Account, int]]:
    """The accounts on `path` with a limit that concerns `amount`, and how much of it each of them has to spare.

    Above a slice that is nothing, as it is set aside there; but a breach stops what is below it all the same.
    """
    for accounts, need in zip(path.units, amount, strict=True):
        for account in accounts:
            if account.limit is not None and (need or account.spent > account.limit):
                yield account, need
            if account.slice:
                need = 0


def short(path: Path, amount: Amount) -> list[Account]:
    """The accounts on which `amount` does not fit now."""
    return [account for account, need in needs(path, amount) if _over(account, account.held + need)]


def fits(path: Path, amount: Amount) -> bool:
    """Whether `short` is empty."""
    return not short(path, amount)


def take(path: Path, amount: Amount) -> bool:
    """Add to what is held on all of `path`, if that fits now; written out, because every call asks."""
    if path.sliced:
        return fits(path, amount) and hold(path, amount)
    need_tokens, need_calls, need_usd = amount
    for tokens, calls, usd in path.levels:
        if (
            (tokens.limit is not None and need_tokens > tokens.limit - tokens.spent - tokens.held - tokens.sliced)
            or (calls.limit is not None and need_calls > calls.limit - calls.spent - calls.held - calls.sliced)
            or (usd.limit is not None and need_usd > usd.limit - usd.spent - usd.held - usd.sliced)
        ):
            # What asks for nothing of a unit fits there all the same, unless more is spent than its limit.
            return fits(path, amount) and hold(path, amount)
    for tokens, calls, usd in path.levels:
        tokens.held += need_tokens
        calls.held += need_calls
        if need_usd:
            usd.held += need_usd
    return True


def room(path: Path, amount: Amount) -> int | None:
    """How many times `amount` fits now; None when no limit concerns it."""
    counts = [(account.left or 0) // need if need else 0 for account, need in needs(path, amount)]
    return min(counts, default=None)


def limits_output(path: Path) -> bool:
    """Whether any limit on `path` concerns how much a call writes: one in tokens, or in USD."""
    return any(account.limit is not None for unit in (0, 2) for account in path.units[unit])


def hopeless(path: Path, amount: Amount) -> Account | None:
    """The first account on which `amount` would not fit even with no hold and no slice open."""
    return next((account for account, need in needs(path, amount) if account.spent + need > account.limit), None)  # type: ignore[operator]


def left_on(accounts: Iterable[Account]) -> int | None:
    """The least that is left from a tracker up to its root, or to the slice around it; None without a limit.

    Above a slice only a breach counts, which leaves nothing.
    """
    lefts: list[int] = []
    inside = True
    for account in accounts:
        if account.left is not None and (inside or account.breached):
            lefts.append(account.left)
        inside = inside and not account.slice
    return min(lefts, default=None)


def _over(account: Account, more: int) -> bool:
    return account.spent + account.sliced + more > account.limit  # type: ignore[operator]


def hold(path: Path, amount: Amount) -> Literal[True]:
    """Add to what is held on all of `path`, whether it fits or not."""
    _change(path, amount, NOTHING)
    return True


def book(path: Path, held: Amount, spent: Amount) -> bool:
    """Free what was held on all of `path`, and add what was spent; whether that is more of any unit."""
    held_tokens, held_calls, held_usd = held
    tokens, calls, nano_usd = spent
    more = tokens > held_tokens or calls > held_calls or nano_usd > held_usd
    if path.sliced:
        _change(path, NOTHING.minus(held), spent)
        return more
    for of_tokens, of_calls, of_usd in path.levels:
        of_tokens.held -= held_tokens
        of_tokens.spent += tokens
        of_calls.held -= held_calls
        of_calls.spent += calls
        if held_usd or nano_usd:
            of_usd.held -= held_usd
            of_usd.spent += nano_usd
    return more


def _change(path: Path, held: Amount, spent: Amount) -> None:
    """Add to what is held and spent on all of `path`; what a slice sets aside above it changes with that."""
    for accounts, more_held, more_spent in zip(path.units, held, spent, strict=True):
        aside = 0
        for account in accounts:
            account.sliced += aside
            before = account.aside
            account.held += more_held
            account.spent += more_spent
            if account.slice:
                aside = account.aside - before


def set_aside(accounts: Iterable[Account], amount: int) -> None:
    """Set `amount` aside (less, when negative) on the accounts above a slice, up to the next slice."""
    for account in accounts:
        account.sliced += amount
        if account.slice:
            return


def presume(path: Path, amount: Amount) -> None:
    """Count `amount` of what is spent as presumed (less of it, when negative)."""
    for level in path.levels:
        for account, figure in zip(level, amount, strict=True):
            account.presumed += figure


def expire(own: Own, spent: Amount, presumed: Amount) -> None:
    """Take off one tracker's own accounts what has left its window; those above keep it."""
    for account, figure, unknown in zip(own, spent, presumed, strict=True):
        account.spent -= figure
        account.presumed -= unknown


def amount_of(accounts: Iterable[Account], field: str) -> Amount:
    """One field of a tracker's own accounts, as an `Amount`."""
    return Amount(*(getattr(account, field) for account in accounts))


def figures_of(account: Account) -> str:
    """One account as a person reads it: `60 tokens spent and 0 tokens held of 50,000 tokens a day`."""
    unit = account.unit
    figures = f"{shown(unit, account.spent)} spent and {shown(unit, account.held)} held"
    if account.sliced:
        figures += f" and {shown(unit, account.sliced)} set aside for slices"
    return figures if account.limit is None else f"{figures} of {shown(unit, account.limit)}{period_of(account)}"


def period_of(account: Account) -> str:
    """What goes behind a limit: ` a day`; nothing behind one that is for good."""
    return "" if account.window is None else f" {period_said(account.window.period)}"
