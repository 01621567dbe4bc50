"""Gemini, through the google-genai SDK."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from llm_connect.budget.accounting.bounds import Bound, CountTokens, TokenCounter
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine.clients import Carrier
from llm_connect.engine.endpoints import base_url_from, same_endpoint
from llm_connect.engine.exchange import Counting, Request
from llm_connect.engine.http_options import DEFAULT_REPLY_BYTES, DEFAULT_STRUCTURE, HttpOptions, Verify
from llm_connect.engine.provider_adapter import CarriedAdapter, api_key_from, require
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.protocols import generate_content
from llm_connect.protocols.stream_reading import Reading
from llm_connect.protocols.wire import Answer, Failure, Reply
from llm_connect.types.response import Prompt

if TYPE_CHECKING:
    import httpx2

_WHOLE, _IN_EVENTS = ":generateContent", ":streamGenerateContent?alt=sse"
BASE_URL = "https://generativelanguage.googleapis.com"
_VERSION = re.compile(r"v\d+(?:alpha|beta)?\d*", re.ASCII)
_MODEL = re.compile(r"[\w.@-]+(/[\w.@-]+)*", re.ASCII)


class GeminiAdapter(CarriedAdapter):
    """Gemini models of the Gemini API.

        adapter = GeminiAdapter(model="gemini-2.5-flash")
        print(adapter.execute_prompt("Hello").content)

    api_key: else the environment variable GEMINI_API_KEY, else GOOGLE_API_KEY; without one, LLMConfigurationError.
        It travels in a header, never in the address.
    base_url: else the environment variable GOOGLE_GEMINI_BASE_URL, else Google's.
    max_concurrency: requests under way at once, for all threads and for each event loop.
    budget_tracker: the budget of calls without one in their config.
    price: the price of `model`, for a budget that limits USD; else the budget's `prices`, else, at Google's own
        endpoint, the list price.
    count_tokens: a tokenizer, which makes the bound of a prompt tighter than its bytes; "provider" asks Gemini itself
        (`countTokens`) before each call with a budget, which takes a round trip and costs nothing.
    verify: True trusts SSL_CERT_FILE and SSL_CERT_DIR of the environment, else certifi's roots; or the path of a file
        or directory of certificates, an `ssl.SSLContext`, or False for no check at all.
    proxy: the address of a proxy, such as "http://user:password@proxy.example:3128"; by default none.
    http_client, async_http_client: your own httpx2 clients, each for its form of the call. The adapter never closes
        them, and they follow no redirects here. An async client belongs to the one event loop that uses it.
    max_reply_bytes, max_reply_structure: the most bytes of a decoded reply, and the most brackets and commas. Larger
        limits let one reply block an event loop: reading 64 MiB takes 2 to 5 s and up to 22 times that in memory.

    The adapter never uses Vertex AI, whatever GOOGLE_GENAI_USE_VERTEXAI says. The SDK's retries are off. Redirects are
    not followed, and proxies of the environment are not used.
    """

    provider: ClassVar[str] = "gemini"

    def __init__(
        self,
        *,
        model: str = "gemini-2.5-flash",
        api_key: str | None = None,
        base_url: str | None = None,
        max_concurrency: int = 1000,
        budget_tracker: BudgetTracker | None = None,
        price: Price | None = None,
        count_tokens: CountTokens = None,
        verify: Verify = True,
        proxy: str | None = None,
        http_client: httpx2.Client | None = None,
        async_http_client: httpx2.AsyncClient | None = None,
        max_reply_bytes: int = DEFAULT_REPLY_BYTES,
        max_reply_structure: int = DEFAULT_STRUCTURE,
    ) -> None:
        require("google.genai", extra="gemini")
        self.max_reply_bytes = max_reply_bytes
        self._options = HttpOptions(
            verify=verify,
            proxy=proxy,
            http_client=http_client,
            async_http_client=async_http_client,
            max_reply_bytes=max_reply_bytes,
            max_reply_structure=max_reply_structure,
        )
        self._key = api_key_from(api_key, "GEMINI_API_KEY", "GOOGLE_API_KEY")
        self._base_url, self._version = _endpoint(base_url_from(base_url, "GOOGLE_GEMINI_BASE_URL") or BASE_URL)
        super().__init__(
            model=model,
            max_concurrency=max_concurrency,
            secrets=(self._key,),
            budget_tracker=budget_tracker,
            price=price,
            count_tokens=count_tokens,
        )

    @property
    def price_list(self) -> str | None:
        return "google" if same_endpoint(self._base_url, BASE_URL) else None

    def make_carrier(self) -> Carrier:
        from llm_connect.providers.gemini_carrier import GeminiCarrier

        return GeminiCarrier(
            api_key=self._key,
            base_url=self._base_url,
            version=self._version,
            max_connections=self.slots.limit,
            options=self._options,
        )

    def render(self, prompt: Prompt, config: RunConfig, max_tokens: int | None) -> Request:
        model = config.model_name or self.model
        _check_model(model)
        body = generate_content.render(prompt, config, max_tokens=max_tokens)
        return Request(f"/{_with_collection(model)}{_WHOLE}", model, body)

    def limited(self, request: Request, max_tokens: int | None) -> Request:
        return replace(request, body=generate_content.limited(request.body, max_tokens))

    def bound_of(self, request: Request, max_tokens: int, counter: TokenCounter | None = None) -> Bound:
        return generate_content.bound(request.body, max_tokens, model=request.model, counter=counter)

    def _endpoint_that_counts(self) -> Counting:
        return Counting(_counting_request, generate_content.counted_bound)

    def streamed(self, request: Request) -> Request:
        return replace(request, path=f"{request.path.removesuffix(_WHOLE)}{_IN_EVENTS}")

    def reading(self) -> Reading:
        return generate_content.reading()

    def parse(self, reply: Reply) -> Answer | Failure:
        return generate_content.parse(reply)


def _counting_request(request: Request) -> Request:
    body = generate_content.counting_body(request.body, model=request.model)
    return Request(f"/{_with_collection(request.model)}:countTokens", request.model, body)


def _with_collection(model: str) -> str:
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"


def _endpoint(base_url: str) -> tuple[str, str | None]:
    """The base URL and the version that the SDK appends to it; None for the SDK's own. Google's may include one."""
    address, _, version = base_url.rstrip("/").rpartition("/")
    if _VERSION.fullmatch(version) and same_endpoint(address, BASE_URL):
        return address, version
    return base_url, None


def _check_model(model: str) -> None:
    """Check the model: it becomes a part of the URL, and must not change the rest of it."""
    if _MODEL.fullmatch(model) is None or ".." in model:
        raise LLMConfigurationError("model must be the name of a Gemini model, such as 'gemini-2.5-flash'.")
