"""Accounts, and the question that every call asks of them: does this amount fit?

A call needs tokens, one request and money, and it needs them on its own tracker and on every tracker above. Any unit
of any tracker may have a limit. The call is admitted only if all of these limits cover it, so admission is one
decision over a small table: levels from the tracker up to the root, times three units.

Three simpler designs do not work.

- A limiter for each unit, asked in turn. A call that gets its tokens and then fails on money gives the tokens back. In
  between, another call was refused for tokens that nobody used.
- A lock for each tracker. A call that passes its own tracker and then fails at the root has the same problem. A call
  that takes all locks of its path first is safe, but every path ends at the root, so that is one lock with more work.
- One number for the remaining budget. A limit may change, a correction may arrive, spend may leave a window, and a call
  may cost more than its hold. Each of these changes a different figure, and a breach would be a remainder below zero.

Instead, an `Account` keeps `limit`, `spent` and `held` of one unit of one tracker, as integers, and derives the rest. A
`Path` has the accounts of a tracker and its ancestors, both by level and by unit. One lock protects all accounts of a
tree (`admission/backoff_lock.py`). Under it, `take` first compares the amount with every limit and changes nothing;
only when all of them cover it does `take` add the amount to every `held`. No other decision can fall between the two
loops.

Two rules make the comparison longer than `spent + held + need <= limit`.

- A call that needs nothing of a unit ignores a full limit of that unit, because it cannot make things worse. A breach
  is different: it shows that some bound was wrong, so it stops every call below it. `needs` implements this rule.
- The limit of a slice is set aside on the accounts above it, up to the next slice, as a part of their `sliced`. A call
  inside the slice draws on that share and needs nothing more above it. `change` moves the share along with `held` and
  `spent`, so `sliced` is always the part of those limits that the slices below have neither spent nor held.

Every call runs `take`, so its loops are unrolled for the usual case, a path without slices. `fits` and `hold` handle
the general case.

Python may raise an exception between two levels: Ctrl-C, or a signal handler that raises (`journal.py`). Then some
accounts have the amount and others do not, and neither adding nor subtracting it once more would be right.
`Journal.level` solves this. Before `take` touches a level, it stores that level's first account and the three new
figures of the level, as one tuple and by one assignment. The next operation finds the intent and knows what has
happened: the levels before this one are done, and the levels after it are untouched. This level counts as done, with
the figures of the tuple, even if some of them never arrived. `_undo_take` computes the old figures from that and sets
them. It sets absolute figures, so it may be interrupted and repeated, too. `Books.end` uses the same tuple with six
figures, and completes instead of undoing.

A grant is undone because its caller never received the hold. For the same reason `take` leaves the intent in the
journal when it returns: `granting.grant` clears it once the hold is open.

The tuple is a log record that is written before its change, as in databases (Mohan et al., "ARIES", 1992).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from llm_connect.budget.accounting.journal import Journal, Plan
from llm_connect.budget.accounting.periods import describe_period
from llm_connect.types.amounts import NOTHING, UNITS, Amount, Unit, shown

if TYPE_CHECKING:
    from llm_connect.budget.accounting.windows import Window


class Account:
    """The spend and the holds of one tracker in one unit, against its limit (None: no limit)."""

    __slots__ = ("held", "index", "limit", "path", "presumed", "slice", "sliced", "spent", "unit", "window")

    def __init__(self, path: str, unit: Unit, limit: int | None) -> None:
        self.path: str = path
        self.unit: Unit = unit
        #: The index of the unit in an `Amount`.
        self.index: int = UNITS.index(unit)
        self.limit: int | None = limit
        self.spent: int = 0
        self.held: int = 0
        #: The part of `spent` that belongs to attempts with an unknown outcome.
        self.presumed: int = 0
        #: The amount that slices below have set aside and not used.
        self.sliced: int = 0
        #: True for a slice: the accounts above have set its limit aside.
        self.slice: bool = False
        #: The window in which `spent` counts; None if spend counts for ever.
        self.window: Window | None = None

    @property
    def left(self) -> int | None:
        """The part of the limit that is neither spent nor held nor set aside, never below 0; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.spent - self.held - self.sliced)

    @property
    def breached(self) -> bool:
        return self.limit is not None and self.spent > self.limit


#: The accounts of one tracker, one for each unit.
TrackerAccounts: TypeAlias = tuple[Account, Account, Account]


