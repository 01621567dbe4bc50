"""RunConfig, LLMResponse and Usage: the values that they accept and refuse, and their guarantees."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import pickle
from decimal import Decimal
from typing import Any

import pytest

from llm_connect import LLMConfigurationError, LLMResponse, RunConfig, Usage
from llm_connect.interface.attempt import check_prompt
from llm_connect.types.response import FINISH_REASONS


def test_total_is_the_sum_of_prompt_and_completion() -> None:
    """The total is derived, and the parts of the input and output are not added to it. (MODEL-1)"""
    usage = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=6, cache_write_tokens=1, reasoning_tokens=4)
    assert usage.total_tokens == 12


def test_usage_as_dict_has_every_field_and_the_total() -> None:
    """`to_dict` loses no field and adds the total."""
    usage = Usage(prompt_tokens=1, completion_tokens=2, reasoning_tokens=1, estimated=True)
    fields = {field.name: getattr(usage, field.name) for field in dataclasses.fields(usage)}
    assert usage.to_dict().items() >= fields.items()
    assert usage.to_dict()["total_tokens"] == 3


def test_response_as_dict_goes_through_json_without_loss() -> None:
    """`json.dumps` accepts the dict, and the cost comes back digit for digit. (MODEL-4)"""
    cost = Decimal("0.000000000123456789")
    response = LLMResponse(
        content="hi",
        model="m",
        usage=Usage(prompt_tokens=1, completion_tokens=2),
        finish_reason="length",
        cost=cost,
        cost_source="provider",
        metadata={"provider": "p", "attempts": 1},
    )
    data = json.loads(json.dumps(response.to_dict()))
    assert Decimal(data["cost"]) == cost
    assert (data["content"], data["model"], data["finish_reason"]) == ("hi", "m", "length")
    assert data["cost_source"] == "provider"
    assert data["usage"]["total_tokens"] == 3
    assert data["metadata"] == {"provider": "p", "attempts": 1}


def test_unknown_cost_is_none_not_zero() -> None:
    """An unknown cost is None, in the response and in its dict. (MODEL-3)"""
    response = LLMResponse(content="", model="m", usage=Usage(prompt_tokens=0, completion_tokens=0))
    assert response.cost is None
    assert response.to_dict()["cost"] is None
    assert response.finish_reason in FINISH_REASONS


def test_defaults_send_nothing_that_was_not_asked_for() -> None:
    """Model, system prompt, temperature and output limit are unset until someone sets them. (MODEL-5)"""
    config = RunConfig()
    assert (config.model_name, config.system_prompt, config.temperature, config.max_tokens) == (None,) * 4
    assert config.timeout_seconds == 300
    assert config.max_retries == 2
    assert config.max_depth == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_name", ""),
        ("model_name", " \n"),
        ("model_name", 5),
        ("model_name", "\ud800"),
        ("system_prompt", 5),
        ("system_prompt", b"x"),
        ("system_prompt", "\udfff"),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "0"),
        ("temperature", True),
        ("temperature", 10**400),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", "9"),
        ("timeout_seconds", 0),
        ("timeout_seconds", -1),
        ("timeout_seconds", math.nan),
        ("timeout_seconds", math.inf),
        ("timeout_seconds", None),
        ("timeout_seconds", 10**400),
        ("timeout_seconds", True),
        ("first_chunk_seconds", 0),
        ("first_chunk_seconds", "1"),
        ("idle_seconds", 0),
        ("idle_seconds", math.nan),
        ("max_wait_seconds", -0.1),
        ("max_wait_seconds", True),
        ("max_retries", -1),
        ("max_retries", None),
        ("max_retries", 0.0),
        ("max_retries", True),
        ("max_depth", -1),
        ("max_depth", None),
        ("max_depth", 1.5),
        ("max_depth", True),
        ("clamp_floor", 0),
        ("clamp_floor", None),
        ("when_short", "guess"),
        ("when_short", None),
        ("budget_tracker", 5_000),
        ("model_params", None),
        ("model_params", [("a", 1)]),
        ("model_params", {1: 1}),
        ("labels", None),
        ("labels", {"a": 1}),
        ("labels", {1: "a"}),
        ("labels", "a"),
        ("labels", {"a": "\ud800"}),
        ("labels", {"\ud800": "a"}),
    ],
)
def test_an_invalid_value_is_refused_by_name(name: str, value: Any) -> None:
    """Each invalid value is refused at construction, and the error names the field. (MODEL-6, MODEL-7, MODEL-8)"""
    with pytest.raises(LLMConfigurationError, match=f"^(The )?{name} "):
        RunConfig(**{name: value})


def test_a_refused_choice_comes_with_the_others() -> None:
    """The error for a mistyped choice lists all choices; for another type it names that type. (MODEL-6)"""
    with pytest.raises(LLMConfigurationError, match="one of 'wait', 'refuse', 'clamp', not 'Wait'"):
        RunConfig(when_short="Wait")  # type: ignore[arg-type]
    with pytest.raises(LLMConfigurationError, match="a BudgetTracker, not int"):
        RunConfig(budget_tracker=5_000)  # type: ignore[arg-type]


def test_a_stream_cannot_be_told_to_hold_less_than_its_bound() -> None:
    """`stream_hold` accepts only "bound"; the error for any other value names the alternatives. (MODEL-6)"""
    with pytest.raises(LLMConfigurationError, match=r"stream_hold=.grow. does not exist.* smaller max_tokens"):
        RunConfig(stream_hold="grow")  # type: ignore[arg-type]
    with pytest.raises(LLMConfigurationError, match="stream_hold"):
        RunConfig().delegate("b", stream_hold="grow")
    assert dataclasses.replace(RunConfig(stream_hold="bound"), max_tokens=5) == RunConfig(max_tokens=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("system_prompt", ""),
        ("system_prompt", "\x00 täglich 😀"),
        ("temperature", 0),
        ("temperature", 2.5),
        ("max_tokens", 1),
        ("timeout_seconds", 0.001),
        ("first_chunk_seconds", 0.001),
        ("idle_seconds", 0.001),
        ("max_wait_seconds", 0),
        ("clamp_floor", 1),
        ("max_retries", 0),
        ("max_depth", 0),
        ("model_params", {"seed": None}),
        ("labels", {"team": "a"}),
    ],
)
def test_the_edge_of_the_valid_range_is_accepted(name: str, value: Any) -> None:
    """The smallest valid value is kept unchanged."""
    assert getattr(RunConfig(**{name: value}), name) == value


def test_a_config_does_not_follow_later_changes_of_what_it_was_made_of() -> None:
    """Mappings are copied, so later changes of a caller's dict have no effect. (MODEL-2)"""
    params, labels = {"seed": 1}, {"team": "a"}
    config = RunConfig(model_params=params, labels=labels)
    params["seed"] = 2
    labels["team"] = "b"
    assert config.model_params == {"seed": 1}
    assert config.labels == {"team": "a"}


