"""OpenAI, and every server that speaks one of its formats, through the openai SDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from llm_connect.budget.accounting.bounds import Bound, CountTokens, TokenCounter
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine.clients import Carrier
from llm_connect.engine.endpoints import base_url_from, host_of
from llm_connect.engine.exchange import Counting, Request
from llm_connect.engine.http_options import DEFAULT_REPLY_BYTES, DEFAULT_STRUCTURE, HttpOptions, Verify
from llm_connect.engine.price_lists import DEFAULT_TIER
from llm_connect.engine.provider_adapter import CarriedAdapter, api_key_from, require
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.protocols import chat_completions, responses
from llm_connect.protocols.stream_reading import Reading
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply
from llm_connect.types.response import Prompt

if TYPE_CHECKING:
    import httpx2
    import openai

_HOST = "api.openai.com"
_BASE_URL = f"https://{_HOST}/v1"


class _API(Protocol):
    """A wire format: its module, as the adapter uses it."""

    PATH: str

    def render(self, prompt: Prompt, config: RunConfig, *, model: str, max_tokens: int | None) -> JSON: ...
    def limited(self, body: JSON, max_tokens: int | None) -> JSON: ...
    def bound(self, body: JSON, max_tokens: int, *, own_endpoint: bool, counter: TokenCounter | None) -> Bound: ...
    def streamed(self, body: JSON) -> JSON: ...
    def reading(self) -> Reading: ...
    def parse(self, reply: Reply) -> Answer | Failure: ...


_APIS: Mapping[str, _API] = {"chat_completions": chat_completions, "responses": responses}


class OpenAIAdapter(CarriedAdapter):
    """Models of OpenAI, or of a compatible server at `base_url`.

        adapter = OpenAIAdapter(model="gpt-4.1-mini")
        print(adapter.execute_prompt("Hello").content)

    api: the wire format, "chat_completions" or "responses"; OpenAI's newest models need the second.
    api_key: else the environment variable OPENAI_API_KEY; without one, LLMConfigurationError.
    base_url: else the environment variable OPENAI_BASE_URL, else OpenAI.
    client, async_client: your own SDK clients, for a proxy for example, each for its form of the call. The adapter
        turns their retries off and never closes them. An `async_client` belongs to the one event loop that uses it.
    max_concurrency: requests under way at once, for all threads and for each event loop.
    budget_tracker: the budget of calls without one in their config.
    price: the price of `model`, for a budget that limits USD; else the budget's `prices`, else, at OpenAI's own
        endpoint, the list price.
    count_tokens: a tokenizer, which makes the bound of a prompt tighter than its bytes; with api="responses" also
        "provider", which asks OpenAI itself (`/responses/input_tokens`) before each call with a budget: a round trip
        that costs nothing.
    verify: True trusts SSL_CERT_FILE and SSL_CERT_DIR of the environment, else certifi's roots; or the path of a file
        or directory of certificates, an `ssl.SSLContext`, or False for no check at all.
    proxy: the address of a proxy, such as "http://user:password@proxy.example:3128"; by default none.
    http_client, async_http_client: your own httpx2 clients, each for its form of the call. The adapter never closes
        them, and they follow no redirects here. An async client belongs to the one event loop that uses it.
    max_reply_bytes, max_reply_structure: the most bytes of a decoded reply, and the most brackets and commas. Larger
        limits let one reply block an event loop: reading 64 MiB takes 2 to 5 s and up to 22 times that in memory.

    The output limit is sent as `max_completion_tokens`, or as `max_output_tokens` of responses; both cover thinking
    (OpenAPI document 2.3.0). Responses accepts no limit below 16: a smaller one is held and sent as 16. OpenAI does
    not store a reply of responses unless `model_params` has `store`.
    Under a USD limit, requests to OpenAI carry `service_tier` "default", or the tier in `model_params`, and that tier
    is priced. Without one, the settings of the project would decide (OpenAI's API reference).
    The SDK's retries are off. Redirects are not followed, and proxies of the environment are not used.
    """

    provider: ClassVar[str] = "openai"

    def __init__(
        self,
        *,
        model: str = "gpt-4.1-mini",
        api: Literal["chat_completions", "responses"] = "chat_completions",
        api_key: str | None = None,
        base_url: str | None = None,
        client: openai.OpenAI | None = None,
        async_client: openai.AsyncOpenAI | None = None,
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
        require("openai", extra="openai")
        self.max_reply_bytes = max_reply_bytes
        self._options = HttpOptions(
            verify=verify,
            proxy=proxy,
            http_client=http_client,
            async_http_client=async_http_client,
            max_reply_bytes=max_reply_bytes,
            max_reply_structure=max_reply_structure,
        )
        if (client or async_client) and self._options.connects_otherwise:
            raise LLMConfigurationError("Set verify=, proxy= and http_client= on your own SDK client.")
        self._api = _api_of(api)
        own = [given.api_key for given in (client, async_client) if given is not None]
        self._key = own[0] if own else api_key_from(api_key, "OPENAI_API_KEY")
        self._base_url = base_url_from(base_url, "OPENAI_BASE_URL") or _BASE_URL
        self._own_client, self._own_async_client = client, async_client
        super().__init__(
            model=model,
            max_concurrency=max_concurrency,
            secrets=(self._key, *own),
            budget_tracker=budget_tracker,
            price=price,
            count_tokens=count_tokens,
        )

    @cached_property
    def _own_endpoint(self) -> bool:
        """True if the user's own clients, or else `base_url`, go to OpenAI itself."""
        own = [str(given.base_url) for given in (self._own_client, self._own_async_client) if given is not None]
        return all(map(_is_openais, own or [self._base_url]))

    @property
    def price_list(self) -> str | None:
        return "openai" if self._own_endpoint else None

    def make_carrier(self) -> Carrier:
        from llm_connect.providers.openai_carrier import OpenAICarrier

        return OpenAICarrier(
            api_key=self._key,
            base_url=self._base_url,
            max_connections=self.slots.limit,
            options=self._options,
            client=self._own_client,
            async_client=self._own_async_client,
        )

    def render(self, prompt: Prompt, config: RunConfig, max_tokens: int | None) -> Request:
        model = config.model_name or self.model
        body = self._api.render(prompt, config, model=model, max_tokens=max_tokens)
        return Request(self._api.PATH, model, body)

    def limited(self, request: Request, max_tokens: int | None) -> Request:
        return replace(request, body=self._api.limited(request.body, max_tokens))

    def service_tier(self, config: RunConfig) -> str:
        return str(config.model_params.get("service_tier") or DEFAULT_TIER)

    def priced(self, request: Request, price: Price) -> Request:
        """Add the priced tier. Without a tier, the settings of the user's project would decide."""
        if not self._own_endpoint or request.body.get("service_tier"):
            return request
        return replace(request, body={**request.body, "service_tier": DEFAULT_TIER})

    def bound_of(self, request: Request, max_tokens: int, counter: TokenCounter | None = None) -> Bound:
        return self._api.bound(request.body, max_tokens, own_endpoint=self._own_endpoint, counter=counter)

    def _endpoint_that_counts(self) -> Counting | None:
        if self._api is not responses:
            return None
        return Counting(_counting_request, partial(responses.counted_bound, own_endpoint=self._own_endpoint))

    def streamed(self, request: Request) -> Request:
        return replace(request, body=self._api.streamed(request.body))

    def reading(self) -> Reading:
        return self._api.reading()

    def parse(self, reply: Reply) -> Answer | Failure:
        return self._api.parse(reply)


def _counting_request(request: Request) -> Request:
    return Request(f"{request.path}/input_tokens", request.model, responses.counting_body(request.body))


def _is_openais(address: str) -> bool:
    """True if OpenAI answers at `address`, in any region."""
    host = host_of(address)
    return host == _HOST or host.endswith(f".{_HOST}")


def _api_of(name: object) -> _API:
    if not isinstance(name, str) or name not in _APIS:
        raise LLMConfigurationError(f"api must be one of {', '.join(map(repr, _APIS))}, not {name!r}.")
    return _APIS[name]
