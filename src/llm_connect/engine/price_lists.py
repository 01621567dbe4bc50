"""The providers' list prices as `Price`, from the snapshot in genai-prices. Nothing is fetched.

Importing this module makes them known to the manual reservations of every `BudgetTracker`.

The package takes half a second to import, and a model 50 microseconds to find. So the import happens on first use, and
the lookup once an hour for each model: prices change on dates that the snapshot knows in advance.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from importlib.util import find_spec
from itertools import product
from typing import TYPE_CHECKING

from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission import arguments
from llm_connect.budget.tracker import BudgetTracker as BudgetTracker

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

#: The service tier that is priced if the request names none.
DEFAULT_TIER = "default"
#: The tier that leaves the choice to the settings of the user's project.
_AUTO_TIER = "auto"
#: The tiers that may serve a tier, where these are not only itself and the default one (OpenAPI document 2.3.0).
_MAY_SERVE = {DEFAULT_TIER: (DEFAULT_TIER,), "fast": (DEFAULT_TIER, "fast", "priority")}

#: Adapters whose provider has a different id in genai-prices.
_PROVIDERS = {"gemini": "google", "claude-code": "anthropic"}
#: The providers to search if no adapter is named.
_OWN = ("openai", "google", "anthropic", "openrouter")
_RATES = {
    "prompt": "input_mtok",
    "completion": "output_mtok",
    "cached": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
}
_THOUSAND_CALLS = "requests_kcount"
_KNOWN = frozenset({*_RATES.values(), _THOUSAND_CALLS})
#: Prices that do not concern a text request: it has no other input, offers no tool, and asks for no one-hour cache.
_CANNOT_OCCUR = re.compile(
    r"(input|cache)_(audio|image|video)_.*|cache_write_1h_.*|(web|storage|social)_searches_.*|code_executions_.*"
)
#: Models that search on every request, at a price for each search.
_SEARCHES = re.compile(r"(^|-)search(-|$)|deep-research|sonar|[:-]online")
#: The suffixes that a known model's name may have. With another one it may be a different and dearer model.
_VERSION = re.compile(r"(-(latest|preview|exp|\d{3,}|\d\d-\d\d(\d\d)?))*(@\w+)?")
#: With the user's own provider key, OpenRouter adds 5 % to the provider's price (its FAQ on BYOK).
_MAY_COME_ON_TOP = {"openrouter": Decimal("1.05")}
_TIER = "service_tier"
_HOURS = 48
_EXACT = Context(prec=60)


class ListPrice(Price):
    """The price of a model in the snapshot, for the requested service tier.

    A hold assumes the highest price that the request may get: of now and the next two days, and of each tier that may
    serve it. Settling uses the price of now, for the tier that the reply names.
    """

    __slots__ = ("_by_tier", "_may_be", "_source")

    def __init__(self, source: str, now: Price, may_be: Iterable[Price], by_tier: Mapping[str, Price]) -> None:
        for name in Price.__slots__:
            setattr(self, name, getattr(now, name))
        self._source = source
        self._may_be = tuple(may_be)
        self._by_tier = by_tier

    @property
    def source(self) -> str:
        return self._source

    def at_most(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:
        return max(price.at_most(prompt_tokens, completion_tokens, calls) for price in self._may_be)

    def dearest(self, tokens: int, calls: int) -> int:
        return max(price.dearest(tokens, calls) for price in self._may_be)

    def billed_as(self, service_tier: str | None) -> Price | None:
        """Return the price of the tier in the reply; a model without service tiers has only one."""
        return self if service_tier is None or len(self._by_tier) == 1 else self._by_tier.get(service_tier)


def list_price(provider: str, model: str, service_tier: str = DEFAULT_TIER) -> ListPrice | None:
    """The price of `model` at the provider's own endpoint; `provider` is its id in genai-prices.

    None if there is no reliable price: genai-prices is not installed; it does not know the model or the tier; or the
    price has parts that no token limit bounds, or that no usage reports, such as searches or generated images.
    """
    return _list_price(provider, model.lower(), service_tier, int(time.time() // 3600))


def known_price(adapter: str | None, model: str) -> Price | None:
    """The list price of `model` at `adapter`'s provider; without an adapter, the highest among all that list it."""
    providers = _OWN if adapter is None else (_PROVIDERS.get(adapter, adapter),)
    found = [price for provider in providers if (price := list_price(provider, model)) is not None]
    return max(found, key=lambda price: price.dearest(1_000_000, 1), default=None)


arguments.price_lists.append(known_price)


