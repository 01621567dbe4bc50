"""The session of a budget in Redis: a local copy, and steps that are written by optimistic concurrency control.

Every operation on a budget reads figures, decides, and writes figures, and no other process may change them in between.
A file guarantees that by an exclusive transaction. A server is a round trip away, and every call makes three operations
(reserve, dispatch, settle), so round trips are the cost that counts. Three usual ways need more of them, or worse.

- A lock in the server. Two round trips, and one process at a time. A process that stops while it has the lock stops all
  others until the lock expires, and then two may have it.
- `WATCH`, read, `MULTI`, `EXEC`. Two round trips, and any write to a watched key makes the whole operation fail,
  although most operations do not disturb each other.
- All decisions in a script. One round trip, but the queue, clamping, windows and learned factors would exist twice, in
  Python and in Lua, and would differ sooner or later.

So a process keeps a copy of the trackers that it uses, from the last reply about each of them, and decides on that copy
by the same code as in memory. Then it sends one script (`step.lua`), which does not decide. The script checks that the
decision is still right, writes all of it or nothing, and replies with the trackers of the step as they are now. Usually
that is one round trip. It rests on five rules.

1. *A stamp shows whether the copy is current.* Every written step increments the stamp of the budget. The process knows
   for each tracker the stamp of its copy, and a step names the oldest one on its path. If that is the present stamp,
   the copies were right, and so is the decision. As long as no other process writes, the process knows that its older
   copies are as good as new ones (`ServerTrackers.seen_at`).
2. *Steps are differences.* A step says "hold 500 tokens more", never "1,700 tokens are held". So the steps of different
   processes combine, and a step on an old copy is written if its own conditions hold: its holds are there, its amounts
   fit within the present limits, its trackers are open, their windows have not moved, and nothing has changed that
   concerns everybody, such as a learned factor. Otherwise the reply is `again`.
3. *`again` means: undo, ask, and decide again.* The undo is described in `stores/session.py`. Whenever one process has
   to repeat its step, the step of another was written, so together they make progress.
4. *Only a decision that the script checks may rest on an old copy*: a grant, a dispatch, an end. A refusal writes
   nothing, so the script would not check it. Therefore `sure` raises `Again` unless the step has asked the server
   first, and steps that answer with a figure, or send a caller into the queue, always ask first (`informed` in
   `Gate.run`).
5. *A process that has asked is not put off for ever.* A step that grants a new hold fails if others have begun to wait
   since its copy was made, because they came first. A step that has just asked says so (`fresh`), and is exempt from
   this check. Otherwise a slow process might be overtaken again and again.

**Lost replies.** A connection can break after the server has applied a step and before its reply arrives. Sending the
step again could count it twice; not sending it could lose it. So each step has a number, and the server keeps the last
number of each client. A step is sent again under its number, and if it is written already, the script only answers. (A
step that ends leases needs no number, since it is refused once they are over.) If the server cannot be reached now, the
step stays in `_sent` with all that it has changed here, and the next operation sends it before anything else
(`_learn_what_became`). It releases those grants whose callers were told of a failure.

**A server that forgets.** After a failover or a restore, a server may lack steps that it had confirmed. Then its stamp
is lower than one that this process has seen, or the last step of this process is missing. The script says `older`, and
this process refuses to go on, because it cannot know how much spend was forgotten.

Kung and Robinson called this optimistic concurrency control (1981): read, validate, write. To send differences, and to
validate limits where others validate versions, is the escrow method (O'Neil, 1986).
"""

# Each session has parts of its own kind, and never replaces them.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import json
import secrets
import struct
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_connect._threads import DaemonThread, StartLock
from llm_connect.budget.accounting.bounds import LearnedFactor
from llm_connect.budget.accounting.ledger import OTHERS
from llm_connect.budget.accounting.windows import Window
from llm_connect.budget.admission.controller import Gate
from llm_connect.budget.admission.holds import RELEASED
from llm_connect.budget.admission.log import EVICTION_UNKNOWN, POLLED, log_event
from llm_connect.errors import LLMConfigurationError, LLMStoreError
from llm_connect.stores.parts import Again, Lease
from llm_connect.stores.redis import records
from llm_connect.stores.redis.layout import MOST, NAMES, SCHEMA, STATE, Keys, new_state, pairs, text_of, window_text
from llm_connect.stores.redis.server import NotLoaded, Server, ServerClock, part_of, script, shown, store_error
from llm_connect.stores.session import StoreSession, Terms

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope
    from llm_connect.budget.accounting.windows import Period
    from llm_connect.budget.admission.arguments import Limits, OnUnknown

