"""OpenRouter's charge for a call, from its replies: the only ones of this format with a defined cost.

Source: OpenRouter's documentation of usage accounting, and of the user's own provider keys (BYOK).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from llm_connect.protocols.usage_figures import usd_figure
from llm_connect.protocols.wire import JSON, mapping

#: The suffix of models that cost nothing.
_FREE = ":free"
#: The spellings by which a reply says that the key was the user's own.
_YES = (True, "true", "True")


def cost_in(usage: JSON, model: str) -> Decimal | None:
    """USD of a call of `model` by the usage in its reply; None if it is unknown.

    Only calls of free models cost nothing. A cost of 0 with a price of the provider beside it means a key of the
    user's own; any other 0 means nothing.
    """
    upstream = mapping(usage.get("cost_details")).get("upstream_inference_cost")
    cost = charged(usage.get("cost"), is_byok=usage.get("is_byok") in _YES, upstream=upstream)
    if cost is None or cost or model.endswith(_FREE):
        return cost
    return usd_figure(upstream) or None


def charged(cost: Any, *, is_byok: bool, upstream: Any) -> Decimal | None:
    """USD charged. With the user's own key, `cost` is only OpenRouter's fee, and the provider's price is added."""
    fee = usd_figure(cost)
    if fee is None or not is_byok:
        return fee
    paid = usd_figure(upstream)
    return fee + paid if paid else None
