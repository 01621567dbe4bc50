"""Upper bounds on the usage of a call, before it is sent."""

from __future__ import annotations

import enum
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_connect.budget.accounting.accounts import Path, accounts_of
from llm_connect.budget.accounting.bounds import Bound, BoundDemand, normalized_utf8_bytes, utf8_bytes
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.amounts import Amount

ANY_TEXT = st.text(st.characters())


@given(st.text())
def test_text_counts_its_bytes(text: str) -> None:
    """A byte-level tokenizer never makes more tokens than bytes."""
    assert utf8_bytes(text) == len(text.encode())


@given(ANY_TEXT)
def test_normalized_text_counts_the_longer_form(text: str) -> None:
    """For SentencePiece, the longer of the text and its NFKC form counts, plus one for the start token."""
    longer = max(utf8_bytes(text), utf8_bytes(unicodedata.normalize("NFKC", text)))
    assert normalized_utf8_bytes(text) == (longer + 1 if text else 0)


def test_halves_of_characters_count() -> None:
    """Text that UTF-8 cannot encode has a bound, too; None and empty text count 0."""
    assert utf8_bytes("\ud800") == 3
    assert utf8_bytes(None) == utf8_bytes("") == normalized_utf8_bytes(None) == 0
    assert normalized_utf8_bytes("\ufdfa") == 34


def test_a_bound_adds_up() -> None:
    """The total is the input, plus the output limit for each possible use of it."""
    bound = Bound(prompt_tokens=7, max_tokens=100, outputs=3, calls=2)
    assert (bound.completion_tokens, bound.total_tokens) == (300, 307)
    assert bound.amount_at(10) == Amount(37, 2)
    assert bound.grade == "estimated"


FIGURES = ("prompt_tokens", "max_tokens", "outputs", "calls", "least_max_tokens")


@pytest.mark.parametrize("field", FIGURES)
@pytest.mark.parametrize("value", [-1, 2.5, True, None, "3"])
def test_a_bound_of_anything_but_whole_numbers_is_refused(field: str, value: Any) -> None:
    """A fraction would make sums inexact, and a negative bound would lift the cap (BUDGET-1)."""
    with pytest.raises(LLMConfigurationError, match=f"^{field} must be a whole number of at least 0, not "):
        Bound(**{"prompt_tokens": 1, "max_tokens": 1, field: value})


@pytest.mark.parametrize("field", FIGURES)
def test_a_kind_of_int_is_a_whole_number(field: str) -> None:
    """A member of an IntEnum counts as its number, 0 included."""

    class Size(enum.IntEnum):
        NONE = 0

    assert getattr(Bound(**{"prompt_tokens": 1, "max_tokens": 1, field: Size.NONE}), field) == 0


def test_the_default_bound_is_bytes_and_the_output_limit() -> None:
    """By default an adapter's bound is the bytes of its prompts and the output limit, or 2,000 tokens."""
    adapter = MockLLMAdapter()
    bound = adapter.bound("héllo", RunConfig(system_prompt="be", max_tokens=50))
    assert (bound.prompt_tokens, bound.max_tokens) == (8, 50)
    assert adapter.bound("x", RunConfig()).max_tokens == 2_000


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 30))
def test_an_elastic_demand_takes_the_largest_limit_that_fits(free: int, least: int, more: int) -> None:
    """A demand that may shrink takes the largest output limit that fits, and never one below the floor."""
    path = Path(accounts_of("a", (free + 1, None, None)))
    path.units[0][0].spent = 1
    bound = Bound(prompt_tokens=5, max_tokens=least + more)
    demand = BoundDemand(bound, least, None)
    taken = demand.take(path)
    good = [limit for limit in range(least, least + more + 1) if 5 + limit <= free]
    assert taken == ((Amount(5 + good[-1], 1), good[-1]) if good else None)
    assert demand.smallest == Amount(5 + least, 1)


def test_the_sum_of_a_bound_is_an_amount_that_every_store_counts() -> None:
    """Even if each part is small enough, a sum that is too large for a store is refused. (BUDGET-72)"""
    with pytest.raises(LLMConfigurationError, match="total_tokens"):
        Bound(prompt_tokens=10**15, max_tokens=10**15)
