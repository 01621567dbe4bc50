"""OpenRouter, through httpx2."""

from __future__ import annotations

from typing import ClassVar

from llm_connect.calling.carrier import CarriedAdapter, Carrier, require
from llm_connect.calling.provider import Request, api_key_from
from llm_connect.core.bounds import Bound
from llm_connect.core.budget import BudgetTracker
from llm_connect.core.models import Prompt, RunConfig
from llm_connect.core.price import Price
from llm_connect.protocols import chat_completions
from llm_connect.protocols.chat_completions import SHARED_PARAMS, Dialect
from llm_connect.protocols.openrouter_errors import with_openrouters_words
from llm_connect.protocols.wire import Answer, Failure, Reply

BASE_URL = "https://openrouter.ai/api/v1"

_DIALECT = Dialect(
    provider="openrouter",
    limit_field="max_tokens",
    params=SHARED_PARAMS | {"min_p", "provider", "reasoning", "repetition_penalty", "top_a", "top_k"},
    # Without it a provider that does not know the output limit may ignore it (OpenRouter's documentation).
    fixed={"provider": {"require_parameters": True}},
)


class OpenRouterAdapter(CarriedAdapter):
    """Any model that OpenRouter offers.

        adapter = OpenRouterAdapter(model="anthropic/claude-sonnet-5.5")
        print(adapter.execute_prompt("Hello").cost)

    api_key: else the environment variable OPENROUTER_API_KEY; without one, LLMConfigurationError.
    base_url: else OpenRouter.
    app_name, app_url: what OpenRouter shows as the caller (`X-OpenRouter-Title`, `HTTP-Referer`).
    max_concurrency: requests under way at once, for all threads and for each event loop.
    budget_tracker: the budget of calls whose config has none.
    price: what tokens cost here; a budget that limits USD needs one.

    Every reply carries its cost in USD, which `response.cost` gives. Only providers that know all parameters of a
    request are used (`require_parameters`), so that the output limit is honoured. Redirects are not followed,
    proxies of the environment are not used.
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
    ) -> None:
        require("httpx2", extra="openrouter")
        key = api_key_from(api_key, "OPENROUTER_API_KEY")
        self._base_url = base_url or BASE_URL
        shown = {"X-OpenRouter-Title": app_name, "HTTP-Referer": app_url}
        self._headers = {name: value for name, value in shown.items() if value}
        self._headers["Authorization"] = f"Bearer {key}"
        super().__init__(
            model=model,
            max_concurrency=max_concurrency,
            secrets=(key,),
            budget_tracker=budget_tracker,
            price=price,
        )

    def make_carrier(self) -> Carrier:
        from llm_connect.adapters.httpx_carrier import HttpxCarrier

        return HttpxCarrier(base_url=self._base_url, headers=self._headers, max_connections=self.slots.limit)

    def render(self, prompt: Prompt, config: RunConfig, max_tokens: int | None) -> Request:
        model = config.model_name or self.model
        body = chat_completions.render(prompt, config, model=model, max_tokens=max_tokens, dialect=_DIALECT)
        return Request("/chat/completions", model, body)

    def bound_of(self, request: Request, max_tokens: int) -> Bound:
        return chat_completions.bound(request.body, max_tokens, own_endpoint=False)

    def parse(self, reply: Reply) -> Answer | Failure:
        outcome = chat_completions.parse(reply)
        return with_openrouters_words(outcome, reply) if isinstance(outcome, Failure) else outcome