#: The interval in which the worker looks at waiting callers without a notification, which may get lost.
_LOOK_SECONDS = 1.0
#: The interval in which the listener checks that a caller still waits, and its pause after a failure.
_CHECK_SECONDS, _RETRY_SECONDS = 0.2, 0.5
#: The header of a reply; `step.lua` describes it.
_HEAD = struct.Struct("<BqqqqII")
#: The number of parts that all commands share, less one.
_HEAD_PARTS = 3 + len(NAMES) + 5 - 1
#: The name of the sums of all kinds or labels beyond the limit on their number.
_OTHERS = text_of([OTHERS, OTHERS, OTHERS])
#: Servers that do not tell their eviction policy; the log names each of them once.
_warned: set[str] = set()
#: The number of the root in every budget.
ROOT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTerms(Terms):
    """The options of a process for a budget in the server at `url`, which may contain a password."""

    most_limit: ClassVar[int] = MOST
    url: str = field(repr=False)

    @property
    def shown(self) -> str:
        return shown(self.url)

    def session(self) -> ServerSession:
        keys = Keys(self.name)
        with closing(Server(self.url, self.busy_seconds)) as server:
            fields = ("schema", "on_unknown", "born", "allotments")
            schema, on_unknown, born, listed = server.call("HMGET", keys.of("meta"), *fields)
            if schema is None:
                raise LLMStoreError(
                    f"{self.shown} has no budget {self.name!r}: create it with open_budget.", store=self.shown
                )
            self._check_schema(schema)
            if listed is None:
                names = [keys.of(part) for part in ("meta", "trackers", "places", "allotments")]
                server.call("EVAL", script("list_allotments"), 4, *names, STATE.size)
        session = ServerSession(self, born or b"")
        Gate(self.keep_entries, on_unknown.decode(), self.sink, session, session.clock)
        return session

    def make(self, limits: Limits, period: Period | None, on_unknown: OnUnknown) -> bool:
        keys = Keys(self.name)
        names = [keys.of(part) for part in ("meta", "trackers", "changed", "windows")]
        with closing(Server(self.url, self.busy_seconds)) as server:
            window = "" if period is None else window_text(Window(period, ServerClock.of(server)))
            state = STATE.pack(*new_state(ROOT, closed=False, limits=limits, window=bool(window)))
            self._check_eviction(server)
            how = (SCHEMA, on_unknown, self.name, state, window, secrets.token_hex(8))
            made: bytes = server.call("EVAL", script("make"), 4, *names, *how)
        if made != b"made":
            self._check_schema(made)
        return made == b"made"

    def _check_eviction(self, server: Server) -> None:
        """Refuse a server that evicts budgets when it is full. Log once if it answers, and does not tell."""
        if self.allow_eviction:
            return
        try:
            _, policy = server.call("CONFIG", "GET", "maxmemory-policy")
        except LLMStoreError as error:
            if not server.connected:
                raise
            if self.shown not in _warned:
                _warned.add(self.shown)
                log_event(EVICTION_UNKNOWN, store=self.shown, error=str(error))
            return
        if policy != b"noeviction":
            raise LLMConfigurationError(
                f"{self.shown} evicts keys when it is full (maxmemory-policy {policy.decode()}), and budgets would "
                "lose their spend: set maxmemory-policy noeviction, or accept the loss with allow_eviction=True."
            )

    def _check_schema(self, schema: bytes) -> None:
        """Raise LLMStoreError for a budget that another version has created."""
        if schema.decode() != SCHEMA:
            raise LLMStoreError(
                f"Budget {self.name!r} of {self.shown} was created by another version of llm-connect: use that "
                "version.",
                store=self.shown,
            )


