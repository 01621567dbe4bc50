"""OpenRouter, through httpx2."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from llm_connect._flows import Flow, adrive, drive
from llm_connect._validation import check_count, check_number
from llm_connect.budget.accounting.bounds import Bound, CountTokens, TokenCounter
from llm_connect.budget.accounting.prices import Price, nano_usd_of
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine.clients import Carrier
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.endpoints import base_url_from, same_endpoint
from llm_connect.engine.exchange import Request
from llm_connect.engine.http_options import DEFAULT_REPLY_BYTES, DEFAULT_STRUCTURE, HttpOptions, Verify
from llm_connect.engine.provider_adapter import CarriedAdapter, api_key_from, require
from llm_connect.engine.token_count import ask_until_answered
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.protocols import chat_completions, openrouter_replies
from llm_connect.protocols.chat_completions import SHARED_PARAMS, Dialect
from llm_connect.protocols.openrouter_replies import Generation
from llm_connect.protocols.stream_reading import Reading
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply
from llm_connect.types.response import Prompt

if TYPE_CHECKING:
    import httpx2

BASE_URL = "https://openrouter.ai/api/v1"

_DIALECT = Dialect(
    provider="openrouter",
    limit_field="max_tokens",
    params=SHARED_PARAMS | {"min_p", "provider", "reasoning", "repetition_penalty", "top_a", "top_k"},
    # Without it, a provider that does not support the output limit may ignore it (OpenRouter's documentation).
    fixed={"provider": {"require_parameters": True}},
)


class OpenRouterAdapter(CarriedAdapter):
    """Any model that OpenRouter offers.

        adapter = OpenRouterAdapter(model="anthropic/claude-sonnet-5.5")
        print(adapter.execute_prompt("Hello").cost)

    api_key: else the environment variable OPENROUTER_API_KEY; without one, LLMConfigurationError.
    base_url: else OpenRouter.
    app_name, app_url: the caller's name and address at OpenRouter (`X-OpenRouter-Title`, `HTTP-Referer`).
    max_concurrency: requests under way at once, for all threads and for each event loop.
    budget_tracker: the budget of calls without one in their config.
    price: the price of `model`, for a budget that limits USD; else the budget's `prices`, else, at OpenRouter's own
        endpoint, the list price.
    count_tokens: a tokenizer, which makes the bound of a prompt tighter than its bytes.
    verify: True trusts SSL_CERT_FILE and SSL_CERT_DIR of the environment, else certifi's roots; or the path of a file
        or directory of certificates, an `ssl.SSLContext`, or False for no check at all.
    proxy: the address of a proxy, such as "http://user:password@proxy.example:3128"; by default none.
    http_client, async_http_client: your own httpx2 clients, each for its form of the call. The adapter never closes
        them, and they follow no redirects here. An async client belongs to the one event loop that uses it.
    max_reply_bytes, max_reply_structure: the most bytes of a decoded reply, and the most brackets and commas. Larger
        limits let one reply block an event loop: reading 64 MiB takes 2 to 5 s and up to 22 times that in memory.

    Every reply carries its cost in USD, which becomes `response.cost`. OpenRouter uses only providers that support all
    parameters of a request (`require_parameters`), so that they honour the output limit. Under a USD limit it uses only
    those that ask for no more than the held price (`max_price`, in USD for a million tokens and for a request:
    OpenRouter's documentation of MaxPrice). Redirects are not followed, and proxies of the environment are not used.
    """

    provider: ClassVar[str] = "openrouter"

    def __init__(
        self,
        *,
        model: str = "anthropic/claude-sonnet-5.5",
        api_key: str | None = None,
        base_url: str | None = None,
        app_name: str | None = None,
        app_url: str | None = None,
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
        require("httpx2", extra="openrouter")
        self.max_reply_bytes = max_reply_bytes
        self._options = HttpOptions(
            verify=verify,
            proxy=proxy,
            http_client=http_client,
            async_http_client=async_http_client,
            max_reply_bytes=max_reply_bytes,
            max_reply_structure=max_reply_structure,
        )
        key = api_key_from(api_key, "OPENROUTER_API_KEY")
        self._base_url = base_url_from(base_url) or BASE_URL
        self._own_endpoint = same_endpoint(self._base_url, BASE_URL)
        shown = {"X-OpenRouter-Title": app_name, "HTTP-Referer": app_url}
        self._headers = {name: value for name, value in shown.items() if value}
        self._headers["Authorization"] = f"Bearer {key}"
        super().__init__(
            model=model,
            max_concurrency=max_concurrency,
            secrets=(key,),
            budget_tracker=budget_tracker,
            price=price,
            count_tokens=count_tokens,
        )

    @property
    def price_list(self) -> str | None:
        return "openrouter" if self._own_endpoint else None

    def make_carrier(self) -> Carrier:
        from llm_connect.providers.httpx_carrier import HttpxCarrier

        return HttpxCarrier(
            base_url=self._base_url, headers=self._headers, max_connections=self.slots.limit, options=self._options
        )

    def look_up_generation(self, request_id: str, *, timeout_seconds: float = 30.0, max_retries: int = 4) -> Generation:
        """Look up OpenRouter's record of a request, even if its reply never arrived.

            except LLMConnectionError as error:
                if error.request_id and error.ledger_entry:
                    told = adapter.look_up_generation(error.request_id)
                    tracker.correct(error.ledger_entry, tokens=told.usage.total_tokens, usd=told.cost)

        request_id: `response.metadata["request_id"]` or `error.request_id`, as "gen-...".
        timeout_seconds: a total. max_retries: how often to ask again, since the record takes some seconds to appear.

        It costs nothing and books nothing. Raises LLMError; for an id that OpenRouter does not know, LLMAPIError with
        status 404.
        """
        return drive(self._look_up(request_id, timeout_seconds, max_retries))

    async def async_look_up_generation(
        self, request_id: str, *, timeout_seconds: float = 30.0, max_retries: int = 4
    ) -> Generation:
        """Like `look_up_generation`, for a coroutine."""
        return await adrive(self._look_up(request_id, timeout_seconds, max_retries))

    def _look_up(self, request_id: str, timeout_seconds: float, max_retries: int) -> Flow[Generation]:
        check_number("timeout_seconds", timeout_seconds, above=0)
        check_count("max_retries", max_retries, least=0)
        request = Request(openrouter_replies.path_of(request_id), "", {}, method="GET")
        deadline = Deadline.after(timeout_seconds)
        return ask_until_answered(
            self, request, openrouter_replies.generation_in, deadline=deadline, max_retries=max_retries
        )

    def render(self, prompt: Prompt, config: RunConfig, max_tokens: int | None) -> Request:
        model = config.model_name or self.model
        body = chat_completions.render(prompt, config, model=model, max_tokens=max_tokens, dialect=_DIALECT)
        return Request(chat_completions.PATH, model, body)

    def limited(self, request: Request, max_tokens: int | None) -> Request:
        return replace(request, body=chat_completions.limited(request.body, max_tokens, dialect=_DIALECT))

    def priced(self, request: Request, price: Price) -> Request:
        """Add `max_price`, so that OpenRouter chooses no provider above the held price."""
        routing = request.body["provider"]
        body = {**request.body, "provider": {**routing, "max_price": _max_price(price, routing.get("max_price"))}}
        return replace(request, body=body)

    def bound_of(self, request: Request, max_tokens: int, counter: TokenCounter | None = None) -> Bound:
        return chat_completions.bound(request.body, max_tokens, own_endpoint=False, counter=counter)

    def streamed(self, request: Request) -> Request:
        body = chat_completions.streamed(request.body)
        if self._own_endpoint:
            # The usage always comes; asking for it could exclude providers (require_parameters).
            del body["stream_options"]
        return replace(request, body=body)

    def reading(self) -> Reading:
        return chat_completions.reading()

    def parse(self, reply: Reply) -> Answer | Failure:
        return openrouter_replies.parse(reply)


def _max_price(price: Price, wished: object) -> JSON:
    """USD for a million tokens and for a request, in the form that OpenRouter compares with its providers' list prices.

    The caller's own limits stay, unless they are higher.
    """
    if not isinstance(wished, dict | None):
        raise LLMConfigurationError("model_params['provider']['max_price'] must be a dict.")
    rates = price.in_usd()
    most = {"prompt": rates["prompt"], "completion": rates["completion"], "request": rates["call"]}
    return {**(wished or {}), **{name: _least(name, usd, (wished or {}).get(name)) for name, usd in most.items()}}


def _least(name: str, usd: Decimal, wished: Any) -> Any:
    if wished is None or nano_usd_of(f"max_price[{name!r}]", wished) > nano_usd_of(name, usd):
        return float(usd)
    return wished
