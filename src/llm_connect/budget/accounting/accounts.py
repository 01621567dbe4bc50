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

Instead, an `Account` has the figures of one unit of one tracker, as integers. A `Path` has the accounts of a tracker
and its ancestors by unit, and the `Level` of each tracker, which keeps the figures of all three units.
One lock protects all of them in a tree (`admission/backoff_lock.py`). Under it, `take` compares the amount with the
free figures of each level and holds it there. If a level does not cover it, the levels before it get it back, and
nothing has changed. No other decision can fall in between.

Two rules make the comparison longer than `need <= free`.

- A call that needs nothing of a unit ignores a full limit of that unit, because it cannot make things worse. A breach
  is different: it shows that some bound was wrong, so it stops every call below it. `needs` implements this rule.
- The limit of an allotment is set aside on the accounts above it, up to the next allotment, as a part of their
  `allotted`. A call inside the allotment draws on that share and needs nothing more above it. `change` moves the share
  along with `held` and `spent`, so `allotted` is always the part of those limits that the allotments below have neither
  spent nor held.

Every call runs `take`, so it is written out for the usual case, a path without allotments. `fits` and `hold` handle
the general case.

Python may raise an exception between two levels: Ctrl-C, or a signal handler that raises (`journal.py`). Then some
levels have the amount and others do not, and neither adding nor subtracting it once more would be right. So a level
keeps its figures in one immutable record, which changes by one assignment, and the record names the step that has
changed it last. An operation that finds an intent in the journal asks each level whether it has that step's mark.
`_undo_take` gives the amount back where the mark is found, and removes the mark by the same assignment. `complete` does
the opposite for `Books.end`: it books where the mark is missing, and sets it. Both may be interrupted and repeated.

The mark of a grant is its intent, an object of its own. The mark of an end is the number of its ledger entry, or again
an object if a plan makes the end (`book`), because a server numbers its entries later. A grant is undone because its
caller never received the hold. For the same reason `take` leaves the intent in the journal when it returns:
`holds.grant` clears it once the hold is open.

Databases call the mark a log sequence number: a page names the last record of the log that has changed it, so that
recovery neither skips a change nor makes it twice (Mohan et al., "ARIES", 1992).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import add, sub
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeAlias, cast

from llm_connect.budget.accounting.journal import Journal, Plan
from llm_connect.budget.accounting.windows import describe_period
from llm_connect.types.amounts import NOTHING, UNITS, Amount, Unit, shown

if TYPE_CHECKING:
    from llm_connect.budget.accounting.prices import Price
    from llm_connect.budget.accounting.windows import Period, Window

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


class Path:
    """The accounts of a tracker and its ancestors, from itself to the root."""

    __slots__ = ("in_allotment", "journal", "levels", "units")

    def __init__(
        self,
        own: TrackerAccounts,
        above: Path | None = None,
        *,
        is_allotment: bool = False,
        journal: Journal | None = None,
    ) -> None:
        #: The journal of the whole tree.
        self.journal: Journal = journal or Journal()
        #: The figures by tracker, from this one to the root.
        self.levels: tuple[Level, ...] = (own[0].level,)
        #: The accounts by unit, in the order of an `Amount`.
        self.units: tuple[tuple[Account, ...], ...] = tuple((account,) for account in own)
        #: True if any tracker on the path is an allotment.
        self.in_allotment: bool = is_allotment
        if above is not None:
            self.levels += above.levels
            self.units = tuple(mine + theirs for mine, theirs in zip(self.units, above.units, strict=True))
            self.in_allotment = is_allotment or above.in_allotment


def needs(path: Path, amount: Amount) -> Iterator[tuple[Account, int]]:
    """The accounts on `path` whose limit applies to `amount`, each with the amount that it must cover.

    Accounts above an allotment need to cover nothing, because they have set its limit aside. A breached account is
    always among them, because a breach stops every call below it.
    """
    for accounts, need in zip(path.units, amount, strict=True):
        for account in accounts:
            if account.limit is not None and (need or account.spent > account.limit):
                yield account, need
            if account.allotment:
                need = 0


def short(path: Path, amount: Amount) -> list[Account]:
    """The accounts on which `amount` does not fit at present."""
    return [account for account, _ in _lacking(path, amount)]


