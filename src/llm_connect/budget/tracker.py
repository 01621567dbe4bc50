"""The budget that a whole chain of agents shares."""

# Its parents are trackers, those of a scope only scopes.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar, get_args

from llm_connect._validation import check_count, check_name, check_number
from llm_connect.budget.accounting.accounts import Account, Own, Path
from llm_connect.budget.accounting.arguments import Limits, checked_amount, checked_correction, checked_limits
from llm_connect.budget.accounting.bounds import Bound, Grade
from llm_connect.budget.accounting.demands import NO_FACTS, CallFacts, Demand, PlainDemand
from llm_connect.budget.accounting.ledger import Ledger, LedgerEntry
from llm_connect.budget.accounting.periods import Period, checked_period
from llm_connect.budget.accounting.prices import Price, checked_prices
from llm_connect.budget.accounting.scope import Tree
from llm_connect.budget.accounting.snapshot import BudgetSnapshot
from llm_connect.budget.accounting.windows import Window
from llm_connect.budget.admission.acquire import aadmit, admit
from llm_connect.budget.admission.alerts import Threshold, ThresholdCallback
from llm_connect.budget.admission.backend import BudgetGate
from llm_connect.budget.admission.booking import Sink
from llm_connect.budget.admission.callers import remember_own
from llm_connect.budget.admission.child_names import ChildNames
from llm_connect.budget.admission.controller import Gate, OnUnknown
from llm_connect.budget.admission.earmarks import limits_of
from llm_connect.budget.admission.figures import BudgetFigures
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.reservations import asked
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST_LIMIT, UNITS
from llm_connect.types.response import Prompt


class _Unchanged:
    def __repr__(self) -> str:
        return "unchanged"


_UNCHANGED: Final = _Unchanged()
_Limit = TypeVar("_Limit")
Config = TypeVar("Config", contravariant=True)


class Asking(Protocol[Config]):
    """An `LLMAdapter`: it says what a call would ask of a budget."""

    def _asks(self, tracker: BudgetTracker, prompt: Prompt, config: Config | None) -> tuple[Demand, CallFacts]: ...


