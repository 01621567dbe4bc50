"""`BudgetTracker`, the budget that a whole chain of agents shares."""

# The parents of a tracker are trackers, while those of a scope are only scopes.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from llm_connect._flows import adrive, drive
from llm_connect._validation import check_count, check_name, check_number
from llm_connect.budget.accounting.accounts import Path, TrackerAccounts, Tree, accounts_of
from llm_connect.budget.accounting.bounds import Bound, CallFacts, Demand, Grade
from llm_connect.budget.accounting.ledger import Ledger, LedgerEntry
from llm_connect.budget.accounting.prices import Price, checked_prices
from llm_connect.budget.accounting.snapshot import BudgetSnapshot
from llm_connect.budget.accounting.windows import Period, Window
from llm_connect.budget.admission.acquire import acquire, clear_left_frames, draw
from llm_connect.budget.admission.arguments import (
    Limits,
    OnUnknown,
    asked,
    check_options,
    checked_amount,
    checked_correction,
    checked_limits,
    checked_period,
)
from llm_connect.budget.admission.booking import Sink
from llm_connect.budget.admission.callbacks import Threshold, ThresholdCallback
from llm_connect.budget.admission.children import ChildNames
from llm_connect.budget.admission.controller import Gate
from llm_connect.budget.admission.figures import BudgetFigures
from llm_connect.budget.admission.holds import Hold, remember_own
from llm_connect.budget.admission.log import observers, stray
from llm_connect.budget.admission.memory import MemorySession
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST_LIMIT, UNITS, shown
from llm_connect.types.response import Prompt


class _Unchanged:
    def __repr__(self) -> str:
        return "unchanged"


_UNCHANGED: Final = _Unchanged()
_Limit = TypeVar("_Limit")
Config = TypeVar("Config", contravariant=True)


class Asking(Protocol[Config]):
    """An `LLMAdapter`, which can compute the demand of a call without making it."""

    def _asks(self, tracker: BudgetTracker, prompt: Prompt, config: Config | None) -> tuple[Demand, CallFacts]: ...