def fits(path: Path, amount: Amount) -> bool:
    """True if every limit on `path` covers `amount` at present."""
    return next(_lacking(path, amount), None) is None


def _lacking(path: Path, amount: Amount) -> Iterator[tuple[Account, int]]:
    """The accounts on which `amount` does not fit at present, each with the amount that it must cover."""
    if path.in_allotment:
        yield from ((account, need) for account, need in needs(path, amount) if need > account.free)
        return
    # Every look at a waiter comes here, so this reads the records themselves.
    for unit, need in enumerate(amount):
        for place, level in enumerate(path.levels):
            record = level.record
            if need > record[unit] and (need or record[3 + unit] > record[6].limits[unit]):  # type: ignore[operator]
                yield path.units[unit][place], need


def take(path: Path, amount: Amount) -> bool:
    """Hold `amount` on all of `path` and return True; change nothing and return False if it does not fit.

    Until the caller clears the intent, an operation that finds it undoes the hold. The loop is unrolled because every
    call runs it.
    """
    if path.in_allotment:
        return fits(path, amount) and hold(path, amount)
    need_tokens, need_calls, need_usd = amount
    journal = path.journal
    journal.intent = intent = (_undo_take, path, amount)
    for level in path.levels:
        tokens, calls, usd, spent_tokens, spent_calls, spent_usd, terms, _ = level.record
        if need_tokens > tokens or need_calls > calls or need_usd > usd:
            _give_back(path, amount, intent)
            journal.intent = None
            refused = need_tokens > max(0, tokens) or need_calls > max(0, calls) or need_usd > max(0, usd)
            # A call that needs nothing of a unit still fits there, unless that limit is breached.
            return not refused and fits(path, amount) and hold(path, amount)
        level.record = (
            tokens - need_tokens,
            calls - need_calls,
            usd - need_usd,
            spent_tokens,
            spent_calls,
            spent_usd,
            terms,
            intent,
        )
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
    for level in path.levels:  # noqa: SIM110
        if level.record[6][0][2] is not None:
            return True
    return False


def hopeless(path: Path, amount: Amount) -> Account | None:
    """The first account on which `amount` would not fit even with no hold and no allotment open."""
    return next((account for account, need in _lacking(path, amount) if account.spent + need > account.limit), None)  # type: ignore[operator]