class Path:
    """The accounts of a tracker and its ancestors, from itself to the root."""

    __slots__ = ("journal", "levels", "sliced", "units")

    def __init__(
        self,
        own: TrackerAccounts,
        above: Path | None = None,
        *,
        is_slice: bool = False,
        journal: Journal | None = None,
    ) -> None:
        #: The journal of the whole tree.
        self.journal: Journal = journal or Journal()
        #: The accounts by tracker, from this one to the root.
        self.levels: tuple[TrackerAccounts, ...] = (own,)
        #: The accounts by unit, in the order of an `Amount`.
        self.units: tuple[tuple[Account, ...], ...] = tuple((account,) for account in own)
        #: True if any tracker on the path is a slice.
        self.sliced: bool = is_slice
        if above is not None:
            self.levels += above.levels
            self.units = tuple(mine + theirs for mine, theirs in zip(self.units, above.units, strict=True))
            self.sliced = is_slice or above.sliced


def needs(path: Path, amount: Amount) -> Iterator[tuple[Account, int]]:
    """The accounts on `path` whose limit applies to `amount`, each with the amount that it must cover.

    Accounts above a slice need to cover nothing, because they have set its limit aside. A breached account is always
    among them, because a breach stops every call below it.
    """
    for accounts, need in zip(path.units, amount, strict=True):
        for account in accounts:
            if account.limit is not None and (need or account.spent > account.limit):
                yield account, need
            if account.slice:
                need = 0


def short(path: Path, amount: Amount) -> list[Account]:
    """The accounts on which `amount` does not fit at present."""
    return [account for account, need in needs(path, amount) if _over(account, account.held + need)]


def fits(path: Path, amount: Amount) -> bool:
    """True if every limit on `path` covers `amount` at present."""
    return not short(path, amount)


def take(path: Path, amount: Amount) -> bool:
    """Hold `amount` on all of `path` and return True; change nothing and return False if it does not fit.

    Until the caller clears the intent, an operation that finds it undoes the hold. The loops are unrolled because every
    call runs them.
    """
    if path.sliced:
        return fits(path, amount) and hold(path, amount)
    need_tokens, need_calls, need_usd = amount
    for tokens, calls, usd in path.levels:
        if (
            (tokens.limit is not None and need_tokens > tokens.limit - tokens.spent - tokens.held - tokens.sliced)
            or (calls.limit is not None and need_calls > calls.limit - calls.spent - calls.held - calls.sliced)
            or (usd.limit is not None and need_usd > usd.limit - usd.spent - usd.held - usd.sliced)
        ):
            # A call that needs nothing of a unit still fits there, unless that limit is breached.
            return fits(path, amount) and hold(path, amount)
    journal = path.journal
    journal.level = None
    journal.intent = _undo_take, path, amount
    for tokens, calls, usd in path.levels:
        journal.level = (
            tokens,
            of_tokens := tokens.held + need_tokens,
            of_calls := calls.held + need_calls,
            of_usd := usd.held + need_usd,
        )
        tokens.held = of_tokens
        calls.held = of_calls
        usd.held = of_usd
    return True


