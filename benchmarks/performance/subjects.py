"""The contenders: how each is asked once, sync and async. An import stands where it is used: each has its own process.

A subject is made for one base address and one `Work`. `call` asks once. `open` is called in a running loop and gives
how to ask once there, and how to close. What stands before a slash in a name is the process.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from work import GEMINI_MODEL, KEY, MAX_TOKENS, MODEL, Work

Call = Callable[[], str | None]
ACall = Callable[[], Awaitable[str | None]]
AClose = Callable[[], Awaitable[object]]


@dataclass
class Subject:
    """The calls of a contender; None for a form that it does not have."""

    call: Call | None
    open: Callable[[], tuple[ACall, AClose]] | None


async def nothing() -> None:
    """Does nothing, for clients that need no closing."""


def ours(name: str, path: str, url: str, work: Work, *, budget: bool) -> Subject:
    from llm_connect import BudgetTracker, RunConfig, create_adapter

    tracker = BudgetTracker(total=10**15) if budget else None
    params = {key: value for key, value in work.options.items() if key not in ("temperature", "response_format")}
    if "response_format" in work.options:
        params["json_schema"] = work.options["response_format"]["json_schema"]["schema"]
    config = RunConfig(
        system_prompt=work.system,
        temperature=work.options.get("temperature"),
        max_tokens=MAX_TOKENS,
        model_params=params,
        budget_tracker=tracker,
    )
    model = GEMINI_MODEL if name == "gemini" else MODEL
    adapter = create_adapter(name, api_key=KEY, base_url=url + path, model=model)  # type: ignore[call-arg]

    async def acall() -> str:
        return (await adapter.async_execute_prompt(work.prompt, config)).content

    return Subject(
        call=lambda: adapter.execute_prompt(work.prompt, config).content,
        open=lambda: (acall, adapter.aclose),  # type: ignore[attr-defined]
    )


def hold_by_hand(url: str, work: Work) -> Subject:
    """The floor of a budget: a call without one, and around it a hold on a bound that is known already."""
    from llm_connect import BudgetTracker

    tracker = BudgetTracker(total=10**15)
    plain = ours("openai", "/v1", url, work, budget=False).call
    assert plain is not None

    def call() -> str | None:
        with tracker.reserve(1_000) as hold:
            hold.dispatch()
            content = plain()
            hold.settle(36)
        return content

    return Subject(call, None)


def raw_openai(url: str, work: Work, *, aiohttp: bool = False) -> Subject:
    import openai

    options: dict[str, Any] = {"api_key": KEY, "base_url": f"{url}/v1", "max_retries": 0}
    body = work.body()
    client = openai.OpenAI(**options)

    def start() -> tuple[ACall, AClose]:
        extra = {"http_client": openai.DefaultAioHttpClient()} if aiohttp else {}
        aclient = openai.AsyncOpenAI(**options, **extra)

        async def acall() -> str | None:
            return (await aclient.chat.completions.create(**body)).choices[0].message.content

        return acall, aclient.close

    return Subject(lambda: client.chat.completions.create(**body).choices[0].message.content, start)


def post_openai(url: str, work: Work) -> Subject:
    """The floor of our OpenAI adapter: the SDK's `post`, and nothing around it."""
    import httpx2
    import openai

    options: dict[str, Any] = {"api_key": KEY, "base_url": f"{url}/v1", "max_retries": 0}
    body = work.body()
    client = openai.OpenAI(**options)

    def text(response: Any) -> str | None:
        return json.loads(response.content)["choices"][0]["message"]["content"]  # type: ignore[no-any-return]

    def start() -> tuple[ACall, AClose]:
        aclient = openai.AsyncOpenAI(**options, http_client=openai.DefaultAioHttpClient(timeout=None))

        async def acall() -> str | None:
            return text(await aclient.post("/chat/completions", cast_to=httpx2.Response, body=body))

        return acall, aclient.close

    return Subject(lambda: text(client.post("/chat/completions", cast_to=httpx2.Response, body=body)), start)


def raw_gemini(url: str, work: Work) -> Subject:
    from google import genai

    options: dict[str, Any] = {"api_key": KEY, "http_options": {"base_url": url}}
    asked: dict[str, Any] = {"model": GEMINI_MODEL, "contents": work.prompt}
    client = genai.Client(**options)

    def start() -> tuple[ACall, AClose]:
        aclient = genai.Client(**options).aio

        async def acall() -> str | None:
            return (await aclient.models.generate_content(**asked)).text

        return acall, aclient.aclose

    return Subject(lambda: client.models.generate_content(**asked).text, start)


