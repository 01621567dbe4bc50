"""The contenders: how each streams one answer, sync and async. An import stands where it is used.

A subject is made for one base address. `stream` gives the texts of one answer, and `close` leaves it; `astream` is
called in a running loop. What stands before a slash in a name is the process.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from work import GEMINI_MODEL, KEY, MAX_TOKENS, MODEL, Work

Texts = tuple[Iterator[str], Callable[[], object]]
AsyncTexts = tuple[AsyncIterator[str], Callable[[], Awaitable[object]]]


@dataclass
class Subject:
    """The streams of a contender: each yields the texts of an answer, and can be closed early."""

    stream: Callable[[Work], Texts]
    astream: Callable[[Work], Awaitable[AsyncTexts]]


def ours(name: str, path: str, url: str, *, budget: bool = True) -> Subject:
    from llm_connect import BudgetTracker, RunConfig, create_adapter

    tracker = BudgetTracker(total=10**15) if budget else None
    config = RunConfig(max_tokens=MAX_TOKENS, budget_tracker=tracker)
    model = GEMINI_MODEL if name == "gemini" else MODEL
    adapter = create_adapter(name, api_key=KEY, base_url=url + path, model=model)  # type: ignore[call-arg]

    def stream(work: Work) -> Texts:
        opened = adapter.stream_prompt(work.prompt, config)
        return (chunk.text for chunk in opened if chunk.text), opened.close

    async def astream(work: Work) -> AsyncTexts:
        opened = adapter.async_stream_prompt(work.prompt, config)
        return (chunk.text async for chunk in opened if chunk.text), opened.aclose

    return Subject(stream, astream)


def raw_openai(url: str) -> Subject:
    import openai

    options: dict[str, Any] = {"api_key": KEY, "base_url": f"{url}/v1", "max_retries": 0}
    asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    client, aclient = openai.OpenAI(**options), openai.AsyncOpenAI(**options)

    def stream(work: Work) -> Texts:
        opened = client.chat.completions.create(**work.body(), **asked)
        return filter(None, map(_text_of_chunk, opened)), opened.close

    async def astream(work: Work) -> AsyncTexts:
        opened = await aclient.chat.completions.create(**work.body(), **asked)
        return (text async for chunk in opened if (text := _text_of_chunk(chunk))), opened.close

    return Subject(stream, astream)


def _text_of_chunk(chunk: Any) -> str | None:
    return chunk.choices[0].delta.content if chunk.choices else None


def raw_gemini(url: str) -> Subject:
    from google import genai

    client = genai.Client(api_key=KEY, http_options={"base_url": url})  # type: ignore[arg-type]

    def asked(work: Work) -> dict[str, Any]:
        return {"model": GEMINI_MODEL, "contents": work.prompt, "config": {"max_output_tokens": MAX_TOKENS}}

    def stream(work: Work) -> Texts:
        opened = client.models.generate_content_stream(**asked(work))
        return filter(None, (chunk.text for chunk in opened)), opened.close  # type: ignore[attr-defined]

    async def astream(work: Work) -> AsyncTexts:
        opened = await client.aio.models.generate_content_stream(**asked(work))
        return (chunk.text async for chunk in opened if chunk.text), opened.aclose  # type: ignore[attr-defined]

    return Subject(stream, astream)


def bare_httpx2(url: str) -> Subject:
    """The code of a user who reads the events by hand."""
    import httpx2

    options: dict[str, Any] = {"headers": {"Authorization": f"Bearer {KEY}"}, "timeout": 60}
    client, aclient = httpx2.Client(**options), httpx2.AsyncClient(**options)
    address = f"{url}/v1/chat/completions"

    def stream(work: Work) -> Texts:
        response = client.send(client.build_request("POST", address, json=_streamed(work)), stream=True)
        return filter(None, map(_text_in, response.iter_lines())), response.close

    async def astream(work: Work) -> AsyncTexts:
        response = await aclient.send(aclient.build_request("POST", address, json=_streamed(work)), stream=True)
        return (text async for line in response.aiter_lines() if (text := _text_in(line))), response.aclose

    return Subject(stream, astream)


def _streamed(work: Work) -> dict[str, Any]:
    return {**work.body(), "stream": True}


def _text_in(line: str) -> str | None:
    if not line.startswith("data: {"):
        return None
    choices = json.loads(line[6:])["choices"]
    return choices[0]["delta"].get("content") if choices else None


SUBJECTS: dict[str, Callable[[str], Subject]] = {
    "ours-openai": lambda url: ours("openai", "/v1", url),
    "ours-openai/without-budget": lambda url: ours("openai", "/v1", url, budget=False),
    "ours-gemini": lambda url: ours("gemini", "", url),
    "ours-openrouter": lambda url: ours("openrouter", "/v1", url),
    "openai": raw_openai,
    "google-genai": raw_gemini,
    "httpx2": bare_httpx2,
}
