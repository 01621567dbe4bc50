"""While the store is lost, nothing is sent; earlier calls are booked afterwards."""

from __future__ import annotations

import contextvars
import time
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from llm_connect.budget.admission.holds import Ending
from llm_connect.errors import LLMConfigurationError, LLMStoreError
from llm_connect.stores.opening import open_budget
from llm_connect.types.amounts import Amount
from tests.budget.budget_helpers import at_rest, until
from tests.stores.looking import session_of
from tests.stores.losing import Store

pytestmark = pytest.mark.usefixtures("quiet")


def hold_of(budget: Any, tokens: int) -> Any:
    """Reserve a hold that does not belong to the caller, so that the caller may wait for it."""
    return contextvars.Context().run(budget.reserve, tokens)


def test_an_outage_sends_nothing_and_loses_nothing(store: Store) -> None:
    """Reserving and dispatching raise an error that names the store; earlier calls are booked afterwards (STORE-10)."""
    budget = store.open()
    reserved, dispatched = hold_of(budget, 60), hold_of(budget, 50)
    dispatched.dispatch()
    store.lose(budget)
    for use in (lambda: budget.reserve(1), reserved.dispatch, budget.snapshot):
        with pytest.raises(LLMStoreError, match="cannot be used") as caught:
            use()
        assert (caught.value.store, caught.value.maybe_billed) == (store.url, False)
    dispatched.settle(44)
    store.give()
    until(lambda: spent(budget) == 44)
    reserved.release()
    at_rest(budget)


def test_what_may_have_failed_by_itself_is_tried_again_with_pauses(store: Store) -> None:
    """While the store is lost, the worker pauses between two tries at a suspect note, and books it later (STORE-19)."""
    budget = store.open()
    hold = hold_of(budget, 50)
    hold.dispatch()
    session: Any = session_of(budget)
    tries, do = list[float](), session._do_suspects
    session._do_suspects = lambda: (tries.append(time.monotonic()), do())
    store.lose(budget)
    session._suspect(partial(session.gate._end, hold, Ending("settled", Amount(44, 1, 0))))
    until(lambda: len(tries) == 4)
    assert min(after - before for before, after in pairwise(tries)) > 0.5
    store.give()
    until(lambda: spent(budget) == 44)
    at_rest(budget)


def spent(budget: Any) -> int:
    """The booked tokens, or -1 while the store is lost."""
    try:
        return int(budget.snapshot().spent.tokens)
    except LLMStoreError:
        return -1


@pytest.mark.parametrize("removed", [{"on_store_error": "slice"}, {"on_store_error": "refuse"}, {"slice_share": 0.1}])
def test_what_was_removed_says_what_to_do(url: str, removed: Any) -> None:
    """The error for a removed argument explains the present behaviour and the alternative."""
    with pytest.raises(LLMConfigurationError, match=r"leave it out.*LLMStoreError.*BudgetTracker\(total="):
        open_budget(url, total=5, **removed)
    with pytest.raises(TypeError, match="unexpected keyword argument 'totl'"):
        open_budget(url, totl=5)


def test_an_outage_costs_its_first_call_alone_some_patience(store: Store) -> None:
    """After the first call, each call fails at once with LLMStoreError until the store is back (STORE-22)."""
    budget = store.open()
    store.lose(budget)
    with pytest.raises(LLMStoreError):
        budget.reserve(1)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(LLMStoreError, match="cannot be used") as caught:
            budget.reserve(1)
        assert type(caught.value) is LLMStoreError
    # Without this rule, each of them would have waited for half a second.
    assert time.monotonic() - began < 5
    store.give()
    until(lambda: spent(budget) == 0)
    budget.consume(5)
    assert budget.snapshot().spent.tokens == 5
    at_rest(budget)
