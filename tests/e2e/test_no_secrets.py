"""A key, a prompt and a system prompt are planted in every row of the failure table, and looked for afterwards."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_connect import LLMResponse
from llm_connect.engine import exchange
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.e2e.failure_play import Form, Play, Played, plays

KEY = "sk-canary-7f3d9b1c5e8a2046"
PROMPT = "The grey heron wades at dawn through the shallows of lake 1843."
SYSTEM = "Answer like a lighthouse keeper who has counted 2975 storms."
ECHO = f"You sent '{PROMPT}' under '{SYSTEM}' with the key {KEY}!"
#: The shortest part of a key, and of a prompt, that counts as found.
KEY_PART, PROMPT_PART = 12, 20
#: What hides secrets is the same in the other forms.
FORMS: tuple[Form, ...] = ("sync", "async stream")
#: A command that says all that it knows.
TELL_ALL = """import os
print(os.environ, sys.argv, sys.stdin.read(), open(sys.argv[sys.argv.index('--system-prompt-file') + 1]).read())
print(os.environ['ANTHROPIC_API_KEY'], sys.argv, file=sys.stderr)
sys.exit(3)"""


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedProvider]:
    """A running provider; pauses between attempts are short."""
    monkeypatch.setattr(exchange, "_FIRST_PAUSE_SECONDS", 0.01)
    with EmbeddedProvider() as running:
        yield running


@pytest.mark.parametrize("play", plays(FORMS, one_in=3, key=KEY, prompt=PROMPT, system_prompt=SYSTEM))
def test_no_key_and_no_prompt_is_found(
    play: Play, provider: EmbeddedProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Although the provider echoes them, no error, log, pickle, traceback or ledger holds key or prompt. (ERROR-5)"""
    caplog.set_level(logging.WARNING)
    caplog.set_level(logging.DEBUG, logger="llm_connect")
    if play.case.command:
        play = replace(play, case=replace(play.case, command=TELL_ALL))
    played = play.run(provider, tmp_path, echoing(play.case.behaviour_at(play.adapter)))
    texts = [*shown_by(played), caplog.text, *map(repr, map(vars, caplog.records))]
    assert [text for text in texts if has_part_of(KEY, KEY_PART, text)] == []
    for planted in (PROMPT, SYSTEM):
        assert [text for text in texts if has_part_of(planted, PROMPT_PART, text)] == []
    assert [text for text in texts if "authorization" in text.lower()] == []


def test_the_search_finds_what_is_there() -> None:
    """A part of what was planted, as where a text was cut, is found; what is no part of it is not."""
    assert has_part_of(KEY, KEY_PART, f"...{KEY[:KEY_PART]}")
    assert has_part_of(PROMPT, PROMPT_PART, f"'{PROMPT[-PROMPT_PART:]}'")
    assert not has_part_of(PROMPT, PROMPT_PART, PROMPT[: PROMPT_PART - 1])


def has_part_of(planted: str, length: int, text: str) -> bool:
    return any(planted[start : start + length] in text for start in range(len(planted) - length + 1))


def echoing(behaviour: Behaviour) -> Behaviour:
    """The same, but all that it says has the key and both prompts in it."""
    changes: dict[str, Any] = {"headers": {**behaviour.headers, "x-request-id": f"req_{KEY}", "x-echo": ECHO}}
    if behaviour.fails:
        changes |= {"error_message": ECHO, "error_type": ECHO, "error_code": behaviour.error_code or ECHO}
    if behaviour.body is not None:
        changes["body"] = echoing_body(behaviour.body)
    return replace(behaviour, **changes)


def echoing_body(body: bytes) -> bytes:
    try:
        value = json.loads(body)
        value["error"] |= {"message": ECHO, "type": ECHO}
    except (ValueError, KeyError, TypeError):
        return body + ECHO.encode()
    return json.dumps(value).encode()


def shown_by(played: Played) -> Iterator[str]:
    """Every text that a program may print, send or keep of a call."""
    yield played.shown
    yield from (str(played.tracker), repr(played.tracker), repr(played.tracker.snapshot()))
    for entry in played.tracker.ledger:
        yield from (repr(entry), json.dumps(entry.to_dict()))
    # What the model answers is the caller's own.
    if isinstance(played.result, LLMResponse):
        response = replace(played.result, content="")
        yield from (repr(response), json.dumps(response.to_dict()))
        return
    if played.result.response is not None:
        played.result.response = replace(played.result.response, content="")
    error: BaseException | None = played.result
    yield pickle.dumps(error).decode("latin-1")
    yield "".join(traceback.format_exception(error))
    while error is not None:
        yield from (str(error), repr(error), repr(vars(error)))
        error = error.__cause__ or error.__context__