def room(path: Path, amount: Amount) -> int | None:
    """The number of times that `amount` fits at present; None if no limit applies to it."""
    counts = [(account.left or 0) // need if need else 0 for account, need in needs(path, amount)]
    return min(counts, default=None)


def limits_output(path: Path) -> bool:
    """True if a limit on `path` depends on the output of a call: one in tokens, or in USD."""
    return any(account.limit is not None for unit in (0, 2) for account in path.units[unit])


def limits_usd(path: Path) -> bool:
    """True if an account of `path` limits USD; a plain loop is fast, and every reservation runs it."""
    for account in path.units[2]:  # noqa: SIM110
        if account.limit is not None:
            return True
    return False


def hopeless(path: Path, amount: Amount) -> Account | None:
    """The first account on which `amount` would not fit even with no hold and no slice open."""
    return next((account for account, need in needs(path, amount) if account.spent + need > account.limit), None)  # type: ignore[operator]


def opening(path: Path, amount: Amount) -> float | None:
    """The time at which enough spend has left its windows for `amount` to fit with no hold and no slice open.

    0 if it would fit now; None if it never will.
    """
    opens_at = 0.0
    for account, need in needs(path, amount):
        lacking = account.spent + need - account.limit  # type: ignore[operator]
        if lacking > 0:
            frees = None if account.window is None else account.window.frees(account.index, account.spent, lacking)
            if frees is None:
                return None
            opens_at = max(opens_at, frees)
    return opens_at


def now_on(path: Path) -> float:
    """The present time by the clock of the windows on `path`, which must have one."""
    return next(account.window.clock() for account in path.units[0] if account.window is not None)


def left_on(accounts: Iterable[Account]) -> int | None:
    """The smallest remainder from a tracker up to its root, or up to the slice around it; None without a limit.

    Above a slice only a breach counts, and it leaves nothing.
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
    """Hold `amount` on all of `path` without checking that it fits; undone like `take`."""
    plan, journal = Plan(), path.journal
    change(plan, path, amount, NOTHING)
    journal.intent = _restore, plan.before()
    plan.carry_out()
    return True


def _undo_take(journal: Journal, path: Path, amount: Amount) -> Plan:
    """A plan that undoes the part of `take` that ran before the interruption."""
    plan = Plan()
    if journal.level is not None:
        first, *held = journal.level
        begun = [level[0] for level in path.levels].index(first)
        for level in path.levels[:begun]:
            for account, figure in zip(level, amount, strict=True):
                plan.add(account, "held", -figure)
        for account, after, figure in zip(path.levels[begun], held, amount, strict=True):
            plan.set(account, "held", after - figure)
    return _restore(journal, plan)


def _restore(journal: Journal, plan: Plan) -> Plan:
    """`plan`, which restores the old figures, and the end of the hold that was granted, if there is one."""
    if journal.hold is not None:
        plan.set(journal.hold, "ended", True)
    return plan


def booked(plan: Plan, path: Path, held: Amount, spent: Amount) -> None:
    """Add to `plan` the changes of figures that `Books.end` did not reach before it was interrupted."""
    level, waits = path.journal.level, path.journal.level is not None
    for accounts in path.levels:
        if level is not None and accounts[0] is level[0]:
            figures = iter(level[1:])
            for account in accounts:
                plan.set(account, "held", next(figures))
                plan.set(account, "spent", next(figures))
            waits = False
        elif not waits:
            for account, free, more in zip(accounts, held, spent, strict=True):
                plan.add(account, "held", -free)
                plan.add(account, "spent", more)


def change(plan: Plan, path: Path, held: Amount, spent: Amount, presumed: Amount = NOTHING) -> None:
    """Add to the held, spent and presumed figures on all of `path`, and adjust the shares that slices set aside."""
    for accounts, *more in zip(path.units, held, spent, presumed, strict=True):
        set_aside = 0
        for account in accounts:
            plan.add(account, "sliced", set_aside)
            before = aside(plan, account)
            for name, figure in zip(("held", "spent", "presumed"), more, strict=True):
                plan.add(account, name, figure)
            if account.slice:
                set_aside = aside(plan, account) - before


def aside(plan: Plan, account: Account) -> int:
    """The share that the accounts above a slice set aside once `plan` is carried out: neither spent nor held in it."""
    if not plan.get(account, "slice") or account.limit is None:
        return 0
    left: int = account.limit - plan.get(account, "spent") - plan.get(account, "held")
    return max(0, left)


def set_aside(plan: Plan, accounts: Iterable[Account], amount: int) -> None:
    """Set `amount` aside on the accounts above a slice, up to the next slice; a negative amount gives some back."""
    for account in accounts:
        plan.add(account, "sliced", amount)
        if plan.get(account, "slice"):
            return


def expire(plan: Plan, own: TrackerAccounts, spent: Amount, presumed: Amount) -> None:
    """Subtract the spend that has left a tracker's window from that tracker's accounts; those above keep it."""
    for account, figure, unknown in zip(own, spent, presumed, strict=True):
        plan.add(account, "spent", -figure)
        plan.add(account, "presumed", -unknown)


def amount_of(accounts: Iterable[Account], field: str) -> Amount:
    """One field of a tracker's own accounts, as an `Amount`."""
    return Amount(*(getattr(account, field) for account in accounts))


def figures_of(account: Account) -> str:
    """One account as text for people: `60 tokens spent and 0 tokens held of 50,000 tokens a day`."""
    unit = account.unit
    figures = f"{shown(unit, account.spent)} spent and {shown(unit, account.held)} held"
    if account.sliced:
        figures += f" and {shown(unit, account.sliced)} set aside for slices"
    return figures if account.limit is None else f"{figures} of {shown(unit, account.limit)}{period_suffix(account)}"


def period_suffix(account: Account) -> str:
    """The text after a limit: ` a day`; empty if the tracker has no period."""
    return "" if account.window is None else f" {describe_period(account.window.period)}"
