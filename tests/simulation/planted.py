"""Faults planted in the library, each of which the simulation must find."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from llm_connect.budget.admission.controller import Gate
from llm_connect.budget.admission.holds import RELEASED, Hold
from llm_connect.stores.parts import Changes, Leases
from llm_connect.stores.redis.records import ServerEntries, ServerLeases
from llm_connect.stores.redis.session import ServerSession
from llm_connect.stores.session import StoreSession
from llm_connect.stores.sqlite.rows import FileLeases
from llm_connect.stores.sqlite.session import BudgetFile
from llm_connect.types.amounts import NOTHING


@dataclass(frozen=True)
class Fault:
    """A fault in the script of the server, or in place of methods of the library."""

    #: Texts of the script, each with what replaces it.
    script: tuple[tuple[str, str], ...] = ()
    methods: tuple[tuple[type, str, Any], ...] = ()
    #: The store whose processes must find it.
    store: str = "server"

    def changes(self, text: str) -> str:
        """The text of a script with the fault."""
        for right, wrong in self.script if text.startswith("-- One step of a process") else ():
            assert text.count(right) == 1, right
            text = text.replace(right, wrong)
        return text

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Plant the fault in the library."""
        with ExitStack() as stack:
            for owner, name, method in self.methods:
                stack.enter_context(mock.patch.object(owner, name, method))
            yield


def dispatch_in_memory(gate: Gate, hold: Any) -> bool:
    """Mark a hold as dispatched without a step: the byte leaves before the store knows."""
    hold.stay_dispatched(True)
    return True


def end_late_twice(leases: Leases, hold: Any, ending: Any) -> bool:
    """Record a late end besides correcting the presumption of its hold."""
    found = right_end_late(leases, hold, ending)
    if ending.amount != NOTHING:
        leases._session.books.record(hold.tracker, ending.amount, hold.facts)
    return found


def post_releases_twice(entries: ServerEntries, line: Any, posting: Any) -> None:
    """Add the entry of a released hold twice."""
    right_post(entries, line, posting)
    if isinstance(line, Hold) and line.ending is RELEASED:
        right_post(entries, line, posting)


def begin_on_a_copy(session: ServerSession, informed: bool) -> None:
    """Decide on the copy of this process even where the present state is needed."""
    session.fresh = True
    right_begin(session, informed=session.stale)


def undo_without_notes(session: StoreSession, error: BaseException, told: Any = None) -> None:
    """Forget the notes of a step that is undone."""
    session._worked_off.clear()
    right_undo(session, error, told)


def release_hold(leases: Leases, lease: Any, row: Any) -> None:
    """Release even the dispatched holds of a lease that has ended."""
    number, of_lease, tracker, _, *rest = row
    right_end_hold(leases, lease, (number, of_lease, tracker, "reserved", *rest))


def disconnect_in_part(file: BudgetFile) -> None:
    """Compare the version that a new connection counts with that of the old one."""
    version = file.version
    right_disconnect(file)
    file.version = version


right_post = ServerEntries.post
right_disconnect = BudgetFile.disconnect
right_begin = ServerSession.begin
right_end_hold = Leases._end_hold
right_end_late = Leases.end_late
right_undo = StoreSession.undo

#: The checks of the script that fail for a hold, or a lease, that is over.
ENDED = "if hold[2] == 1 and call('HEXISTS', HOLDS, hold[1]) == 0 then"
OVER = "if not ends or (tonumber(ends) > now and not step.own) then return 'again' end"
STALE = "if needs and not fits(hold[3], needs) then return 'again' end"
SENT_AGAIN = "if number == step.number then return reply(true, first) end"
CORRECTED = "if call('HEXISTS', OPEN, corrects[at]) == 0 then return 'again' end"
OWN_RECORD = "if step.own then call('HDEL', LASTS, CLIENT) end"
EVERY_RECORD = "call('HDEL', LASTS, cjson.decode(call('HGET', OWNERS, lease_over))[3])"
RETURNED = "for unit = 1, 3 do amounts[unit] = -aside(of, FIRST[unit]) end"

PLANTED = {
    "a lost fence": Fault((("if not ends or tonumber(ends) <= now then return step", "if false then return step"),)),
    "a lease that ends twice": Fault(((ENDED, "if false then"), (OVER, ""))),
    "a grant on an old copy": Fault(((STALE, ""),)),
    "a step that counts twice when its reply was lost": Fault(((SENT_AGAIN, ""),)),
    "a record of a step that ends with its lease": Fault(((OWN_RECORD, EVERY_RECORD),)),
    "a presumption that is corrected twice": Fault(((CORRECTED, ""),)),
    "an allotment that keeps its rest": Fault(((RETURNED, ""),)),
    "a dispatch that is not written": Fault(methods=((Gate, "dispatch", dispatch_in_memory),)),
    "a late settle that counts twice": Fault(methods=((Leases, "end_late", end_late_twice),)),
    "a release that is booked twice": Fault(methods=((ServerEntries, "post", post_releases_twice),)),
    "a refusal on an old copy": Fault(methods=((ServerSession, "begin", begin_on_a_copy),)),
    "a forgotten undo of holds": Fault(methods=((Changes, "undo", Changes.clear),)),
    "forgotten notes of an undone step": Fault(methods=((StoreSession, "undo", undo_without_notes),)),
    "a lost reply that is taken for a lost request": Fault(
        methods=((ServerSession, "_may_be_written", lambda session, error: False),)
    ),
    "a dead process whose requests count as unsent": Fault(methods=((Leases, "_end_hold", release_hold),)),
    "a lease that nobody renews": Fault(methods=((ServerLeases, "due", False),)),
    "a lease in a file that nobody renews": Fault(methods=((FileLeases, "due", False),), store="file"),
    "a connection that starts with old figures": Fault(
        methods=((BudgetFile, "disconnect", disconnect_in_part),), store="file"
    ),
    "a hold of a file that is presumed by nobody": Fault(methods=((Leases, "_end_hold", release_hold),), store="file"),
    "a late settle of a file that counts twice": Fault(methods=((Leases, "end_late", end_late_twice),), store="file"),
}
