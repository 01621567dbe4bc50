"""The budget as users import it: one that knows the list prices of the providers, for reservations of their own."""

from __future__ import annotations

from llm_connect.core.budget import BudgetTracker as BudgetTracker
from llm_connect.core.price import Price
from llm_connect.core.reservations import price_lists

#: Names of adapters whose provider has another id in genai-prices.
_PROVIDERS = {"gemini": "google", "claude-code": "anthropic"}
#: Where a model is looked for when no adapter is named.
_OWN = ("openai", "google", "anthropic", "openrouter")


def known_price(adapter: str | None, model: str) -> Price | None:
    """The list price of `model` at the provider that `adapter` names; without one the dearest of those that list it."""
    from llm_connect.calling.prices import list_price  # it is looked for only under a limit in USD

    providers = _OWN if adapter is None else (_PROVIDERS.get(adapter, adapter),)
    found = [price for provider in providers if (price := list_price(provider, model)) is not None]
    return max(found, key=lambda price: price.dearest(1_000_000, 1), default=None)


price_lists.append(known_price)
