"""The portable parameters, and the refusal of all that is not known."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llm_connect import LLMConfigurationError, RunConfig
from llm_connect.protocols.params import PORTABLE, check_known, json_schema


def config(**params: Any) -> RunConfig:
    return RunConfig(model_params=params)


def test_portable_and_known_keys_pass() -> None:
    """What every protocol translates and what the provider knows is let through."""
    check_known(config(json_schema={}, json_schema_strict=True, seed=1), ["seed"], "p")


def test_an_unknown_key_is_refused_with_what_is_known() -> None:
    """The error names the key, the provider and the keys that there are. (WIRE-3)"""
    with pytest.raises(LLMConfigurationError) as caught:
        check_known(config(sede=1), ["seed"], "p")
    assert all(word in str(caught.value) for word in ("'sede'", "p;", "seed", *PORTABLE))


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", math.nan, math.inf, "\ud800", {"a": ["\udfff"]}, {(): 1}])
def test_what_json_cannot_hold_is_refused_by_name(value: Any) -> None:
    """A value that could not be sent is refused before anything is, and is not shown."""
    with pytest.raises(LLMConfigurationError, match="'seed'"):
        check_known(config(seed=value), ["seed"], "p")


def test_what_never_ends_is_refused() -> None:
    """A value that holds itself is no JSON."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(LLMConfigurationError, match="'seed'"):
        check_known(config(seed=endless), ["seed"], "p")


def test_all_that_cannot_be_sent_is_named() -> None:
    """Whoever mends one value is not told of the next one afterwards."""
    with pytest.raises(LLMConfigurationError, match=r"\['user', 'stop'\]"):
        check_known(config(user=object(), seed=1, stop={1}), ["user", "seed", "stop"], "p")


def test_the_schema_is_taken_out() -> None:
    """The portable keys do not stay among the others."""
    params: dict[str, Any] = {"json_schema": {"a": 1}, "json_schema_strict": True, "seed": 1}
    taken = json_schema(params)
    assert taken is not None
    assert (taken.schema, taken.strict) == ({"a": 1}, True)
    assert params == {"seed": 1}


def test_without_a_schema_there_is_none() -> None:
    """None and absence are the same; strict alone is nothing."""
    for params in ({}, {"json_schema": None}, {"json_schema_strict": True}):
        assert json_schema(dict(params)) is None


@pytest.mark.parametrize("schema", ["{}", [], True, 5])
def test_a_schema_is_a_dict(schema: Any) -> None:
    """Text and the boolean schemas are refused, by name."""
    with pytest.raises(LLMConfigurationError, match="json_schema"):
        json_schema({"json_schema": schema})


@pytest.mark.parametrize(
    ("title", "name"),
    [
        (None, "answer"),
        ("", "answer"),
        ("Person", "Person"),
        ("A person, 2nd", "A_person__2nd"),
        ("é", "_"),
        (["x"], "__x__"[:2] + "x" + "__"),
        ("x" * 100, "x" * 64),
    ],
)
def test_the_name_is_made_of_letters_that_providers_take(title: Any, name: str) -> None:
    """ASCII letters, digits and underscores, at most 64 of them, never none."""
    taken = json_schema({"json_schema": {"title": title}})
    assert taken is not None
    assert taken.name == name
