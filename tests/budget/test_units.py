"""The units of a budget, and amounts of them."""

from __future__ import annotations

import decimal
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_connect.budget.accounting.prices import nano_usd_of
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount, plain, shown, usd_of

WHOLE = st.integers(-(10**30), 10**30)


@given(st.tuples(WHOLE, WHOLE, WHOLE), st.tuples(WHOLE, WHOLE, WHOLE))
def test_amounts_add_and_subtract_exactly(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    """Adding an amount and subtracting it again changes nothing."""
    assert Amount(*one).plus(Amount(*other)).minus(Amount(*other)) == Amount(*one)
    assert Amount(*one).plus(NOTHING) == Amount(*one)


def test_figures_may_be_replaced() -> None:
    """`but` replaces the given figures and keeps the others."""
    assert Amount(1, 2, 3).but(None, 5, None) == Amount(1, 5, 3)


@pytest.mark.parametrize(
    ("value", "nano_usd"),
    [
        (1, 1_000_000_000),
        ("0.5", 500_000_000),
        (Decimal("0.000000001"), 1),
        (Decimal("0.0000000001"), 1),
        (0.1, 100_000_000),
        (0, 0),
        ("1e-9999999999", 1),
        ("0.0000000011", 2),
    ],
)
def test_usd_becomes_whole_nano_usd_rounded_up(value: Any, nano_usd: int) -> None:
    """Money is whole nano-USD, never less than the given amount; a float has the value of its repr."""
    assert nano_usd_of("usd", value) == nano_usd


class _Half(float):
    def __repr__(self) -> str:
        return "half"


def test_a_kind_of_float_is_a_float() -> None:
    """A float subclass whose repr is not a number counts as its float value."""
    assert nano_usd_of("usd", _Half(0.5)) == 500_000_000


@pytest.mark.parametrize("value", [-1, "-0.1", "abc", float("nan"), float("inf"), True, None, [], "1e9999999999"])
def test_what_is_no_amount_is_refused(value: Any) -> None:
    """A text that is not a number, a negative amount and an infinite one are refused by name."""
    with pytest.raises(LLMConfigurationError, match="usd must be"):
        nano_usd_of("usd", value)


@given(st.integers(0, 10**40), st.integers(1, 50))
def test_no_decimal_context_changes_money(nano_usd: int, precision: int) -> None:
    """Converting money there and back changes nothing, at any precision of the thread."""
    with decimal.localcontext() as context:
        context.prec = precision
        context.traps[decimal.Inexact] = True
        assert nano_usd_of("usd", usd_of(nano_usd)) == nano_usd
        assert Amount(nano_usd=nano_usd).usd == usd_of(nano_usd)


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("tokens", 1_200, "1,200 tokens"),
        ("tokens", 1, "1 token"),
        ("calls", 1, "1 call"),
        ("calls", 0, "0 calls"),
        ("usd", 2_100_000, "0.0021 USD"),
        ("usd", 10_000_000_000, "10 USD"),
        ("usd", 0, "0 USD"),
    ],
)
def test_figures_are_shown_as_a_person_reads_them(unit: Any, value: int, text: str) -> None:
    """One is singular, thousands are grouped, and money has no trailing zeros."""
    assert shown(unit, value) == text


@pytest.mark.parametrize(
    ("amount", "text"), [("10", "10"), ("1E+3", "1000"), ("100.00", "100"), ("0.0500", "0.05"), ("0E-9", "0")]
)
def test_only_zeros_behind_the_point_are_left_out(amount: str, text: str) -> None:
    """A whole number keeps its zeros, in any notation of the Decimal."""
    assert plain(Decimal(amount)) == text
