"""What `GET /pricing` answers."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

import pytest

from farebox.catalog.pricing import pricing_document
from farebox.catalog.routes import Route
from farebox.core.amount import Amount
from farebox.core.fiat import Rate

ROUTES = [
    Route.read("POST /score", "1 sat", name="score", summary="Score a user."),
    Route.read("/batch", "1500 msat"),
    Route.read("GET /score", "2 sat"),
    Route.read("POST /audit", "5 sat"),
    Route.read("GET /health", "free"),
]

RATES = {
    "USD": Rate(currency="USD", per_btc=Decimal(64000), seen_at=datetime(2026, 1, 2, tzinfo=UTC), source="rates.test")
}
TOLD = {"currency": "USD", "per_btc": "64000", "seen_at": "2026-01-02T00:00:00Z", "source": "rates.test"}


def test_the_keys_and_types_that_clients_in_the_field_read_are_there() -> None:
    document = pricing_document(ROUTES, free_calls=50, rate_limit_per_minute=100)
    assert document["l402_enabled"] is True
    assert document["free_tier_per_ip_per_day"] == 50
    assert document["payment_hints"] == {
        "header_name": "X-Payment-Hash",
        "query_param_name": "payment_hash",
        "status_code": 402,
    }
    assert document["rate_limit_per_ip_per_min"] == 100
    endpoints = document["priced_endpoints"]
    assert isinstance(endpoints, list)
    assert [(endpoint["path"], endpoint["price_sats"]) for endpoint in endpoints if isinstance(endpoint, dict)] == [
        ("/audit", 5),
        ("/batch", 2),
        ("/score", 2),
        ("/score", 1),
    ]


def test_an_endpoint_says_what_those_keys_leave_open() -> None:
    endpoints = pricing_document(ROUTES, free_calls=0)["priced_endpoints"]
    assert isinstance(endpoints, list)
    assert endpoints[1] == {
        "path": "/batch",
        "method": "*",
        "name": "/batch",
        "summary": "",
        "price_sats": 2,
        "amount_msat": 1500,
        "currency": "sat",
        "unit": "request",
    }


@pytest.mark.parametrize(
    ("price", "told"),
    [
        ("0.5 US cent", {"price_sats": 8, "amount_msat": 8000, "currency": "sat", "rate": TOLD}),
        ("999999999999999 USD", {"rate": TOLD}),  # more than all bitcoin
        ("2 EUR", {}),
    ],
)
def test_a_price_in_fiat_has_satoshis_beside_it_where_they_can_be_told(price: str, told: dict[str, object]) -> None:
    route = Route.read("POST /score", price)
    (listed,) = cast(list[dict[str, object]], pricing_document([route], free_calls=0, rates=RATES)["priced_endpoints"])
    number, _, currency = str(route.price).partition(" ")
    assert {"price": {"amount": number, "currency": currency}} | told == {
        name: value for name, value in listed.items() if name not in ("path", "method", "name", "summary", "unit")
    }


def test_what_is_paid_on_success_says_so() -> None:
    routes = [Route(method="GET", path="/x", price=Amount.sats(2), on_success=True), Route.read("/y", "2 sat")]
    listed = cast(list[dict[str, object]], pricing_document(routes, free_calls=0)["priced_endpoints"])
    assert ["on-success", None] == [each.get("settle") for each in listed]


def test_what_is_free_is_listed_apart() -> None:
    assert pricing_document(ROUTES, free_calls=0)["free_endpoints"] == [
        {"path": "/health", "method": "GET", "name": "GET /health", "summary": ""}
    ]


def test_no_rate_limit_is_a_zero_that_says_so() -> None:
    document = pricing_document(ROUTES, free_calls=0)
    assert (document["rate_limit_per_ip_per_min"], document["rate_limited"]) == (0, False)
    assert pricing_document(ROUTES, free_calls=0, rate_limit_per_minute=9)["rate_limited"] is True


def test_without_a_priced_route_it_says_that_nothing_is_for_sale() -> None:
    document = pricing_document([Route.read("/x", "free")], free_calls=5)
    assert document["l402_enabled"] is False
    assert not {"free_tier_per_ip_per_day", "priced_endpoints"} & set(document)
    assert {"payment_hints", "rate_limit_per_ip_per_min"} <= set(document)


def test_the_protocols_are_those_that_the_gate_speaks() -> None:
    document = pricing_document(ROUTES, free_calls=0, protocols=("L402", "Payment"))
    assert document["protocols"] == ["L402", "Payment"]
    assert json.loads(json.dumps(document)) == document