class ServerSession(records.ServerParts, StoreSession):
    """One process's use of a budget in a server.

    The process decides about grants, dispatches and outcomes on the state in the last reply. One script writes the
    decision if that state still holds. Before a refusal, the process asks the server for the present state.
    """

    terms: ServerTerms
    waiters: records.ServerWaiters

    def __init__(self, terms: ServerTerms, born: bytes) -> None:
        super().__init__(terms, ROOT)
        self.terms = terms
        self.clock: ServerClock = ServerClock()
        self._born = born
        #: The error of a server that has lost the opened budget, or some of its steps.
        self._gone: LLMStoreError | None = None
        self.keys: Keys = Keys(terms.name)
        #: True if the current step has asked the server.
        self.fresh: bool = False
        #: The time of the last look at waiting callers; 0 if another process may have freed budget since.
        self._looked_at = 0.0
        #: True if the worker has to renew this process's lease.
        self._renews = False
        self._start()

    def _open_parts(self, keep_entries: int) -> None:
        terms = self.terms
        self.changes: records.StepChanges = records.StepChanges(self)
        self.leases: records.ServerLeases = records.ServerLeases(self, terms.lease_seconds)
        self.trackers: records.ServerTrackers = records.ServerTrackers(self, terms.prices, strict=terms.strict)
        self.waiters = records.ServerWaiters(self, terms.lease_seconds)
        self.entries: records.ServerEntries = records.ServerEntries(keep_entries, self)

    def _start(self) -> None:
        self.client: str = secrets.token_hex(8)
        self.server: Server = Server(self.terms.url, self.terms.busy_seconds)
        # Not in `__del__`: the socket would be collected together with the session, and warn that it is not closed.
        weakref.finalize(self, self.server.close).atexit = False
        self._connected = self._steps = 0
        self.epoch: int = 0
        #: The number of the last step that the server has recorded for this process; 0 for none.
        self._last = 0
        #: True if the next step has to ask the server first.
        self.stale: bool = True
        #: The sent step, until its outcome is known and its changes here are completed or undone.
        self._sent: dict[str, Any] | None = None
        self._listener = Listener(self)
        self._arriving = threading.Lock()
        self._arrived = 0
        #: The bytes with which every command begins; empty until the script is loaded.
        self._head = b""
        #: The ended leases in the last answer of the server.
        self._over: list[str] = []

    @property
    def unsettled(self) -> bool:
        return self._sent is not None

    @property
    def gone(self) -> bool:
        return self._gone is not None

    def arrive(self) -> int:
        """The present time of the server, which orders the callers of all processes."""
        with self._arriving:
            self._arrived = max(self._arrived + 1, int(self.clock() * 1e9))
            return self._arrived

    def sure(self) -> None:
        # A step that has not asked the server asks now and decides again.
        if not self.fresh:
            raise Again

    def begin(self, informed: bool) -> None:
        if self._gone is not None:
            raise LLMStoreError(str(self._gone), store=self._gone.store)
        if self._sent is not None:
            self._learn_what_became(self._sent)
        self.fresh = False
        if informed or self.stale or (self.gate.windowed and not self.clock.known):
            self._ask()
        else:
            self._catch_up()

    def commit(self) -> None:
        if self.line.busy or self.waiters.told:
            self.waiters.tell(self.line)
        if self.taught or self.changes:
            self._write(self._step())
        else:
            self.settled()

    def _write(self, step: dict[str, Any]) -> None:
        """Send a step, and complete it here. If its outcome stays unknown, the next step begins by sending it again.

        Completing it twice is harmless.
        """
        self._sent = step
        first = self._send(step, self.changes.touched)
        if "over" not in step:
            self._last = step["number"]
        elif "own" in step:
            self._last = 0
        self.changes.written(first)
        self.settled()
        self._sent = None

    def _learn_what_became(self, step: dict[str, Any]) -> None:
        """Send a step of unknown outcome again, which counts once. Undo it here if the server refuses it."""
        step["again"] = True
        waiting = {waiter.hold for waiter in self.line.untaken}
        # The callers of these grants were told of a failure.
        nobody_has = [hold for hold in self.changes.granted() if hold not in waiting]
        try:
            self._write(step)
        except Exception as error:
            if self._sent is not None:
                raise
            self.roll_back(error)
        else:
            self.gate.notes.extend(self.gate.finish(hold, RELEASED) for hold in nobody_has)

    def _may_be_written(self, error: BaseException) -> bool:
        """True if the server may have written the step in spite of `error`."""
        assert self._sent is not None
        return "again" in self._sent or self.server.unsure or not isinstance(error, LLMStoreError)

    def roll_back(self, error: BaseException) -> Exception | None:
        self.stale = True
        if self._sent is not None and self._may_be_written(error):
            self.gate.journal.intent = self.gate.journal.hold = None
            return None
        self._sent = None
        missing = self.changes.missing() if isinstance(error, _Missing) else []
        self.undo(error)
        self.books.learned.become(dict(self._learned_before))
        for hold in missing:
            hold.lease = Lease("", 0.0)
        return None

    def _step(self) -> dict[str, Any]:
        step = self.changes.step()
        if self.taught:
            step["learned"] = [(text_of(key), text_of(factor)) for key, factor in self.books.learned.factors.items()]
        if self.fresh:
            step["fresh"] = True
        self._steps += 1
        step["number"] = self._steps
        if self._last:
            step["last"] = self._last
        return step

    def _ask(self) -> None:
        """Ask the server for its present state, and end leases that have expired."""
        self._send({}, self.interest())
        self.fresh, self.stale = True, False
        self._catch_up()
        self.books.look_at_thresholds()
        if self._over:
            # If another process is faster, this step conflicts with its own.
            self.leases.end(self._over)
            self._write(self._step())

    def _catch_up(self) -> None:
        """Give the callers of other processes their places in the queue, and move the windows of this step."""
        self.waiters.read(self.line)
        if self.gate.windowed:
            about = self.interest()
            self.gate.move(about)
            # The step writes changed windows, because they refer to its entries.
            self.changes.note_trackers(each for each in about if each.number and each.window and each.window.changed)

    def _lose_lease(self) -> None:
        """Forget the own lease, which another process has ended.

        A process of an earlier version has also deleted the record of the last step.
        """
        self.leases.forget()
        self._last = 0

    def _send(self, step: dict[str, Any], about: Sequence[Scope]) -> int:
        """Send a step, take over the reply, and return the number of the first entry. Raises the error of a refusal."""
        since, asked_at, lease = time.monotonic(), time.time(), self.leases.said()
        step["epoch"] = self.epoch
        if lease is not None:
            step["lease"] = lease
        reply = self._ask_script(step, about)
        if reply.isalpha():
            self._sent = None
            if reply == b"lost":
                self._lose_lease()
            raise self._failure(reply.decode())
        stands, moment, stamp, epoch, first, over, size = _HEAD.unpack_from(reply)
        self.clock.hear(moment / 1000, asked_at)
        if not stands:
            self._lose_lease()
        elif lease is not None and lease[1] and "again" not in step:
            # A step that is sent again has renewed the lease only when it was written.
            self.leases.renewed_at = since
        self._over = []
        windows = self._read_last(reply[len(reply) - size :].decode(), over, moment / 1000) if size else {}
        alone = "again" not in step and stamp == step["seen"] + ("number" in step)
        wanted = about if "want" in step else ()
        self.trackers.hear(reply[_HEAD.size : len(reply) - size], windows, wanted, stamp, alone)
        if epoch != self.epoch:
            self.epoch = epoch
            if "learned" not in step:
                rows = pairs(self.fetch("HGETALL", "learned"))
                self.know({tuple(json.loads(key)): LearnedFactor(*json.loads(factor)) for key, factor in rows})
        return int(first)

    def _read_last(self, text: str, over: int, moment: float) -> dict[str, str]:
        """Read the last part of a reply: ended leases, changed windows, and waiting callers. Return the windows."""
        said, listed, waiters = text.partition(records.WAITERS)
        if listed:
            self.waiters.said = waiters, moment, time.monotonic()
        lines = said.splitlines()
        self._over = lines[:over]
        return dict(line.split(" ", 1) for line in lines[over:])

    def _ask_script(self, step: dict[str, Any], about: Sequence[Scope]) -> bytes:
        old = self.trackers.seen_at(about)

        def command(again: bool) -> bytes:
            renewed = self.server.connected != self._connected
            self._connected = self.server.connected
            known = self.trackers.stamp
            step["seen"] = 0 if renewed else known
            if renewed and known:
                step["known"] = known
            if old < step["seen"]:
                step["old"] = old
            if again:
                step["again"] = True
            if "number" not in step or "again" in step:
                step["want"] = [str(tracker.number) for tracker in about if tracker.number]
            texts = self.changes.texts if "number" in step else ()
            parts = (self._head, part_of(text_of(step)), *map(part_of, texts))
            return b"*%d\r\n%b" % (_HEAD_PARTS + len(parts), b"".join(parts))

        while True:
            try:
                if not self._head:
                    self._head = self._load()
                reply: bytes = self.server.patiently(command)
                return reply
            except NotLoaded:
                self._head = b""

    def _load(self) -> bytes:
        """Load the script and return the beginning of every command."""
        digest = self.server.call("SCRIPT", "LOAD", script("step"))
        keys = self.keys.all
        head = ("EVALSHA", digest, len(keys), *keys, self.keys.channel, SCHEMA, self.client, _OTHERS, self._born)
        return b"".join(map(part_of, head))

    def _failure(self, outcome: str) -> Exception:
        """The error for a step that the server did not write."""
        if outcome in _CONFLICTS:
            return _CONFLICTS[outcome]()
        if outcome == "large":
            return LLMConfigurationError(f"A figure is too large for a budget in Redis, which counts up to {MOST:,}.")
        if outcome in _LASTING:
            self._gone = LLMStoreError(
                f"The budget store {self.terms.shown} cannot be used: {_LASTING[outcome]}. Open the budget again to "
                "continue with its present state.",
                store=self.terms.shown,
            )
            return self._gone
        return store_error(self.terms.url, _PASSING.get(outcome, outcome).format(self.terms.name))

    def disconnect(self) -> None:
        self.server.close()

    def leave_connection(self) -> None:
        self.server.close()
        self.trackers.forget()
        self._start()

    # Waiting callers.

    def listen(self) -> None:
        self._listener.start()

    @property
    def waited_for(self) -> bool:
        """True if a caller waits for budget that another process may free."""
        return self.line.busy_here and not self.closed

    def notice(self) -> None:
        """Note that another process may have freed budget."""
        self._looked_at = 0.0
        self.keep_working()

    def come_due(self) -> bool:
        now, self._renews = time.monotonic(), self.leases.due
        waits = self.line.busy_here and (self.waiters.due or now >= self._looked_at + self._look_seconds)
        if self._renews or waits:
            self._looked_at = now
        return self._renews or waits

    def looked(self) -> None:
        if self._renews and not self.leases.needed:
            self.leases.give_up()

    @property
    def pause(self) -> float:
        return min(self.leases.pause, self._look_seconds) if self.line.busy_here else self.leases.pause

    @property
    def _look_seconds(self) -> float:
        """The seconds until the worker looks at waiting callers again, at the latest when a window may open."""
        return min(_LOOK_SECONDS, max(0.0, self.next_window))

    def __del__(self) -> None:
        worker = self.__dict__.get("worker")
        if worker is not None and worker.running:
            worker.put_end()


