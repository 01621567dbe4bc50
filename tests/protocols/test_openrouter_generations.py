"""What OpenRouter tells of a generation."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from llm_connect import Usage
from llm_connect.protocols.openrouter_replies import Generation, generation_in, path_of
from llm_connect.protocols.wire import Failure, Reply

#: As in OpenRouter's API reference.
TOLD = {
    "id": "gen-3bhGkxlo4XFrqiabUM7NDtwDzWwG",
    "model": "sao10k/l3-stheno-8b",
    "total_cost": 0.0015,
    "upstream_inference_cost": 0.0012,
    "is_byok": False,
    "cancelled": False,
    "tokens_prompt": 11,
    "tokens_completion": 24,
    "native_tokens_prompt": 10,
    "native_tokens_completion": 25,
    "native_tokens_reasoning": 5,
    "native_tokens_cached": 3,
}


def told(**fields: Any) -> Generation | Failure:
    return generation_in(Reply(200, {}, json.dumps({"data": TOLD | fields}).encode()))


def test_the_reference_is_read() -> None:
    """Native tokens are what is billed; parts are parts of them. (PROVIDER-30)"""
    usage = Usage(prompt_tokens=10, completion_tokens=25, cached_tokens=3, reasoning_tokens=5)
    assert told() == Generation(
        request_id=TOLD["id"],  # type: ignore[arg-type]
        model="sao10k/l3-stheno-8b",
        usage=usage,
        cost=Decimal("0.0015"),
        cancelled=False,
    )


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({"is_byok": True}, Decimal("0.0027")),
        ({"is_byok": True, "upstream_inference_cost": None}, None),
        ({"total_cost": None}, None),
        ({"total_cost": 0}, Decimal(0)),
        ({"total_cost": -1}, None),
        ({"total_cost": "x"}, None),
    ],
)
def test_the_cost_is_what_is_paid(fields: dict[str, Any], cost: Decimal | None) -> None:
    """With a key of one's own, fee and price; what is not told is unknown. (PROVIDER-30)"""
    generation = told(**fields)
    assert isinstance(generation, Generation)
    assert generation.cost == cost


def test_a_cancelled_one_says_so() -> None:
    """What was cancelled is told with what it came to."""
    generation = told(cancelled=True, native_tokens_completion=None)
    assert isinstance(generation, Generation)
    assert (generation.cancelled, generation.usage.total_tokens) == (True, 15)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"data": 5}', b'{"data": {}}', b"{}"])
def test_what_says_nothing_is_a_failure(body: bytes) -> None:
    """It is no generation of zero tokens."""
    assert isinstance(generation_in(Reply(200, {}, body)), Failure)


@pytest.mark.parametrize(("status", "body"), [(404, b""), (200, b'{"error": {"code": 404, "message": "x"}}')])
def test_an_unknown_one_may_come_later(status: int, body: bytes) -> None:
    """A 404 is worth another try. (PROVIDER-30)"""
    failure = generation_in(Reply(status, {}, body))
    assert isinstance(failure, Failure)
    assert failure.retryable


def test_another_failure_keeps_its_words() -> None:
    """A 400 is not asked again."""
    failure = generation_in(Reply(400, {}, b'{"error": {"code": 400, "message": "odd"}}'))
    assert isinstance(failure, Failure)
    assert (failure.retryable, "odd" in failure.message) == (False, True)


def test_an_id_cannot_change_the_address() -> None:
    """It is quoted whole."""
    assert path_of("gen-a/b?c=d&e #é") == "/generation?id=gen-a%2Fb%3Fc%3Dd%26e%20%23%C3%A9"
