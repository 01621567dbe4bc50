"""The allotments that the processes of a store have open, each under the lease of its process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_connect.budget.admission.allotments import Allotments

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.stores.ports import StoreParts


class StoredAllotments:
    """The open allotments of all processes. The current step writes their changes."""

    def __init__(self, session: StoreParts) -> None:
        self._session = session
        self._inner = Allotments()

    def open(self, share: Scope) -> bool:
        """Set the limits of `share` aside above it. False if they do not fit now."""
        session = self._session
        opened = self._inner.open(share)
        if opened:
            session.trackers.number_of(share)
            session.changes.note_allotment(share, session.leases.have().number)
        session.changes.note_trackers(share.lineage)
        return opened

    def close(self, tracker: Scope) -> None:
        """Close `tracker` and return the allotments below it. A root closes only for its own process."""
        session = self._session
        tracker.closed_itself = True
        if tracker.parent is not None:
            session.changes.note_trackers((tracker,))
            self._close(tracker)
        elif session.leases.own is not None:
            self.close_of(session.leases.own.number)
            if not session.leases.open_holds:
                session.leases.give_up()

    def close_of(self, lease: object) -> None:
        """Return the allotments that a process has open under this lease."""
        for tracker in self._session.trackers.open_allotments(lease=lease):
            tracker.closed_itself = True
            self._close(tracker)

    def _close(self, tracker: Scope) -> None:
        """Return the open allotments at `tracker` and below it, of all processes."""
        session = self._session
        closed = session.trackers.open_allotments(at=tracker)
        self._inner.opened[:] = closed
        self._inner.close(tracker)
        for share in sorted(closed, key=lambda share: -len(share.lineage)):
            session.changes.note_trackers(share.lineage)
            session.changes.note_allotment(share, None)