class Listener:
    """A thread with its own connection, which runs while a caller waits."""

    def __init__(self, session: ServerSession) -> None:
        self._session = weakref.ref(session)
        self._thread: threading.Thread | None = None
        self._starting = StartLock()

    def start(self) -> None:
        """Start the thread unless it runs."""
        lock = self._starting.take()
        try:
            if self._thread is None:
                listening = DaemonThread(self._run, name="llm-connect listener")
                listening.start()
                self._thread = listening if listening.is_alive() else None
        finally:
            lock.release()

    def _run(self) -> None:
        while (session := self._wanted()) is not None:
            try:
                place = session.server.new_connection(), session.keys.channel, session.client.encode()
                del session
                self._listen(*place)
            except Exception as error:
                log_event(POLLED, error=type(error).__name__)
                time.sleep(_RETRY_SECONDS)

    def _wanted(self) -> ServerSession | None:
        """The session if a caller waits. If none does, the thread ends, and the next waiter starts another."""
        lock = self._starting.take()
        try:
            session = self._awaiting()
            if session is None:
                self._thread = None
            return session
        finally:
            lock.release()

    def _listen(self, connection: Any, channel: str, client: bytes) -> None:
        try:
            connection.connect()
            connection.send_command("SUBSCRIBE", channel)
            while self._awaiting() is not None:
                if connection.can_read(timeout=_CHECK_SECONDS):
                    self._hear(connection.read_response(), client)
        finally:
            with suppress(Exception):
                connection.disconnect()

    def _hear(self, message: Any, client: bytes) -> None:
        session = self._awaiting()
        if session is not None and not (message[0] == b"message" and message[2] == client):
            session.notice()

    def _awaiting(self) -> ServerSession | None:
        """The session if one of its callers waits. The thread keeps no session alive."""
        session = self._session()
        return session if session is not None and session.waited_for else None


class _Missing(Again):
    """The server has lost a hold, although its lease is still there."""


#: The reasons of the script for which a process decides its step again.
_CONFLICTS = {"missing": _Missing, "lost": Again, "again": Again}
#: Reasons after which a process must open the budget again.
_LASTING = {
    "gone": "it has lost the budget",
    "other": "it has lost the budget, and another one has been created there since",
    "older": "a failover or a backup has undone some of its steps, so it may have lost spend",
}
#: Reasons that may pass.
_PASSING = {
    "schema": "budget {!r} was created by another version of llm-connect",
    "unknown": "it has lost a tracker of budget {!r}",
}