class Snapshot:
    """Tells if the snapshot is imported, so that looking up a price needs no import any more."""

    loaded = False


def load() -> None:
    """Import the prices, if they are installed; this takes up to two seconds."""
    if find_spec("genai_prices") is not None:
        # A package that cannot be imported gives no prices.
        with suppress(Exception):
            importlib.import_module("genai_prices.data")
    Snapshot.loaded = True


@lru_cache(maxsize=1_000)
def _list_price(provider: str, name: str, service_tier: str, hour: int) -> ListPrice | None:
    if find_spec("genai_prices") is None:
        return None
    try:
        with localcontext(_EXACT):
            return _priced(provider, _model(provider, name), service_tier, datetime.fromtimestamp(hour * 3600, UTC))
    except (AttributeError, ImportError, LookupError, TypeError):
        # Unknown, or in a form that is newer than this code: either way there is no price.
        return None


def _priced(provider: str, model: ModelInfo, asked: str, now: datetime) -> ListPrice:
    by_tier = {tier: _price(model, model.get_prices(now, {_TIER: tier})) for tier in _tiers(model, now)}
    price = max(by_tier.values(), key=_dearness) if asked == _AUTO_TIER else by_tier[asked]
    served_by = by_tier if asked == _AUTO_TIER else _MAY_SERVE.get(asked, (DEFAULT_TIER, asked))
    may_be = [_price(model, prices, _MAY_COME_ON_TOP.get(provider, 1)) for prices in _coming(model, served_by, now)]
    return ListPrice(f"genai-prices:{provider}/{model.id}", price, may_be, by_tier)


def _model(provider: str, name: str) -> ModelInfo:
    """The model of exactly that name. A model that only shares its first letters may be dearer."""
    from genai_prices.data import providers

    model = {listed.id: listed for listed in providers}[provider].find_model(name)
    if model is None or _SEARCHES.search(name):
        raise LookupError(name)
    by_whole_name = not model.is_match(f"{name}-x") and not model.is_match(f"x-{name}")
    rest = name.replace(".", "-").removeprefix(model.id.lower().replace(".", "-"))
    if not by_whole_name and not _VERSION.fullmatch(rest):
        raise LookupError(name)
    return model


def _tiers(model: ModelInfo, now: datetime) -> list[str]:
    """The service tiers with known prices."""
    variants = [
        variant
        for variant in model.price_variants or ()
        if variant.when.keys() == {_TIER} and (variant.constraint is None or variant.constraint.active(now))
    ]
    return list(dict.fromkeys([DEFAULT_TIER, *(variant.when[_TIER] for variant in variants)]))


def _coming(model: ModelInfo, tiers: Iterable[str], now: datetime) -> list[ModelPrice]:
    """The different prices by which a request may be billed if it is sent from now on."""
    found: list[ModelPrice] = []
    for tier, hours in product(tiers, range(_HOURS)):
        prices = model.get_prices(now + timedelta(hours=hours), {_TIER: tier})
        if prices not in found:
            found.append(prices)
    return found


def _price(model: ModelInfo, prices: ModelPrice, on_top: Decimal | int = 1) -> Price:
    given = {key: value for key, value in vars(prices).items() if value is not None}
    if not given and model.id.endswith(":free"):
        return Price.free()
    unknown = [key for key in given if key not in _KNOWN and not _CANNOT_OCCUR.fullmatch(key)]
    if unknown or not given.keys() >= {_RATES["prompt"], _RATES["completion"]}:
        raise LookupError(model.id)
    starts = {tier.start for value in given.values() for tier in getattr(value, "tiers", ())}
    levels = {start: _flat(given, start + 1, on_top) for start in starts}
    return _flat(given, 0, on_top, levels)


def _flat(
    given: Mapping[str, Decimal | TieredPrices],
    prompt_tokens: int,
    on_top: Decimal | int,
    above: Mapping[int, Price] | None = None,
) -> Price:
    """The price of a request with this many prompt tokens."""
    rates = {name: _rate(given[key], prompt_tokens) * on_top for name, key in _RATES.items() if key in given}
    call = _rate(given.get(_THOUSAND_CALLS, Decimal(0)), prompt_tokens) * on_top / 1000
    return Price(**rates, call=call, above=above)


def _rate(price: Decimal | TieredPrices, prompt_tokens: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if prompt_tokens > tier.start]
    return reached[-1] if reached else price.base


def _dearness(price: Price) -> int:
    return price.at_most(1_000_000, 1_000_000, 1)