def test_a_config_cannot_be_changed_but_replaced() -> None:
    """The config is frozen; `dataclasses.replace` gives a checked new one. (MODEL-2)"""
    config = RunConfig(max_tokens=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_tokens = 6  # type: ignore[misc]
    assert dataclasses.replace(config, max_tokens=6).max_tokens == 6
    with pytest.raises(LLMConfigurationError, match="max_tokens"):
        dataclasses.replace(config, max_tokens=0)


@pytest.mark.parametrize(
    "model",
    [
        RunConfig(),
        Usage(prompt_tokens=1, completion_tokens=1),
        LLMResponse(content="x", model="m", usage=Usage(prompt_tokens=1, completion_tokens=1)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_no_field_can_be_assigned_to(model: Any) -> None:
    """The fields of a config, a usage and a response cannot be assigned. (MODEL-2)"""
    for field in dataclasses.fields(model):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(model, field.name, None)


def test_positional_arguments_are_refused() -> None:
    """Fields are keyword-only, so a new field never shifts the others."""
    with pytest.raises(TypeError):
        RunConfig("gpt")  # type: ignore[misc]


def test_models_can_be_pickled() -> None:
    """A config without a tracker, a usage and a response can be sent to another process."""
    response = LLMResponse(content="x", model="m", usage=Usage(prompt_tokens=1, completion_tokens=1))
    assert pickle.loads(pickle.dumps(response)) == response
    assert pickle.loads(pickle.dumps(RunConfig(max_tokens=3))) == RunConfig(max_tokens=3)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "This adapter takes a prompt of type str, not NoneType: pass the text"),
        (5, "This adapter takes a prompt of type str, not int"),
        (b"bytes", "This adapter takes a prompt of type str, not bytes"),
        (["hi"], "This adapter takes a prompt of type str, not list"),
        ({"role": "user"}, "This adapter takes a prompt of type str, not dict"),
        ("", "The prompt is empty: pass the text to send"),
        (" \n\t", "The prompt is empty"),
        ("a\ud800b", "The prompt contains lone surrogates, which UTF-8 cannot encode: decode it with"),
    ],
)
def test_a_prompt_that_cannot_be_sent_is_refused(prompt: Any, message: str) -> None:
    """A prompt of a wrong type, an empty one, and text that UTF-8 cannot encode are refused, each with its own message.
    (ADAPTER-7)
    """
    with pytest.raises(LLMConfigurationError, match=f"^{message}"):
        check_prompt(prompt)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"system_prompt": 5}, "must be text or None, not int"),
        ({"temperature": -1}, "must be a finite number at least 0, not -1"),
        ({"timeout_seconds": 0}, "must be a finite number above 0, not 0"),
        ({"max_tokens": 0}, "must be a whole number of at least 1, not 0"),
        ({"labels": {"a": 1}}, "must be a mapping from text to text"),
        ({"model_params": {1: 1}}, "must be a mapping from text to values"),
    ],
    ids=str,
)
def test_a_refusal_says_what_would_be_taken(fields: dict[str, Any], message: str) -> None:
    """The error names the valid type or range, and the given value. (MODEL-6)"""
    (name,) = fields
    with pytest.raises(LLMConfigurationError, match=f"^{name} {message}"):
        RunConfig(**fields)


@pytest.mark.parametrize("prompt", ["x", " x ", "😀", "\x00x", "é" * 100_000])
def test_any_other_text_is_a_prompt(prompt: str) -> None:
    """Any text that can be sent is accepted."""
    assert check_prompt(prompt) is None


def test_a_number_of_a_kind_of_its_own_is_a_number() -> None:
    """A member of an IntEnum counts as its whole number."""

    class Limit(enum.IntEnum):
        LEAST = 1
        SHORT = 50

    assert RunConfig(max_tokens=Limit.SHORT).max_tokens == 50
    assert RunConfig(max_tokens=Limit.LEAST).max_tokens == 1
    with pytest.raises(LLMConfigurationError):
        RunConfig(max_retries=-Limit.SHORT)
