"""What the processes of a world do: calls, bookings, and changes of trackers and limits."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

from llm_connect.budget.tracker import Allotment, BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError
from tests.simulation.calls import Call
from tests.simulation.invariants import Broken

if TYPE_CHECKING:
    from tests.simulation.world import Process, World


class Actions:
    """The actions of all processes of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._names = 0
        self._kind = 0.0

    def act(self, process: Process) -> None:
        """Let a process do something."""
        calls = [call for call in process.calls if not call.over]
        ready = [call for call in calls if call.hold is not None or call.may_go_on]
        if not self._world.nested or self._world.chance.random() < 0.7:
            self._kind = self._world.chance.random()
        # Otherwise it does the same as the process whose message is on its way, so that they meet.
        kind = self._kind
        if kind < 0.25:
            self.turn(process)
        elif kind < 0.65 and ready:
            self.go_on(self._world.chance.choice(ready))
        elif kind < 0.68 and calls:
            self._give_up(self._world.chance.choice(calls))
        elif kind < 0.70:
            self._record(process)
        elif kind < 0.74:
            self._correct(process)
        elif kind < 0.80:
            self._change_trackers(process)
        elif kind < 0.81 and not process.closed:
            self._close(process)
        else:
            self._begin(process)

    def turn(self, process: Process) -> None:
        """Let the worker of a process do its work."""
        self._world.say(f"{process.name} worker")
        with self._world.acting(process):
            process.session.worker.turn()

    # Calls.

    def _begin(self, process: Process) -> None:
        tokens = self._world.chance.choice((5, 10, 20, 30, 50))
        cost = self._world.chance.choice((0, tokens // 2, tokens, tokens, tokens, tokens, tokens + 10))
        call = Call(len(self._world.calls) + 1, process, self._world.chance.choice(process.trackers), tokens, cost)
        call.model = self._world.chance.choice((None, None, "a", "b"))
        seconds = self._world.chance.choice((0.0, 0.0, 3.0, 30.0, 300.0))
        self._world.calls.append(call)
        process.calls.append(call)
        assert call.tracker is not None
        self._world.say(f"{process.name} call {call.number}: reserve {tokens} on {call.tracker.path}, wait {seconds}")
        self._ask(call, lambda: call.begin(seconds))

    def _ask(self, call: Call, ask: Callable[[], None]) -> None:
        with self._world.acting(call.process):
            try:
                ask()
            except LLMBudgetExceededError as error:
                self._world.say(f"-> refused: {error.reason}")
                call.told = 0
            else:
                self._world.say("-> waits" if call.waits else "-> held" if call.hold else "-> nothing")

    def go_on(self, call: Call) -> None:
        if call.waits is not None:
            self._world.say(f"{call.process.name} call {call.number}: wakes up")
            self._ask(call, call.go_on)
        elif not call.sent:
            self._dispatch(call)
        else:
            self._end(call)

    def _dispatch(self, call: Call) -> None:
        hold = call.hold
        assert hold is not None
        if self._world.chance.random() < 0.1:
            self._end(call)
            return
        self._world.say(f"{call.process.name} call {call.number}: dispatch")
        # Even if that fails, the store may have it as dispatched.
        call.tried = True
        with self._world.acting(call.process):
            call.sent = hold.try_dispatch()
            self._world.say("-> sent" if call.sent else "-> must not be sent")
            if call.sent:
                self._check_sent(call)
            else:
                hold.release()
                call.told = 0 if call.told is None else call.told
                call.over, call.hold = True, None

    def _check_sent(self, call: Call) -> None:
        """When the first byte leaves, the server knows that it will, or has booked it already."""
        hold = self._world.books.hold_of(call.number)
        if (hold is None or hold.state != "dispatched") and self._world.books.booked(call.number) < call.tokens:
            raise Broken(f"call {call.number} was sent, but its hold was not dispatched in the server: {hold}")

    def _end(self, call: Call) -> None:
        hold, process = call.hold, call.process
        assert hold is not None
        tokens = hold.bound.tokens
        kind = self._world.chance.choice(("settle", "settle", "settle", "presume", "lose")) if call.sent else "release"
        if kind == "release" and self._world.chance.random() < 0.3:
            kind = "lose"
        self._world.say(f"{process.name} call {call.number}: {kind}")
        # A hold that others have ended meanwhile keeps its outcome when it is forgotten.
        if call.told is None and kind != "lose":
            call.told = call.cost if kind == "settle" else max(tokens, call.tokens) if call.sent else 0
        call.hold, call.over = None, True
        with self._world.acting(process):
            if kind == "settle":
                hold.settle(call.cost)
            elif kind == "presume":
                hold.presume()
            elif kind == "release":
                hold.release()
            else:
                del hold
                gc.collect()

    def _give_up(self, call: Call) -> None:
        if call.waits is not None:
            self._world.say(f"{call.process.name} call {call.number}: gives up")
            call.told = 0
            with self._world.acting(call.process):
                call.give_up()

    # Other operations.

    def _record(self, process: Process) -> None:
        call = Call(len(self._world.calls) + 1, process, self._world.chance.choice(process.trackers), 0, 1)
        self._world.calls.append(call)
        call.over = call.doubtful = call.sent = True
        assert call.tracker is not None
        self._world.say(f"{process.name} call {call.number}: record 1 on {call.tracker.path}")
        with self._world.acting(process):
            call.tracker.record(1, labels={"call": str(call.number)})
            call.told, call.written, call.doubtful = 1, True, False

    def _correct(self, process: Process) -> None:
        open_ones = self._world.store.presumptions
        if open_ones:
            # All correct the same one, so that they meet.
            number = min(open_ones)
            of = self._world.books.entries[number - 1].labels.get("call")
            self._world.say(f"{process.name} corrects entry {number} of call {of}")
            call = self._world.calls[int(of) - 1] if of else None
            if call is not None:
                call.doubtful = True
            with self._world.acting(process):
                try:
                    process.trackers[0].correct(number, 1 if call is None else call.cost)
                except LLMConfigurationError:
                    self._world.say("-> is corrected already")
                else:
                    if call is not None:
                        call.told, call.written, call.doubtful = call.cost, True, False

    def _change_trackers(self, process: Process) -> None:
        kind = self._world.chance.choice(("child", "child", "joined", "share", "leave", "limits", "close"))
        self._names += 1
        name = f"t{self._names}"
        parent = self._world.chance.choice(process.trackers[:3])
        total = self._world.chance.choice((None, 20, 40, 60))
        self._world.say(f"{process.name} {kind}: {name} of {parent.path}, {total}")
        with self._world.acting(process):
            if kind == "child":
                process.trackers.append(parent.child(name, total))
            elif kind == "joined":
                process.trackers.append(process.trackers[0].child("joined", 50, join=True))
            elif kind == "share":
                self._open_share(process, parent.allot(name, total or 10))
            elif kind == "leave" and process.shares:
                self.leave_share(process, process.shares.pop(0))
            elif kind == "limits":
                self._limit(self._world.chance.choice(process.trackers))
            elif kind == "close" and len(process.trackers) > 3:
                process.trackers.pop().close()

    @staticmethod
    def _open_share(process: Process, allotment: Allotment) -> None:
        try:
            share = allotment.__enter__()
        except LLMBudgetExceededError:
            return
        process.shares.append(share)
        process.trackers.append(share)

    @staticmethod
    def leave_share(process: Process, share: BudgetTracker) -> None:
        process.trackers = [tracker for tracker in process.trackers if tracker is not share]
        share.close()

    def _limit(self, tracker: BudgetTracker) -> None:
        try:
            tracker.set_limits(total=self._world.chance.choice((30, 60, 100, 150, 300, None)))
        except LLMConfigurationError:
            self._world.say("-> it is an allotment")

    def _close(self, process: Process) -> None:
        self._world.say(f"{process.name} closes the budget")
        process.closed = True
        with self._world.acting(process):
            process.trackers[0].close()