def opening(path: Path, amount: Amount) -> float | None:
    """The time at which enough spend has left its windows for `amount` to fit with no hold and no allotment open.

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
    """The smallest remainder from a tracker up to its root, or up to the allotment around it; None without a limit.

    Above an allotment only a breach counts, and it leaves nothing.
    """
    lefts: list[int] = []
    inside = True
    for account in accounts:
        if account.left is not None and (inside or account.breached):
            lefts.append(account.left)
        inside = inside and not account.allotment
    return min(lefts, default=None)


def hold(path: Path, amount: Amount) -> Literal[True]:
    """Hold `amount` on all of `path` without checking that it fits; undone like `take`."""
    plan, journal = Plan(), path.journal
    change(plan, path, amount, NOTHING)
    journal.intent = _restore, plan.before()
    plan.carry_out()
    return True


def _undo_take(journal: Journal, path: Path, amount: Amount) -> Plan:
    """Undo the part of `take` that ran, and return a plan for the rest."""
    _give_back(path, amount, journal.intent)
    return _restore(journal, Plan())


def _give_back(path: Path, amount: Amount, step: object) -> None:
    """Free `amount` on the levels on which `step` has held it."""
    for level in path.levels:
        if level.record[-1] is step:
            *free, spent_tokens, spent_calls, spent_usd, terms, _ = level.record
            tokens, calls, usd = map(add, free, amount)
            level.record = tokens, calls, usd, spent_tokens, spent_calls, spent_usd, terms, None


def _restore(journal: Journal, plan: Plan) -> Plan:
    """`plan`, which restores the old figures, and the end of the hold that was granted, if there is one."""
    if journal.hold is not None:
        plan.set(journal.hold, "ended", True)
    return plan


def book(plan: Plan, path: Path, held: Amount, spent: Amount, presumed: Amount) -> None:
    """Plan to book `spent`, of which `presumed` is unknown, in place of `held` on all of `path`."""
    if path.in_allotment:
        change(plan, path, NOTHING.minus(held), spent, presumed)
        return
    plan.then(complete, path, held, spent, object())
    if presumed != NOTHING:
        change(plan, path, NOTHING, NOTHING, presumed)


def complete(path: Path, held: Amount, spent: Amount, step: object) -> None:
    """Book `spent` in place of `held` on the levels that `step`, the end of a hold, had not reached."""
    gained = (*map(sub, held, spent), *spent)
    for level in path.levels:
        *figures, terms, last = level.record
        if last != step:
            level.record = cast("Record", (*map(add, figures, gained), terms, step))


def change(plan: Plan, path: Path, held: Amount, spent: Amount, presumed: Amount = NOTHING) -> None:
    """Add to the held, spent and presumed figures on all of `path`, and adjust the shares that allotments set aside."""
    for accounts, *more in zip(path.units, held, spent, presumed, strict=True):
        set_aside = 0
        for account in accounts:
            before = aside(plan, account) if account.allotment else 0
            for name, figure in zip(("allotted", "held", "spent", "presumed"), (set_aside, *more), strict=True):
                if figure:
                    plan.add(account, name, figure)
            if account.allotment:
                set_aside = aside(plan, account) - before


def aside(plan: Plan, account: Account) -> int:
    """The share that the accounts above an allotment set aside once `plan` is carried out: its unused part."""
    if not plan.get(account, "allotment") or account.limit is None:
        return 0
    left: int = account.limit - plan.get(account, "spent") - plan.get(account, "held")
    return max(0, left)


def set_aside(plan: Plan, accounts: Iterable[Account], amount: int) -> None:
    """Set `amount` aside on the accounts above an allotment, up to the next one; a negative amount gives some back."""
    for account in accounts:
        plan.add(account, "allotted", amount)
        if plan.get(account, "allotment"):
            return


def amount_of(accounts: Iterable[Account], field: str) -> Amount:
    """One field of a tracker's own accounts, as an `Amount`."""
    return Amount(*(getattr(account, field) for account in accounts))


def figures_of(account: Account) -> str:
    """One account as text for people: `60 tokens spent and 0 tokens held of 50,000 tokens a day`."""
    unit = account.unit
    figures = f"{shown(unit, account.spent)} spent and {shown(unit, account.held)} held"
    if account.allotted:
        figures += f" and {shown(unit, account.allotted)} set aside for allotments"
    return figures if account.limit is None else f"{figures} of {shown(unit, account.limit)}{period_suffix(account)}"


def period_suffix(account: Account) -> str:
    """The text after a limit: ` a day`; empty if the tracker has no period."""
    return "" if account.window is None else f" {describe_period(account.window.period)}"


class Tree:
    """State that all scopes of one tree share."""

    #: True if a scope of the tree is or was closed; if not, admission need not check each of them.
    any_closed: bool = False


class Scope:
    """The accounts of one tracker, and its position in the tree; it makes no decisions."""

    name: str
    path: str
    #: The number of the tracker in its store; 0 in memory.
    number: int
    #: The number of the store state from which its figures come; 0 in memory.
    as_of: int
    parent: Self | None
    #: This scope and its ancestors, up to the root.
    lineage: tuple[Self, ...]
    own_accounts: TrackerAccounts
    accounts: Path
    window: Window | None
    prices: Mapping[str, Price]
    strict: bool
    tree: Tree
    _closed_itself: bool

    @property
    def period(self) -> Period | None:
        """The interval after which the limits start over; None if they never do."""
        return None if self.window is None else self.window.period

    @property
    def closed(self) -> bool:
        """True if this tracker or one above it is closed."""
        return any(tracker.closed_itself for tracker in self.lineage)

    @property
    def closed_itself(self) -> bool:
        """True if this tracker itself is closed, whatever the state of those above it."""
        return self._closed_itself

    @closed_itself.setter
    def closed_itself(self, closed: bool) -> None:
        self._closed_itself = closed
        self.tree.any_closed = self.tree.any_closed or closed
