"""The pricing document: what `GET /pricing` answers.

The first keys and their types are those that L402 clients in the field already read; the others say what those leave
open. Prices here are a promise of intent: what binds is the invoice in a 402.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from farebox.catalog.routes import Route
from farebox.core.amount import Amount
from farebox.core.exchange import Json

PAYMENT_HASH_HEADER: Final = "X-Payment-Hash"
PAYMENT_HASH_FIELD: Final = "payment_hash"


def pricing_document(
    routes: Iterable[Route],
    *,
    free_calls: int,
    protocols: Sequence[str] = (),
    rate_limit_per_minute: int | None = None,
) -> dict[str, Json]:
    """The price list as a JSON object.

    free_calls: how many calls are free per address in any 24 hours. rate_limit_per_minute: per address; None when there
    is none, which is written as 0 beside `rate_limited: false`, because readers expect an integer.
    Without a priced route `l402_enabled` is false, and the free tier and the priced endpoints are left out. A price
    with a fraction of a satoshi is rounded up in `price_sats` and exact in `amount_msat`.
    """
    ordered = sorted(routes, key=lambda route: (route.path, route.method))
    priced: list[Json] = [_priced(route, route.price) for route in ordered if route.price]
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


def _priced(route: Route, price: Amount) -> dict[str, Json]:
    return {
        **_listed(route),
        "price_sats": price.in_sats_ceil(),
        "amount_msat": price.msat,
        "currency": "sat",
        "unit": "request",
    }
