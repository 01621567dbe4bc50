"""OpenAI, and every server that speaks its chat completions, through the openai SDK."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from llm_connect.calling.carrier import CarriedAdapter, Carrier, require
from llm_connect.calling.provider import Request, api_key_from
from llm_connect.core.bounds import Bound
from llm_connect.core.budget import BudgetTracker
from llm_connect.core.models import Prompt, RunConfig
from llm_connect.core.price import Price
from llm_connect.protocols import chat_completions
from llm_connect.protocols.chat_completions import SHARED_PARAMS, Dialect
from llm_connect.protocols.wire import Answer, Failure, Reply

if TYPE_CHECKING:
    import openai

_DIALECT = Dialect(
    provider="openai",
    params=SHARED_PARAMS | {"prompt_cache_key", "safety_identifier", "service_tier", "store"},
)


class OpenAIAdapter(CarriedAdapter):
    """Chat completions of OpenAI, or of a compatible server at `base_url`.

        adapter = OpenAIAdapter(model="gpt-4.1-mini")
        print(adapter.execute_prompt("Hello").content)

    api_key: else the environment variable OPENAI_API_KEY; without one, LLMConfigurationError.
    base_url: else the environment variable OPENAI_BASE_URL, else OpenAI.
    client, async_client: SDK clients of your own, for a proxy for example, each for its form of the call. Their
        retries are turned off, they are not closed, and an `async_client` belongs to the one event loop that
        uses it.
    max_concurrency: requests under way at once, for all threads and for each event loop.
    budget_tracker: the budget of calls whose config has none.
    price: what tokens cost here; a budget that limits USD needs one.

    The output limit is sent as `max_completion_tokens`, which covers thinking too (OpenAPI document 2.3.0).
    The SDK's retries are off, redirects are not followed, proxies of the environment are not used.
    """

    provider: ClassVar[str] = "openai"

    def __init__(
        self,
        *,
        model: str = "gpt-4.1-mini",
        api_key: str | None = None,
        base_url: str | None = None,
        client: openai.OpenAI | None = None,
        async_client: openai.AsyncOpenAI | None = None,
        max_concurrency: int = 1000,
        budget_tracker: BudgetTracker | None = None,
        price: Price | None = None,
    ) -> None:
        require("openai", extra="openai")
        own = [given.api_key for given in (client, async_client) if given is not None]
        self._key = own[0] if own else api_key_from(api_key, "OPENAI_API_KEY")
        self._base_url = base_url
        self._own_client, self._own_async_client = client, async_client
        super().__init__(
            model=model,
            max_concurrency=max_concurrency,
            secrets=(self._key, *own),
            budget_tracker=budget_tracker,
            price=price,
        )

    @property
    def _own_endpoint(self) -> bool:
        own_client = self._own_client or self._own_async_client
        return own_client is None and not self._base_url and not os.environ.get("OPENAI_BASE_URL")

    def make_carrier(self) -> Carrier:
        from llm_connect.adapters.openai_carrier import OpenAICarrier

        return OpenAICarrier(
            api_key=self._key,
            base_url=self._base_url,
            max_connections=self.slots.limit,
            client=self._own_client,
            async_client=self._own_async_client,
        )

    def render(self, prompt: Prompt, config: RunConfig, max_tokens: int | None) -> Request:
        model = config.model_name or self.model
        body = chat_completions.render(prompt, config, model=model, max_tokens=max_tokens, dialect=_DIALECT)
        return Request("/chat/completions", model, body)

    def bound_of(self, request: Request, max_tokens: int) -> Bound:
        return chat_completions.bound(request.body, max_tokens, own_endpoint=self._own_endpoint)

    def parse(self, reply: Reply) -> Answer | Failure:
        return chat_completions.parse(reply)
