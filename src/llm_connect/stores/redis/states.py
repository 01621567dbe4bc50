"""What stands in a server of a tracker: its state, as one line of text."""

from __future__ import annotations

from llm_connect.core.limits import Limits
from llm_connect.stores.rows import Row

#: What a number of Lua counts exactly.
MOST = 2**53 - 1


def state_text(*, closed: bool, limits: Limits) -> str:
    """The state of a tracker that has spent and held nothing."""
    figures = (f"{'-' if limit is None else limit} 0 0 0 0" for limit in limits)
    return f"{int(closed)} - {' '.join(figures)}"


def state_of(words: list[str]) -> Row:
    """Closed, the lease of a slice, and for each unit limit, spent, held, presumed and sliced."""
    closed, lease, *figures = words
    return (
        int(closed),
        None if lease == "-" else lease,
        *(None if figure == "-" else int(figure) for figure in figures),
    )
