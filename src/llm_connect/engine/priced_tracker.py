"""The BudgetTracker that users import: it knows the list prices of the providers, for manual reservations."""

from __future__ import annotations

from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.reservations import price_lists
from llm_connect.budget.tracker import BudgetTracker as BudgetTracker

#: Adapters whose provider has a different id in genai-prices.
_PROVIDERS = {"gemini": "google", "claude-code": "anthropic"}
#: The providers to search if no adapter is named.
_OWN = ("openai", "google", "anthropic", "openrouter")


def known_price(adapter: str | None, model: str) -> Price | None:
    """The list price of `model` at `adapter`'s provider; without an adapter, the highest among all that list it."""
    from llm_connect.engine.price_lists import list_price  # it is looked for only under a limit in USD

    providers = _OWN if adapter is None else (_PROVIDERS.get(adapter, adapter),)
    found = [price for provider in providers if (price := list_price(provider, model)) is not None]
    return max(found, key=lambda price: price.dearest(1_000_000, 1), default=None)


price_lists.append(known_price)