def bare_httpx2(url: str, work: Work) -> Subject:
    import httpx2

    client = httpx2.Client()
    asked: dict[str, Any] = {"json": work.body(), "headers": {"Authorization": f"Bearer {KEY}"}}
    address = f"{url}/v1/chat/completions"
    return Subject(lambda: client.post(address, **asked).json()["choices"][0]["message"]["content"], None)


def bare_aiohttp(url: str, work: Work) -> Subject:
    asked: dict[str, Any] = {"json": work.body(), "headers": {"Authorization": f"Bearer {KEY}"}}

    def start() -> tuple[ACall, AClose]:
        import aiohttp

        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

        async def acall() -> str | None:
            async with session.post(f"{url}/v1/chat/completions", **asked) as response:
                return (await response.json())["choices"][0]["message"]["content"]  # type: ignore[no-any-return]

        return acall, session.close

    return Subject(None, start)


def aisuite(url: str, work: Work) -> Subject:
    suite = importlib.import_module("aisuite")
    client = suite.Client({"openai": {"api_key": KEY, "base_url": f"{url}/v1", "max_retries": 0}})
    asked = {**work.body(), "model": f"openai:{MODEL}"}
    return Subject(lambda: client.chat.completions.create(**asked).choices[0].message.content, None)


def langchain(url: str, work: Work) -> Subject:
    chat = importlib.import_module("langchain_openai").ChatOpenAI
    model = chat(model=MODEL, api_key=KEY, base_url=f"{url}/v1", max_retries=0, max_tokens=MAX_TOKENS)
    messages = [(message["role"], message["content"]) for message in work.messages()]

    async def acall() -> str:
        return str((await model.ainvoke(messages)).content)

    return Subject(lambda: str(model.invoke(messages).content), lambda: (acall, nothing))


def litellm(url: str, work: Work) -> Subject:
    library = importlib.import_module("litellm")
    asked = {**work.body(), "model": f"openai/{MODEL}", "api_key": KEY, "api_base": f"{url}/v1", "num_retries": 0}

    async def acall() -> str | None:
        return (await library.acompletion(**asked)).choices[0].message.content  # type: ignore[no-any-return]

    return Subject(lambda: library.completion(**asked).choices[0].message.content, lambda: (acall, nothing))


def pydantic_ai(url: str, work: Work) -> Subject:
    direct = importlib.import_module("pydantic_ai.direct")
    parts = importlib.import_module("pydantic_ai.messages")
    models = importlib.import_module("pydantic_ai.models.openai")
    provider = importlib.import_module("pydantic_ai.providers.openai")
    sdk = importlib.import_module("openai")
    asked = [parts.ModelRequest(parts=[parts.UserPromptPart(work.prompt)])]
    settings = {"max_tokens": MAX_TOKENS}

    def model(client: Any) -> Any:
        return models.OpenAIChatModel(MODEL, provider=provider.OpenAIProvider(openai_client=client))

    options: dict[str, Any] = {"api_key": KEY, "base_url": f"{url}/v1", "max_retries": 0}
    sync_model = model(sdk.AsyncOpenAI(**options))

    def call() -> str:
        return str(direct.model_request_sync(sync_model, asked, model_settings=settings).parts[0].content)

    def start() -> tuple[ACall, AClose]:
        client = sdk.AsyncOpenAI(**options)
        amodel = model(client)

        async def acall() -> str:
            return str((await direct.model_request(amodel, asked, model_settings=settings)).parts[0].content)

        return acall, client.close

    return Subject(call, start)


SUBJECTS: dict[str, Callable[[str, Work], Subject]] = {
    "ours-openai": lambda url, work: ours("openai", "/v1", url, work, budget=True),
    "ours-openai/without-budget": lambda url, work: ours("openai", "/v1", url, work, budget=False),
    "hold-by-hand": hold_by_hand,
    "ours-gemini": lambda url, work: ours("gemini", "", url, work, budget=True),
    "ours-openrouter": lambda url, work: ours("openrouter", "/v1", url, work, budget=True),
    "openai": raw_openai,
    "openai-aiohttp": lambda url, work: raw_openai(url, work, aiohttp=True),
    "openai-post": post_openai,
    "google-genai": raw_gemini,
    "google-genai-as-it-comes": raw_gemini,
    "httpx2": bare_httpx2,
    "aiohttp": bare_aiohttp,
    "aisuite": aisuite,
    "langchain": langchain,
    "litellm": litellm,
    "pydantic-ai": pydantic_ai,
}
