"""What OpenRouter charges for a call, as its replies tell: the only ones of this format whose cost is defined.

Source: OpenRouter's documentation of usage accounting, and of keys of one's own (BYOK).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from llm_connect.protocols.usage_figures import usd_figure
from llm_connect.protocols.wire import JSON, mapping

#: The end of the names of models that cost nothing.
_FREE = ":free"
#: How it may be written that the key was the user's own.
_YES = (True, "true", "True")


def cost_in(usage: JSON, model: str) -> Decimal | None:
    """USD of a call of `model` by the account of its reply; None when that is not known.

    No call costs nothing, but for those of a model that is free: a cost of 0 with a price of the provider behind it
    is that of a key of the user's own, and any other says nothing.
    """
    upstream = mapping(usage.get("cost_details")).get("upstream_inference_cost")
    cost = charged(usage.get("cost"), is_byok=usage.get("is_byok") in _YES, upstream=upstream)
    if cost is None or cost or model.endswith(_FREE):
        return cost
    return usd_figure(upstream) or None


def charged(cost: Any, *, is_byok: bool, upstream: Any) -> Decimal | None:
    """USD; with a key of the user's own `cost` is OpenRouter's fee alone, and the provider's price comes on top."""
    fee = usd_figure(cost)
    if fee is None or not is_byok:
        return fee
    paid = usd_figure(upstream)
    return fee + paid if paid else None
