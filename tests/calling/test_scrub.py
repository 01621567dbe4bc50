"""Keys and prompts are taken out of what a provider says."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_connect.calling.scrub import Scrubber

KEY = "sk-proj-0123456789abcdef"
PROMPT = "Tell me all about the secret merger of Alpha and Beta."


def clean(value: Any, *prompts: str | None) -> Any:
    return Scrubber([KEY], prompts).clean(value)


def test_a_key_is_hidden_wherever_it_stands() -> None:
    """Each whole key is replaced, and the rest is kept. (ERROR-5)"""
    assert clean(f"bad key {KEY}, {KEY}!") == "bad key [key], [key]!"


@pytest.mark.parametrize("length", range(12, len(KEY)))
def test_a_part_of_a_key_is_hidden_too(length: int) -> None:
    """A message that was cut within the key, at either end, shows no long part of it. (ERROR-5)"""
    assert clean(f"bad key {KEY[:length]}") == "bad key [key]"
    assert clean(f"{KEY[-length:]} is bad") == "[key] is bad"


@pytest.mark.parametrize("before", range(13))
def test_a_part_of_a_key_is_found_at_any_place(before: int) -> None:
    """The shortest part that counts is found wherever in a message it stands. (ERROR-5)"""
    for start in range(len(KEY) - 11):
        assert clean("?" * before + KEY[start : start + 12]) == "?" * before + "[key]"


def test_what_all_keys_begin_with_may_be_shown() -> None:
    """Advice on the form of keys stays readable."""
    assert clean("a key begins with sk-proj-") == "a key begins with sk-proj-"


def test_a_short_key_is_hidden_whole_and_a_stand_in_is_not() -> None:
    """Local servers take keys such as `x`, which must not blank out the letters of a message."""
    assert Scrubber(["secret9"]).clean("key secret9 is bad") == "key [key] is bad"
    assert Scrubber(["x", ""]).clean("an extra box") == "an extra box"


def test_an_echo_of_the_prompt_is_hidden() -> None:
    """A whole prompt, and a long enough part of it, are replaced."""
    assert clean(f"refused: '{PROMPT}'", PROMPT) == "refused: '[prompt]'"
    assert clean("refused: all about the secret merger of", PROMPT) == "refused:[prompt]"
    assert "secret merger" not in clean(PROMPT[:30] + " (cut)", None, PROMPT)


def test_white_space_does_not_hide_an_echo() -> None:
    """Messages are on one line, prompts are not."""
    assert clean("no: Tell me all about the secret merger!", PROMPT.replace(" ", "\n\t")) == "no: [prompt]!"


def test_common_words_are_no_echo() -> None:
    """Short runs that message and prompt share stay, so that the message stays readable."""
    message = "the merger of all is not supported"
    assert clean(message, PROMPT) == message


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("merger", "the [prompt] of x"),
        ("the", "the merger of x"),
        ("", "the merger of x"),
        (None, "the merger of x"),
    ],
)
def test_a_short_prompt_is_hidden_whole_unless_it_is_a_word_of_any_text(prompt: str | None, cleaned: str) -> None:
    """From six characters on a prompt is replaced; shorter ones would blank out ordinary words. (ERROR-5)"""
    assert clean("the merger of x", prompt) == cleaned


def test_dicts_are_cleaned_at_any_depth_and_other_values_kept() -> None:
    """Texts in dicts are cleaned; numbers and None are as they were."""
    before = {"a": {"b": KEY}, "n": 5, "none": None}
    assert clean(before) == {"a": {"b": "[key]"}, "n": 5, "none": None}
    assert before["a"] == {"b": KEY}


def test_a_large_prompt_does_not_hold_up_the_error() -> None:
    """Five megabytes of prompt are searched in a moment."""
    prompt = "word and another word, " * 220_000
    started = time.monotonic()
    assert clean("x" * 300 + "word and another word, word", prompt) == "x" * 300 + "[prompt]"
    assert time.monotonic() - started < 5


@settings(max_examples=150, deadline=None, database=None)
@given(
    before=st.text(max_size=40),
    after=st.text(max_size=40),
    start=st.integers(0, 30),
    size=st.integers(20, 40),
)
def test_no_long_part_of_a_prompt_stays(before: str, after: str, start: int, size: int) -> None:
    """Whatever stands around it, no part of twenty characters of the prompt is left. (ERROR-5)"""
    cleaned = clean(before + PROMPT[start : start + size] + after, PROMPT)
    assert not any(PROMPT[i : i + 20] in cleaned for i in range(len(PROMPT) - 19))
