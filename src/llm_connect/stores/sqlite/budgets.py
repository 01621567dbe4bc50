"""Finding and creating budgets in a file."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from llm_connect.budget.accounting.windows import Window
from llm_connect.budget.admission.clocks import wall_clock
from llm_connect.budget.admission.controller import Gate
from llm_connect.errors import LLMStoreError
from llm_connect.stores.sqlite.rows import FIND_BUDGET, NEW_BUDGET, NEW_ROOT
from llm_connect.stores.sqlite.schema import begin, connect, store_error, url_of
from llm_connect.stores.sqlite.session import FileSession
from llm_connect.stores.sqlite.terms import FileTerms
from llm_connect.stores.sqlite.windows import write_window

if TYPE_CHECKING:
    from llm_connect.budget.accounting.arguments import Limits
    from llm_connect.budget.accounting.periods import Period
    from llm_connect.budget.admission.controller import OnUnknown


def session_of(terms: FileTerms) -> FileSession:
    """A session of an existing budget."""
    with closing(connect(terms.path, terms.busy_seconds)) as connection:
        row = _found(connection, terms.name)
    if row is None:
        raise LLMStoreError(f"{url_of(terms.path)} has no budget {terms.name!r}: create it with open_budget.")
    budget, on_unknown, root = row
    session = FileSession(terms, budget, root)
    Gate(terms.keep_entries, on_unknown, terms.sink, session=session)
    return session


def make(terms: FileTerms, limits: Limits, period: Period | None, on_unknown: OnUnknown) -> bool:
    """Create the budget; return False if it exists."""
    try:
        with closing(connect(terms.path, terms.busy_seconds)) as connection:
            if _found(connection, terms.name) is not None:
                return False
            begin(connection, terms.busy_seconds)
            if _found(connection, terms.name) is not None:
                return False
            values = (terms.name, on_unknown, time.time())
            budget = connection.execute(NEW_BUDGET, values).lastrowid
            root = connection.execute(NEW_ROOT, (budget, terms.name, terms.name, *limits)).lastrowid
            assert root is not None
            write_window(connection, root, None if period is None else Window(period, wall_clock))
            connection.execute("COMMIT")
            return True
    except sqlite3.Error as error:
        raise store_error(terms.path, error) from None


def _found(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(FIND_BUDGET, (name,)).fetchone()
