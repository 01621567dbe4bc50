"""Plays one case of the failure table: an adapter, a provider that misbehaves, and a tracker that watches."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from llm_connect import BudgetTracker, LLMAdapter, LLMError, LLMResponse, RunConfig, create_adapter
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.dead_ends import DEAD_ENDS
from tests.e2e.failure_table import CLAUDE, TABLE, Case, Row
from tests.providers.claude_binary import DEADLINES, find_claude, needs_claude
from tests.providers.claude_stand_in import stand_in
from tests.transports import choose

Form = Literal["sync", "async", "async on httpx2 alone", "stream", "async stream", "async stream on httpx2 alone"]

#: The command is not reached over HTTP.
CLI_FORMS: tuple[Form, ...] = ("sync", "async", "stream", "async stream")
KEY = "key-0123456789"
PROMPT = "What is 2 + 2?"
MAX_RETRIES = 1


@dataclass(frozen=True, kw_only=True)
class Played:
    """What came of it: `result` is the response or the error, `shown` the repr of the adapter."""

    result: LLMResponse | LLMError
    tracker: BudgetTracker
    provider: EmbeddedProvider
    shown: str


@dataclass(frozen=True, kw_only=True)
class Play:
    """One row, one of its cases, at one adapter, in one form of the call."""

    row: Row
    case: Case
    adapter: str
    form: Form
    prompt: str = PROMPT
    system_prompt: str | None = None
    key: str = KEY

    def run(self, provider: EmbeddedProvider, folder: Path, behaviour: Behaviour | None = None) -> Played:
        """Make the call; `behaviour` stands in for that of the case."""
        with self._address(provider) as url, self._adapter(url, folder) as adapter:
            if self.case.dead_end is not None:
                adapter.warm_up()
            elif "timeout_seconds" in self.case.config and self.adapter not in CLAUDE:
                # A first call imports and connects, which may take longer than such a short deadline.
                self._call(adapter, RunConfig())
                provider.reset()
            provider.script(behaviour or self.case.behaviour_at(self.adapter))
            for deadline in self._deadlines():
                tracker = BudgetTracker(total=self.case.total)
                result = self._call(adapter, self._config(tracker, deadline))
                if provider.requests:
                    break
            return Played(result=result, tracker=tracker, provider=provider, shown=repr(adapter))

    def _deadlines(self) -> list[dict[str, float]]:
        """The fields of the config that set the deadline, one after the other until a request comes."""
        starts_slowly = self.adapter in CLAUDE and self.case.command is None
        if starts_slowly and "timeout_seconds" in self.case.config:
            return [{"timeout_seconds": seconds} for seconds in DEADLINES]
        return [{}]

    def _call(self, adapter: LLMAdapter, config: RunConfig) -> LLMResponse | LLMError:
        try:
            if self.form == "sync":
                return adapter.execute_prompt(self.prompt, config)
            if self.form == "stream":
                return _streamed(adapter, self.prompt, config)
            with pytest.MonkeyPatch.context() as patch:
                choose("httpx2" if "httpx2" in self.form else "aiohttp", patch)
                if "stream" in self.form:
                    return asyncio.run(_astreamed(adapter, self.prompt, config))
                return asyncio.run(adapter.async_execute_prompt(self.prompt, config))  # type: ignore[arg-type]
        except LLMError as error:
            return error

    def _config(self, tracker: BudgetTracker, deadline: dict[str, float]) -> RunConfig:
        fields = {"max_tokens": 50, "max_retries": MAX_RETRIES, "timeout_seconds": 30, **self.case.config, **deadline}
        return RunConfig(budget_tracker=tracker, system_prompt=self.system_prompt, **fields)

    @contextmanager
    def _address(self, provider: EmbeddedProvider) -> Iterator[str]:
        url = str(getattr(provider, "anthropic_url" if self.adapter in CLAUDE else f"{self.adapter}_url"))
        if self.case.dead_end is not None:
            with DEAD_ENDS[self.case.dead_end]() as dead:
                yield url.replace(provider.url, dead)
        else:
            yield url if self.case.listening else url.replace(provider.url, _nobody())

    @contextmanager
    def _adapter(self, url: str, folder: Path) -> Iterator[Any]:
        options = {"model": "test-model", "api_key": self.key, "base_url": url}
        if self.adapter in CLAUDE:
            options["cli_path"] = stand_in(folder, self.case.command) if self.case.command else find_claude()
        with create_adapter(self.adapter, **options) as adapter:  # type: ignore[attr-defined]
            yield adapter


def forms_of(case: Case, adapter: str) -> list[Form]:
    """The forms of the call that a case is played in."""
    forms: tuple[Form, ...] = CLI_FORMS if adapter in CLAUDE else get_args(Form)
    wanted = {"calls": [False], "streams": [True]}.get(case.forms, [False, True])
    return [form for form in forms if ("stream" in form) in wanted]


def _streamed(adapter: LLMAdapter, prompt: str, config: RunConfig) -> LLMResponse:
    with adapter.stream_prompt(prompt, config) as stream:
        text = "".join(chunk.text for chunk in stream)
    assert text == stream.text == stream.response.content
    return stream.response


async def _astreamed(adapter: LLMAdapter, prompt: str, config: RunConfig) -> LLMResponse:
    async with adapter.async_stream_prompt(prompt, config) as stream:
        text = "".join([chunk.text async for chunk in stream])
    assert text == stream.text == stream.response.content
    return stream.response


def plays(forms: tuple[Form, ...] = get_args(Form), *, one_in: int = 1, **fields: Any) -> list[Any]:
    """Every case at every adapter, in these forms of the call, as parameters of pytest.

    All of them run at night. By day one in so many pairs of a case and an adapter runs, in one form that changes from
    pair to pair.
    """
    found = []
    turns = count()
    for row in TABLE:
        for case in row.cases:
            for adapter in case.at:
                possible = [form for form in forms_of(case, adapter) if form in forms]
                turn = next(turns)
                by_day = possible[turn // one_in % len(possible)] if turn % one_in == 0 else None
                for form in possible:
                    play = Play(row=row, case=case, adapter=adapter, form=form, **fields)  # type: ignore[arg-type]
                    marks = [needs_claude] if adapter in CLAUDE else []
                    marks += [] if form == by_day else [pytest.mark.at_night]
                    name = f"{case.name} - {adapter} {form}"
                    found.append(pytest.param(play, id=name, marks=marks))
    return found


def _nobody() -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"
