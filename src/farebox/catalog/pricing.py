"""The pricing document: what `GET /pricing` answers.

The first keys and their types are those that L402 clients in the field already read; the others say what those leave
open. Prices here are a promise of intent: what binds is the invoice in a 402.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from farebox.catalog.routes import Route
from farebox.core.amount import Amount
from farebox.core.errors import MalformedAmount
from farebox.core.exchange import Json
from farebox.core.fiat import Conversion, Fiat, Rate

PAYMENT_HASH_HEADER: Final = "X-Payment-Hash"
PAYMENT_HASH_FIELD: Final = "payment_hash"


def pricing_document(
    routes: Iterable[Route],
    *,
    free_calls: int,
    protocols: Sequence[str] = (),
    rate_limit_per_minute: int | None = None,
    rates: Mapping[str, Rate] | None = None,
) -> dict[str, Json]:
    """The price list as a JSON object.

    free_calls: how many calls are free per address in any 24 hours. rate_limit_per_minute: per address; None when there
    is none, which is written as 0 beside `rate_limited: false`, because readers expect an integer.
    Without a priced route `l402_enabled` is false, and the free tier and the priced endpoints are left out. A price
    with a fraction of a satoshi is rounded up in `price_sats` and exact in `amount_msat`.
    rates: by currency, as they are now. A price in fiat is written beside what it is in satoshis at that rate; without
    a rate nothing is said about satoshis, for a guess would be taken for a price. What is paid on success says so by
    `settle`.
    """
    ordered = sorted(routes, key=lambda route: (route.path, route.method))
    priced: list[Json] = [_priced(route, route.price, rates or {}) for route in ordered if route.price]
    free: list[Json] = [_listed(route) for route in ordered if route.price is None]
    document: dict[str, Json] = {"l402_enabled": bool(priced)}
    if priced:
        document["free_tier_per_ip_per_day"] = free_calls
        document["priced_endpoints"] = priced
    document["payment_hints"] = {
        "header_name": PAYMENT_HASH_HEADER,
        "query_param_name": PAYMENT_HASH_FIELD,
        "status_code": 402,
    }
    document["rate_limit_per_ip_per_min"] = rate_limit_per_minute or 0
    document["rate_limited"] = rate_limit_per_minute is not None
    document["protocols"] = [*protocols]
    document["free_endpoints"] = free
    return document


def _listed(route: Route) -> dict[str, Json]:
    return {"path": route.path, "method": route.method, "name": route.title, "summary": route.summary}


def rate_members(price: Fiat, rate: Rate | None) -> dict[str, Json]:
    """A price in fiat, and the rate at which it is asked for, as members of a JSON object; numbers are texts."""
    members: dict[str, Json] = {"price": {"amount": price.number, "currency": price.currency}}
    if rate is not None:
        members["rate"] = {
            "currency": rate.currency,
            "per_btc": f"{rate.per_btc:f}",
            "seen_at": rate.seen_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "source": rate.source,
        }
    return members


def _priced(route: Route, price: Amount | Fiat, rates: Mapping[str, Rate]) -> dict[str, Json]:
    amount: Amount | None
    more: dict[str, Json] = {}
    if isinstance(price, Fiat):
        rate = rates.get(price.currency)
        amount, more = _converted(price, rate), rate_members(price, rate)
    else:
        amount = price
    told: dict[str, Json] = (
        {} if amount is None else {"price_sats": amount.in_sats_ceil(), "amount_msat": amount.msat, "currency": "sat"}
    )
    if route.on_success:
        more["settle"] = "on-success"
    return {**_listed(route), **told, **more, "unit": "request"}


def _converted(price: Fiat, rate: Rate | None) -> Amount | None:
    try:
        return None if rate is None else Conversion(price=price, rate=rate).amount
    except MalformedAmount:  # more than all bitcoin
        return None