class BudgetTracker(BudgetFigures):
    """A cap on what calls may spend, shared by threads, tasks and event loops.

        tracker = BudgetTracker(total=50_000)
        config = RunConfig(budget_tracker=tracker)
        adapter.execute_prompt("Hello", config)
        print(tracker.spent, tracker.held, tracker.remaining())

    total: limit in tokens, input and output together. total_usd: limit in USD (int, str, Decimal, or float by its
        repr). total_calls: limit in requests to providers that were not released. None: no limit of that kind;
        without any the tracker only meters.
    prices: what tokens cost, by model, for calls of this budget and its children: `{"my-model": Price(...)}`. An
        adapter's own `price` goes before them, list prices come after them.
    name: the first part of the path in errors and ledger entries.
    on_unknown: what a call counts whose outcome is not known (cancelled, timed out, cut, a 5xx): "presume" books its
        bound; "release" books nothing and gives up the guarantee.
    strict: True admits only calls whose bound is proven; the others are refused (`unproven`).
    keep_entries: ledger entries kept in memory; sums are kept for good.
    sink: a function that gets every ledger entry, in order, such as a `JsonLinesSink`. It runs in the thread that ended
        the call, outside of the lock; when it fails, that is logged, and no call is disturbed. A SystemExit or
        KeyboardInterrupt out of it is raised by the next call or reservation, before that holds or sends anything.
    period: how often the limits begin anew: "hour", "day" or "month" in UTC, or a `timedelta`, which makes them hold
        for every span of that length (in sixtieths, rounded up). None: they are for good. `total_usd=5, period="day"`
        is 5 USD a day. A call counts when it ends. The clock is that of the machine.

    Guaranteed: `spent + held` never exceeds a limit, as long as the bound of each call is an upper bound. Where one is
    not, all of the overrun is booked, the bounds of that adapter and model are raised, and nothing is sent while more
    is spent than a limit allows. Not guaranteed: anything across processes, which
    share a budget by `open_budget`; this one cannot be pickled or used after `os.fork`, and copying a config keeps it.

    Raises LLMConfigurationError for a limit that cannot be meant.
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
        check_count("keep_entries", keep_entries, least=0)
        if on_unknown not in get_args(OnUnknown):
            raise LLMConfigurationError(f"on_unknown must be 'presume' or 'release', not {on_unknown!r}.")
        self.prices: Mapping[str, Price] = checked_prices(prices or {})
        if sink is not None and not callable(sink):
            raise LLMConfigurationError("sink must be a function that takes a LedgerEntry.")
        self.strict: bool = strict
        gate = Gate(keep_entries, on_unknown, sink)
        limits = checked_limits(total, total_calls, total_usd)
        self._become(name, None, gate, limits, checked_period(period))

    def _become(
        self,
        name: str,
        parent: Self | None,
        gate: BudgetGate,
        limits: Limits,
        period: Period | None = None,
        *,
        is_slice: bool = False,
    ) -> None:
        check_name(name)
        self.name: str = name
        self.parent: Self | None = parent
        self.path: str = name if parent is None else f"{parent.path}/{name}"
        self.gate: BudgetGate = gate
        self.tree: Tree = gate.tree
        self.number: int = 0
        tokens, calls, usd = (Account(self.path, unit, limit) for unit, limit in zip(UNITS, limits, strict=True))
        self.own_accounts: Own = (tokens, calls, usd)
        self.accounts: Path = Path(
            self.own_accounts, None if parent is None else parent.accounts, is_slice=is_slice, journal=gate.journal
        )
        self.lineage: tuple[Self, ...] = (self, *(parent.lineage if parent else ()))
        self.closed_itself = is_slice
        self.is_slice: bool = is_slice
        self._opens_as_slice: bool = is_slice
        #: Whether it was joined: then leaving its block closes it for nobody.
        self._others_use_it = False
        self._max_wait_seconds: float = 0
        self._joined: dict[str, BudgetTracker] = {}
        self._names = ChildNames()
        self.window: Window | None = None if period is None else Window(period, gate.clock)
        if self.window is not None:
            for account in self.own_accounts:
                account.window = self.window
            gate.keep_window(self)

    @property
    def ledger(self) -> Ledger:
        """The entries of the whole tree; `LedgerEntry.tracker` is the path of the one that an entry is about."""
        return self.gate.ledger

    def snapshot(self) -> BudgetSnapshot:
        """All figures of one moment."""
        return self.gate.read(self)

    async def asnapshot(self) -> BudgetSnapshot:
        """Like `snapshot`; of a budget in a store it is read without blocking the event loop."""
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
        """Set aside what a call may need at most, on this tracker and all above it, and return the hold.

            with tracker.reserve(1_500, model="gpt-4.1-mini") as hold:
                hold.dispatch()
                ...
                hold.settle(tokens_used)

        tokens: input and output together; or bound: input and output limit apart, with a grade, as a `Bound`.
        price: what they cost; else that of `model` in the budget's `prices`, else under a limit in USD its list price
            (`adapter` may name the provider). Tokens are held, and settled, at its dearest rate, unless a bound and the
            usage tell input and output apart.
        usd: what to hold in USD, in place of a price.
        max_wait_seconds: how long to wait until it fits; 0 refuses at once. In a thread whose event loop runs it
            never waits, because that would block those who free the budget: there, await `areserve`.
        clamp_floor: lets the output limit of `bound` become what is free, but no less than this; `hold.max_tokens` is
            the one to send.
        grade: how sure `tokens` are; "estimated" unless you say "proven", and a strict budget admits nothing else.

        Raises LLMBudgetExceededError when it does not fit, or when a limit in USD concerns it and no price is known.
        """
        demand, facts = asked(self, tokens, bound, price, calls, usd, clamp_floor, adapter, model, grade, labels)
        if max_wait_seconds:
            _check_wait(max_wait_seconds)
        self.gate.raise_owed()
        hold = self.gate.admit(self, demand, facts)
        if hold is None:
            hold = admit(self, demand, facts, deadline=time.monotonic() + max_wait_seconds)
        remember_own(hold)
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
        """Like `reserve`; waits without a thread, and a cancelled wait leaves no trace."""
        demand, facts = asked(self, tokens, bound, price, calls, usd, clamp_floor, adapter, model, grade, labels)
        _check_wait(max_wait_seconds)
        hold = await aadmit(self, demand, facts, deadline=time.monotonic() + max_wait_seconds)
        remember_own(hold)
        return hold

    def consume(self, tokens: int) -> None:
        """Book `tokens` if they fit now; exactly up to the limit is allowed.

        Raises LLMBudgetExceededError, and then nothing has changed.
        """
        demand, facts = checked_amount(tokens, 0, 0, None, None, None)
        admit(self, demand, facts, deadline=time.monotonic()).settle(tokens)

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
        """Book what has been spent already, always: `spent` may pass the limit, and then calls are refused."""
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
        """Say what a presumed or settled entry really came to, and return the entry that amends it.

        A figure that is left out stays as it was booked. What the entry has taught of the bounds of its adapter and
        model is learned anew.

            presumed = [entry for entry in tracker.ledger if entry.outcome == "presumed"]
            tracker.correct(presumed[0].id, tokens=812)

        Raises LLMConfigurationError for an entry that was corrected before, that is neither, or that was settled and is
        no longer among the entries that are kept.
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
        slice: bool = False,  # noqa: A002 - what it is
        max_wait_seconds: float = 0,
    ) -> BudgetTracker:
        """A ceiling of its own within this budget: what it spends and holds counts here too.

            with tracker.child("research", total=5_000) as research:
                config = RunConfig(budget_tracker=research)

        Each call makes a new ceiling; one whose name an open child has gets a path of its own, such as `research#2`.
        With `join=True` the open one of that name that was joined before is shared, and its limits and period stay as
        they are: that is a budget for each user, say. Leaving its block does not close it for the others; `close` does.
        period: as of a `BudgetTracker`; each child has a window of its own, whatever those above have.
        slice: True sets the limits aside from this budget for as long as the `with` block lasts, so that nobody else
            can take them; what is not used comes back at its end. Entering the block (`with`, or in a coroutine `async
            with`) raises LLMBudgetExceededError when they do not fit; outside of the block a slice is closed.
        max_wait_seconds: how long entering the block of a slice may wait until it fits, in line with calls; as with
            `reserve`, `with` never waits in a running event loop.
        """
        _check_wait(max_wait_seconds)
        if max_wait_seconds and not slice:
            raise LLMConfigurationError("max_wait_seconds is for a slice: calls of a child wait by themselves.")
        child = BudgetTracker.__new__(BudgetTracker)
        child.prices = self.prices
        child.strict = self.strict
        limits = checked_limits(total, total_calls, total_usd, self.gate.most_limit)
        if slice and (join or not any(limits)):
            raise LLMConfigurationError("A slice needs a limit that is set aside for it, and is never joined.")
        if slice and period is not None:
            raise LLMConfigurationError("A slice is set aside for its block, and has no period: open a child in it.")
        check_name(name)
        name = self._names.take(name, self.path, shared=join)
        child._become(name, self, self.gate, limits, checked_period(period), is_slice=slice)
        child._max_wait_seconds = max_wait_seconds
        if not join:
            return child
        joined = self.gate.join(self._joined, child)
        joined._others_use_it = True
        return joined

    def fits(self, adapter: Asking[Config], prompt: Prompt, config: Config | None = None) -> int | None:
        """How many calls such as this one still fit at the same time, by their bound; None when nothing limits them.

            together = tracker.fits(adapter, prompt, config)
            answers = [pool.submit(adapter.execute_prompt, prompt, config) for prompt in prompts[:together]]

        `config.budget_tracker` does not matter: it is this tracker that is asked. Without `max_tokens` the adapter's
        default counts. Raises what the call would raise for a prompt or config that cannot be sent.
        """
        return self.gate.room(self, *adapter._asks(self, prompt, config))

    def on_threshold(self, part: float, callback: ThresholdCallback) -> None:
        """Call `callback` once, when this part of any limit of this tracker is spent, so that agents can wrap up.

            tracker.on_threshold(0.8, lambda snapshot: wrap_up.set())

        With a period it is called once in each window.

        part: of the limit, such as 0.8; if so much is spent already, the call comes at once. The callback gets a
            `BudgetSnapshot`. It runs in the thread that booked, outside of the lock; when it fails, that is logged. A
            SystemExit or KeyboardInterrupt is raised by the next call or reservation of the budget.
        """
        self.gate.watch(Threshold(self, part, callback, self.snapshot))

    def set_limits(
        self,
        *,
        total: int | _Unchanged | None = _UNCHANGED,
        total_usd: int | str | float | Decimal | _Unchanged | None = _UNCHANGED,
        total_calls: int | _Unchanged | None = _UNCHANGED,
    ) -> None:
        """Change limits of this tracker (None: no limit); what is left out stays. Waiting calls are looked at anew.

        Raises LLMConfigurationError for a slice, whose limits are set aside as they were when it was opened.
        """
        if any(account.slice for account in self.own_accounts) or self._opens_as_slice:
            raise LLMConfigurationError("The limits of a slice are set aside: close it, and open another one.")
        given = (total, total_calls, total_usd)
        checked = checked_limits(_said(total), _said(total_calls), _said(total_usd), self.gate.most_limit)
        self.gate.change_limits(
            self,
            {
                account: limit
                for account, value, limit in zip(self.own_accounts, given, checked, strict=True)
                if value is not _UNCHANGED
            },
        )

    def close(self) -> None:
        """Admit nothing more here and below. Open holds and later corrections are still booked."""
        self.gate.close(self)
        if self.parent is not None:
            self.parent._names.give_back(self.name)

    def __enter__(self) -> Self:
        if self.parent is not None and self._opens_as_slice:
            size, until = self._asked_as_slice()
            try:
                while not self.gate.open_slice(self, admit(self.parent, size, NO_FACTS, deadline=until)):
                    pass  # by an overrun more is spent there by now: it waits anew, or is refused
                self._opens_as_slice = False
            except BaseException:
                # Interrupted, it may be open, and nobody leaves its block.
                self.close()
                raise
        return self

    async def __aenter__(self) -> Self:
        if self.parent is not None and self._opens_as_slice:
            size, until = self._asked_as_slice()
            while not await self._aopen_slice(await aadmit(self.parent, size, NO_FACTS, deadline=until)):
                pass
            self._opens_as_slice = False
        return self

    def _asked_as_slice(self) -> tuple[PlainDemand, float]:
        """What a slice needs above it, and until when it waits for that."""
        return PlainDemand(*limits_of(self)), time.monotonic() + self._max_wait_seconds

    async def _aopen_slice(self, kept: Hold) -> bool:
        worker = self.gate.worker
        if worker is None:
            return self.gate.open_slice(self, kept)
        return await worker.run(self.gate.open_slice, self, kept)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        worker = self.gate.worker
        if worker is None:
            self.__exit__(kind, error, trace)
        else:
            await worker.run(self.__exit__, kind, error, trace)

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


def _check_wait(max_wait_seconds: float) -> None:
    check_number("max_wait_seconds", max_wait_seconds, least=0)


def _said(limit: _Limit | _Unchanged) -> _Limit | None:
    return None if isinstance(limit, _Unchanged) else limit
