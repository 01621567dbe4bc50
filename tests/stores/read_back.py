"""Reads a store through the command, and compares the result with the figures of its writer."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable
from typing import Any

from llm_connect.budget.accounting.accounts import Account
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.command import main
from llm_connect.types.amounts import usd_of

UNITS_SHOWN = ("tokens", "calls", "usd")


def said(*arguments: str) -> Any:
    """The JSON that the command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*arguments, "--json"]) == 0
    return json.loads(printed.getvalue())


def assert_written(url: str, root: BudgetTracker, trackers: Iterable[BudgetTracker]) -> None:
    """Check that the store has the figures of each tracker, all open holds, and entries that add up to the spend."""
    spent = root.snapshot().spent
    shown = said("show", url, root.name)
    names = ("path", "closed", *UNITS_SHOWN)
    rows = [{name: row[name] for name in names} for row in shown["trackers"]]
    for tracker in trackers:
        tracker.snapshot()
        assert not tracker.number or row_of(tracker) in rows, (row_of(tracker), rows)
    held = [sum(hold[unit] for hold in shown["holds"]) for unit in ("tokens", "calls")]
    assert held == [account.held for account in root.own_accounts[:2]]
    entries = said("ledger", url, root.name, "--last", "1000000")
    assert [sum(entry[unit] for entry in entries) for unit in ("tokens", "calls")] == [*spent[:2]]


def row_of(tracker: BudgetTracker) -> dict[str, Any]:
    """The row of a tracker in the command's output; a closed one may have the path of another one."""
    accounts = {name: figures(account) for name, account in zip(UNITS_SHOWN, tracker.own_accounts, strict=True)}
    # Closing the root closes it in this process, not in the store.
    closed = tracker.closed_itself and tracker.parent is not None
    return {"path": tracker.path, "closed": closed, **accounts}


def figures(account: Account) -> dict[str, Any]:
    """The figures of an account, as the command prints them."""
    names = ("limit", "spent", "held", "left", "presumed", "allotted")
    found = {name: getattr(account, name) for name in names}
    if account.unit != "usd":
        return found
    return {name: None if figure is None else f"{usd_of(figure):f}" for name, figure in found.items()}
