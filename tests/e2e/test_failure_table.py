"""The failure table, row by row: the error, the requests at the server, and what becomes of each hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_connect import (
    LLMAPIError,
    LLMBudgetExceededError,
    LLMBudgetWaitError,
    LLMError,
    LLMResponse,
    LLMResponseError,
    LLMStoreError,
)
from llm_connect.engine import exchange
from llm_connect.testing import EmbeddedProvider
from tests.e2e.failure_play import MAX_RETRIES, Play, Played, plays
from tests.e2e.failure_table import TABLE

DOCUMENT = Path(__file__).parents[2] / "docs" / "adapters.md"
SECTION = re.compile(r"^## What goes wrong, and what you get$(.*?)^## ", re.MULTILINE | re.DOTALL)
NAMED_BY_ID = ("openai", "openrouter", "claude-code")


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedProvider]:
    """A running provider; pauses between attempts are short."""
    monkeypatch.setattr(exchange, "_FIRST_PAUSE_SECONDS", 0.01)
    with EmbeddedProvider() as running:
        yield running


@pytest.mark.parametrize("play", plays())
def test_a_row_is_so(play: Play, provider: EmbeddedProvider, tmp_path: Path) -> None:
    """A failure has its class, its number of requests, its text and its entry for each attempt; nothing stays held.

    (ERROR-3, WIRE-11)
    """
    played = play.run(provider, tmp_path)
    attempts = attempts_of(play)
    assert [entry.outcome for entry in played.tracker.ledger] == [play.row.hold] * attempts
    assert len(provider.requests) == attempts * play.case.requests
    check_books(played)
    if isinstance(played.result, LLMError):
        check_error(play, played.result, played)
    else:
        check_response(play, played.result)


def attempts_of(play: Play) -> int:
    if play.row.hold is None:
        return 0
    return 1 + MAX_RETRIES if play.row.repeated else 1


def check_books(played: Played) -> None:
    """Nothing is held, the entries add up, and no request cost more than is booked."""
    tracker, meter = played.tracker, played.provider.meter
    assert (tracker.held, tracker.held_calls) == (0, 0)
    assert tracker.spent == sum(entry.amount.tokens for entry in tracker.ledger)
    assert tracker.spent >= meter.total_tokens
    for entry in tracker.ledger:
        expected = {"released": 0, "presumed": entry.bound.tokens}
        assert entry.amount.tokens == expected.get(entry.outcome, entry.usage and entry.usage.total_tokens)


def check_error(play: Play, error: LLMError, played: Played) -> None:
    """The class, what it knows, and a line that says what to do."""
    row, behaviour = play.row, play.case.behaviour_at(play.adapter)
    assert type(error) is row.kind, error
    assert error.attempts == attempts_of(play)
    assert error.maybe_billed is (row.hold not in (None, "released"))
    if row.hold is not None:
        assert str(error).startswith(f"{play.adapter} test-model: ")
        assert error.booked is not None
        assert error.booked.tokens == played.tracker.spent
    assert row.says in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 600
    asked = behaviour.retry_after if play.case.retry_after is None else play.case.retry_after
    assert error.retry_after == asked
    replied = isinstance(error, LLMAPIError)
    if play.adapter in NAMED_BY_ID and replied and behaviour.redirect is None:
        assert error.request_id


def check_response(play: Play, response: LLMResponse) -> None:
    """A call that ends well all the same has what its row says."""
    assert play.row.kind is None, response
    signs = {
        "a `hint`": "hint" in response.metadata,
        "`usage.estimated`": response.usage.estimated,
        '"length"': response.finish_reason == "length",
        '"content_filter"': response.finish_reason == "content_filter",
        "empty `content`": response.content == "",
        "it is ignored": response.content == "hi",
        "all of it booked": response.usage.completion_tokens == 48,
    }
    assert [shown for sign, shown in signs.items() if sign in str(play.row.outcome)] == [True]


def test_the_documented_table_is_this_one() -> None:
    """docs/adapters.md has exactly the rows of the failure table, in their order."""
    section = SECTION.search(DOCUMENT.read_text(encoding="utf-8"))
    assert section is not None
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    assert lines[:2] == ["| what happens | error | repeated | sent? | the hold |", "|---|---|---|---|---|"]
    assert lines[2:] == [row.documented for row in TABLE]


def test_every_error_class_has_a_row() -> None:
    """No class of error is without a row, and no class stands in for its subclasses unseen.

    LLMStoreError and LLMBudgetWaitError are no provider's failures, and have tests of their own.
    """
    kinds = {row.kind for row in TABLE if row.kind is not None} | {LLMStoreError, LLMBudgetWaitError}
    kinds.add(LLMBudgetExceededError)
    assert kinds == {kind for kind in subclasses(LLMError) if kind.__module__ == "llm_connect.errors"}
    assert LLMResponseError in kinds


def subclasses(kind: type[LLMError]) -> set[type[LLMError]]:
    """All classes below a class."""
    return {found for child in kind.__subclasses__() for found in (child, *subclasses(child))}
