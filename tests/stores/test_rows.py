"""The rows of stores."""

from __future__ import annotations

from llm_connect import BudgetTracker, Usage
from llm_connect.stores.serialization import entry_of, entry_values


def test_the_row_of_an_ended_hold_is_that_of_its_entry() -> None:
    """Both ways of making a row agree for every end, and the entry can be read back."""
    tracker = BudgetTracker(total_usd=1).child("a")
    settled = tracker.reserve(50, usd="0.1", adapter="own", model="m", labels={"task": "x"})
    settled.request_id = "r"
    settled.settle(usage=Usage(prompt_tokens=3, completion_tokens=4), usd="0.02", cost_source="provider", model="m-1")
    presumed, released, plain = (tracker.reserve(5, usd=0) for _ in range(3))
    presumed.presume()
    released.release()
    plain.settle(5)
    for hold in (settled, presumed, released, plain):
        assert hold.entry is not None
        assert entry_values(hold) == entry_values(hold.entry)
        assert entry_of(entry_values(hold)) == hold.entry