class BudgetTracker(BudgetFigures):
    """A cap on the spend of calls, shared by threads, tasks and event loops.

        tracker = BudgetTracker(total=50_000)
        config = RunConfig(budget_tracker=tracker)
        adapter.execute_prompt("Hello", config)
        print(tracker.spent, tracker.held, tracker.remaining())

    total: the limit in tokens, input and output together.
    total_usd: the limit in USD: an int, str or Decimal, or a float, which has the value that its repr shows.
    total_calls: the limit in requests to providers; released requests do not count. For all three, None means no limit;
        without any limit the tracker only meters.
    prices: the prices of models, for calls of this budget and its children: `{"my-model": Price(...)}`. An adapter's
        own `price` takes precedence over them, and they take precedence over list prices.
    name: the first part of the path in errors and ledger entries.
    on_unknown: the booking of a call whose outcome is unknown (cancelled, timed out, cut off, a 5xx): "presume" books
        its bound; "release" books nothing and gives up the guarantee.
    strict: True admits only calls with a proven bound; others are refused (`unproven`).
    keep_entries: the number of ledger entries kept in memory; the sums cover all entries ever made.
    sink: a function that receives every ledger entry, in order, such as a `JsonLinesSink`. It runs in the thread that
        ended the call, outside of the lock. If it fails, the failure is logged and the call is not affected. If it
        raises SystemExit or KeyboardInterrupt, the next call or reservation raises that before it holds or sends
        anything.
    period: the interval after which the limits start over: "hour", "day" or "month" in UTC, or a `timedelta`, for which
        they hold in every span of that length (in sixtieths, rounded up). None: never. `total_usd=5, period="day"` is
        5 USD a day. A call counts when it ends. The clock is the machine's.

    Guaranteed: `spent + held` never exceeds a limit, as long as the bound of each call is an upper bound. If a bound is
    too low, the tracker books the whole overrun, raises the next bounds of that adapter and model, and sends nothing
    while its spend exceeds a limit. Copying a config keeps its tracker.

    Not guaranteed: a cap across processes. They share a budget with `open_budget`; this one cannot be pickled, and
    after `os.fork` everything that holds or books raises.

    Raises LLMConfigurationError for an invalid argument.
    """

    def __init__(
        self,
        total: int | None = None,
        *,
        total_usd: int | str | float | Decimal | None = None,
        total_calls: int | None = None,
        prices: Mapping[str, Price] | None = None,
        name: str = "budget",
        on_unknown: OnUnknown = "presume",
        strict: bool = False,
        keep_entries: int = 1000,
        sink: Sink | None = None,
        period: Period | None = None,
    ) -> None:
        check_options(keep_entries, on_unknown, sink)
        self.prices: Mapping[str, Price] = checked_prices(prices) if prices else {}
        self.strict: bool = strict
        gate = Gate(keep_entries, on_unknown, sink, MemorySession())
        limits = checked_limits(total, total_calls, total_usd)
        self._become(name, None, gate, limits, checked_period(period))

    def _become(
        self,
        name: str,
        parent: Self | None,
        gate: Gate,
        limits: Limits,
        period: Period | None = None,
        *,
        is_allotment: bool = False,
    ) -> None:
        check_name(name)
        self.name: str = name
        self.parent: Self | None = parent
        self.path: str = name if parent is None else f"{parent.path}/{name}"
        self.gate: Gate = gate
        self.tree: Tree = gate.tree
        self.number: int = 0
        self.as_of: int = 0
        self.own_accounts: TrackerAccounts = accounts_of(self.path, limits)
        above = None if parent is None else parent.accounts
        self.accounts: Path = Path(self.own_accounts, above, is_allotment=is_allotment, journal=gate.journal)
        self.lineage: tuple[Self, ...] = (self, *(parent.lineage if parent else ()))
        self.closed_itself = False
        #: True for a joined child: leaving its block does not close it.
        self._others_use_it = False
        self._joined: dict[str, BudgetTracker] = {}
        self._names = ChildNames()
        self.window: Window | None = None if period is None else Window(period, gate.clock)
        if self.window is not None:
            for account in self.own_accounts:
                account.window = self.window
            gate.keep_window(self)

    @property
    def ledger(self) -> Ledger:
        """The ledger of the whole tree; `LedgerEntry.tracker` is the path of an entry's tracker."""
        return self.gate.ledger

    def snapshot(self) -> BudgetSnapshot:
        """All figures of this tracker at one moment."""
        return self.gate.read(self)

    async def asnapshot(self) -> BudgetSnapshot:
        """Like `snapshot`, for a coroutine: reading a budget in a store does not block the event loop."""
        worker = self.gate.worker
        return self.gate.read(self) if worker is None else await worker.run(self.gate.read, self)

    def reserve(
        self,
        tokens: int = 0,
        *,
        bound: Bound | None = None,
        price: Price | None = None,
        calls: int = 1,
        usd: int | str | float | Decimal | None = None,
        max_wait_seconds: float = 0,
        clamp_floor: int | None = None,
        adapter: str | None = None,
        model: str | None = None,
        grade: Grade | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Hold:
        """Reserve the upper bound of a call, on this tracker and all above it, and return the hold.

            with tracker.reserve(1_500, model="gpt-4.1-mini") as hold:
                hold.dispatch()
                ...
                hold.settle(tokens_used)

        tokens: an upper bound on input and output together.
        bound: in place of `tokens`, a `Bound` with separate limits for input and output, and a grade.
        price: the price of the tokens. By default it is the price of `model` in the budget's `prices`; under a limit in
            USD, the list price comes next (`adapter` may name the provider). Tokens are held and settled at the highest
            rate, unless the bound and the usage separate input from output.
        calls: the number of requests to hold.
        usd: the USD to hold, in place of a price.
        max_wait_seconds: the time to wait until the bound fits; 0 refuses at once. In a thread with a running event
            loop `reserve` never waits, because that would block the calls that free budget: await `areserve` there.
        clamp_floor: allows the output limit of `bound` to shrink to the free budget, but not below this number of
            tokens. Send `hold.max_tokens` as the output limit.
        adapter, model, labels: names and labels for the ledger.
        grade: the reliability of `tokens`, "estimated" by default; a strict budget admits only "proven".

        Raises LLMBudgetExceededError if the bound does not fit, or if a limit in USD applies and no price is known.
        """
        demand, facts = asked(self, tokens, bound, price, calls, usd, clamp_floor, adapter, model, grade, labels)
        if max_wait_seconds:
            _check_wait(max_wait_seconds)
        hold = None
        try:
            by_flow = observers or self.gate.worker or self.gate.owed or stray
            hold = None if by_flow else self.gate.admit(self, demand, facts)
            if hold is None:
                deadline = time.monotonic() + max_wait_seconds
                hold = drive(acquire(self, demand, facts, deadline=deadline, tried=not by_flow))
            remember_own(hold)
        except BaseException as error:
            hold = None
            clear_left_frames(error)
            raise
        return hold

    async def areserve(
        self,
        tokens: int = 0,
        *,
        bound: Bound | None = None,
        price: Price | None = None,
        calls: int = 1,
        usd: int | str | float | Decimal | None = None,
        max_wait_seconds: float = 0,
        clamp_floor: int | None = None,
        adapter: str | None = None,
        model: str | None = None,
        grade: Grade | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Hold:
        """Like `reserve`, for a coroutine: it waits without a thread, and a cancelled wait leaves nothing held."""
        demand, facts = asked(self, tokens, bound, price, calls, usd, clamp_floor, adapter, model, grade, labels)
        if max_wait_seconds:
            _check_wait(max_wait_seconds)
        hold = None
        try:
            by_flow = observers or self.gate.worker or self.gate.owed or stray
            hold = None if by_flow else self.gate.admit(self, demand, facts)
            if hold is None:
                hold = await adrive(
                    acquire(self, demand, facts, deadline=time.monotonic() + max_wait_seconds, tried=not by_flow)
                )
            remember_own(hold)
        except BaseException as error:
            hold = None
            clear_left_frames(error)
            raise
        return hold

    def consume(self, tokens: int) -> None:
        """Book `tokens` if they fit now; the spend may reach the limit exactly.

        Raises LLMBudgetExceededError if they do not fit, and then changes nothing.
        """
        demand, facts = checked_amount(tokens, 0, 0, None, None, None)
        hold = None
        try:
            by_flow = observers or self.gate.worker or self.gate.owed or stray
            hold = None if by_flow else self.gate.admit(self, demand, facts)
            if hold is None:
                hold = drive(acquire(self, demand, facts, deadline=time.monotonic(), tried=not by_flow))
            hold.settle(tokens)
        except BaseException as error:
            hold = None
            clear_left_frames(error)
            raise

    def record(
        self,
        tokens: int = 0,
        *,
        calls: int = 0,
        usd: int | str | float | Decimal = 0,
        adapter: str | None = None,
        model: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> LedgerEntry:
        """Book spend that has already happened, even if it exceeds a limit; then the tracker refuses calls.

        tracker.record(1_200, usd="0.0021", model="gpt-4.1-mini", labels={"job": "import"})
        """
        demand, facts = checked_amount(tokens, calls, usd, adapter, model, labels)
        self.gate.raise_owed()
        return self.gate.record(self, demand.amount, facts)

    def correct(
        self,
        entry_id: int,
        tokens: int | None = None,
        *,
        calls: int | None = None,
        usd: int | str | float | Decimal | None = None,
    ) -> LedgerEntry:
        """Correct the figures of a presumed or settled entry, and return the new entry that amends it.

            presumed = [entry for entry in tracker.ledger if entry.outcome == "presumed"]
            tracker.correct(presumed[0].id, tokens=812)

        A figure that you leave out stays as it was booked. The correction of bounds for that adapter and model learns
        from the new figures in place of the old ones.

        Raises LLMConfigurationError if the entry is neither presumed nor settled, if it was corrected before, or if it
        was settled and the ledger no longer keeps it.
        """
        check_count("entry_id", entry_id, least=0, most=MOST_LIMIT)
        return self.gate.correct(entry_id, checked_correction(tokens, calls, usd))

    def child(
        self,
        name: str,
        total: int | None = None,
        *,
        total_usd: int | str | float | Decimal | None = None,
        total_calls: int | None = None,
        period: Period | None = None,
        join: bool = False,
        slice: bool = False,  # noqa: A002 - its old name
    ) -> BudgetTracker:
        """Open a child with limits of its own; its spend and its holds also count on this tracker.

            with tracker.child("research", total=5_000) as research:
                config = RunConfig(budget_tracker=research)

        By default each call opens a new child. If an open child has the same name, the new one gets a different path,
        such as `research#2`.

        period: as for a `BudgetTracker`; each child has its own window, independent of those above.
        join: True returns the open joined child of that name if there is one, with its present limits and period: for
            example, one budget for each user. Leaving its block does not close it for the others; `close` does.
        slice: deprecated. True draws an allotment at once: use `allot`, which can also wait.

        Raises LLMConfigurationError for an invalid argument.
        """
        if slice:
            return self.allot(name, total, total_usd=total_usd, total_calls=total_calls).__enter__()
        check_name(name)
        limits = checked_limits(total, total_calls, total_usd, self.gate.most_limit)
        child = self._below(name, limits, checked_period(period), shared=join)
        if not join:
            return child
        joined = self.gate.join(self._joined, child)
        joined._others_use_it = True
        return joined

    def allot(
        self,
        name: str,
        total: int | None = None,
        *,
        total_usd: int | str | float | Decimal | None = None,
        total_calls: int | None = None,
        max_wait_seconds: float = 0,
    ) -> Allotment:
        """Draw a share of this budget for a block: a run with several calls gets all of its budget, or does not begin.

        The result is not a tracker yet: entering its block returns one.

            with tracker.allot("report", total=20_000, max_wait_seconds=60) as share:
                config = RunConfig(budget_tracker=share)

        The limits are set aside on this tracker (`allotted`), so that no other call can use them. Calls, children and
        allotments of the share draw on it. The unused rest returns at the end of the block, so calls that lack only
        that rest wait for it. Entering the block (`with`, or `async with` in a coroutine) waits in line with calls, and
        raises LLMBudgetExceededError if the limits do not fit in time.

        max_wait_seconds: the time that entering the block may wait. As with `reserve`, `with` never waits in a running
            event loop.

        Raises LLMConfigurationError for an invalid argument, or without a limit.
        """
        check_name(name)
        _check_wait(max_wait_seconds)
        limits = checked_limits(total, total_calls, total_usd, self.gate.most_limit)
        if not any(limits):
            raise LLMConfigurationError("An allotment needs a limit: set total, total_calls or total_usd.")
        size = " and ".join(shown(unit, limit) for unit, limit in zip(UNITS, limits, strict=True) if limit is not None)
        make = partial(self._below, name, limits, is_allotment=True)
        return Allotment(make, max_wait_seconds, f"{name!r} of {size} on {self.path!r}")

    def _below(
        self,
        name: str,
        limits: Limits,
        period: Period | None = None,
        *,
        shared: bool = False,
        is_allotment: bool = False,
    ) -> BudgetTracker:
        """Make a child, under this name or a numbered one."""
        child = BudgetTracker.__new__(BudgetTracker)
        child.prices = self.prices
        child.strict = self.strict
        name = self._names.take(name, self.path, shared=shared, quiet=is_allotment)
        child._become(name, self, self.gate, limits, period, is_allotment=is_allotment)
        return child

    def fits(self, adapter: Asking[Config], prompt: Prompt, config: Config | None = None) -> int | None:
        """The number of calls like this one that fit at the same time, by their bound; None if no limit applies.

            together = tracker.fits(adapter, prompt, config)
            answers = [pool.submit(adapter.execute_prompt, prompt, config) for prompt in prompts[:together]]

        The figure is for this tracker, whatever `config.budget_tracker` is. Without `max_tokens` the adapter's default
        output limit counts. Nothing is held: other calls may take the budget in the meantime.

        Raises the errors that the call would raise for a prompt or config that cannot be sent.
        """
        return self.gate.room(self, *adapter._asks(self, prompt, config))

    def on_threshold(self, part: float, callback: ThresholdCallback) -> None:
        """Call `callback` once when this part of any limit is spent, so that agents can wrap up.

            tracker.on_threshold(0.8, lambda snapshot: wrap_up.set())

        part: a fraction of the limit, such as 0.8. If that much is already spent, the callback runs at once.
        callback: a function that receives a `BudgetSnapshot`. It runs in the thread that booked the spend, outside of
            the lock. If it fails, the failure is logged; if it raises SystemExit or KeyboardInterrupt, the next call or
            reservation of the budget raises that.

        With a period the callback runs once in each window.
        """
        self.gate.watch(Threshold(self, part, callback, self.snapshot))

    def set_limits(
        self,
        *,
        total: int | _Unchanged | None = _UNCHANGED,
        total_usd: int | str | float | Decimal | _Unchanged | None = _UNCHANGED,
        total_calls: int | _Unchanged | None = _UNCHANGED,
    ) -> None:
        """Change limits of this tracker, and admit waiting calls that fit the new ones.

            tracker.set_limits(total=80_000, total_usd=None)

        A limit that you leave out stays; None removes it. Limits below the present spend refuse further calls.

        Raises LLMConfigurationError for an invalid limit, and for an open allotment, whose limits are set aside.
        """
        if any(account.allotment for account in self.own_accounts):
            raise LLMConfigurationError("The limits of an allotment are fixed: close it, and draw another one.")
        given = (total, total_calls, total_usd)
        checked = checked_limits(_given(total), _given(total_calls), _given(total_usd), self.gate.most_limit)
        self.gate.change_limits(
            self,
            {
                account: limit
                for account, value, limit in zip(self.own_accounts, given, checked, strict=True)
                if value is not _UNCHANGED
            },
        )

    def close(self) -> None:
        """Admit no more calls on this tracker or below it. Open holds and later corrections are still booked."""
        self.gate.close(self)
        if self.parent is not None:
            self.parent._names.give_back(self.name)

    def __enter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # In a running event loop this leaves a note to the worker of a store, even if the wait for it is cancelled.
        self.__exit__(kind, error, trace)
        if self.gate.worker is not None:
            await self.gate.worker.run(self.gate.flush)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._others_use_it:
            try:
                self.close()
            except BaseException:
                self.gate.close(self)
                raise

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> Any:
        return self.gate.handle(self)


class Allotment:
    """The block of an allotment; made by `BudgetTracker.allot`. Each entry draws a new share, which is a tracker.

        async with tracker.allot("report", total=20_000, max_wait_seconds=60) as share:
            await adapter.async_execute_prompt("Write the report.", RunConfig(budget_tracker=share))

    Guaranteed: the share is set aside as a whole before the block begins, or nothing is. A cancelled wait leaves
    nothing behind. At the end of the block, or of the process that has entered it, the rest returns to the parent.
    """

    def __init__(self, make: Callable[[], BudgetTracker], max_wait_seconds: float, what: str) -> None:
        self._make = make
        self._what = what
        self._max_wait_seconds = max_wait_seconds
        #: The tracker of the block; None outside of it.
        self._share: BudgetTracker | None = None

    def __repr__(self) -> str:
        state = "not entered: `with` or `async with` gives its tracker" if self._share is None else "entered"
        return f"<Allotment {self._what}, {state}>"

    def __enter__(self) -> BudgetTracker:
        share = self._begin()
        try:
            drive(draw(share, self._max_wait_seconds))
            return share
        except BaseException:
            self._end(share)
            raise

    async def __aenter__(self) -> BudgetTracker:
        share = self._begin()
        try:
            await adrive(draw(share, self._max_wait_seconds))
            return share
        except BaseException:
            self._end(share)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._share is not None
        self._end(self._share)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._share is not None
        share, self._share = self._share, None
        await share.__aexit__(kind, error, trace)

    def _begin(self) -> BudgetTracker:
        if self._share is not None:
            raise LLMConfigurationError("The block of this allotment is running: call allot again for another share.")
        self._share = self._make()
        return self._share

    def _end(self, share: BudgetTracker) -> None:
        """Return the rest of `share`, which may be open even if entering its block failed."""
        try:
            share.__exit__(None, None, None)
        finally:
            self._share = None


def _check_wait(max_wait_seconds: float) -> None:
    check_number("max_wait_seconds", max_wait_seconds, least=0)


def _given(limit: _Limit | _Unchanged) -> _Limit | None:
    return None if isinstance(limit, _Unchanged) else limit
