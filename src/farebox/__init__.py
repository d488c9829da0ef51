"""Farebox: sell an HTTP call for a few sats over Lightning, and let any program buy one within a budget.

Selling: `open_gate`, then `farebox.http.Paywall` round an app, `gate.price(...)` in FastAPI, or a `Catalog`.
Buying: `Client` and `AsyncClient` are httpx clients that pay by themselves; `Auth` makes a client of yours one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.core.lazy import lazily

if TYPE_CHECKING:
    from farebox import http
    from farebox.catalog.capability import Capability
    from farebox.catalog.catalog import Catalog
    from farebox.core.amount import Amount
    from farebox.core.bolt11 import Invoice
    from farebox.core.budget import Budget
    from farebox.core.errors import (
        FareboxError,
        NothingPaid,
        OverBudget,
        PaidNotServed,
        PaymentUnresolved,
        PurchaseError,
    )
    from farebox.core.exchange import Receipt
    from farebox.core.purse_token import PurseToken
    from farebox.core.secret import KeyRing
    from farebox.gate import Terms
    from farebox.http.buy import AsyncClient, Auth, Client
    from farebox.http.buyer import Buyer, open_buyer
    from farebox.http.sale import Sale
    from farebox.http.selling import Gate, open_gate
    from farebox.lightning import open_receiver, open_wallet
    from farebox.payer.spending import spending

__all__ = [
    "Amount",
    "AsyncClient",
    "Auth",
    "Budget",
    "Buyer",
    "Capability",
    "Catalog",
    "Client",
    "FareboxError",
    "Gate",
    "Invoice",
    "KeyRing",
    "NothingPaid",
    "OverBudget",
    "PaidNotServed",
    "PaymentUnresolved",
    "PurchaseError",
    "PurseToken",
    "Receipt",
    "Sale",
    "Terms",
    "http",
    "open_buyer",
    "open_gate",
    "open_receiver",
    "open_wallet",
    "spending",
]

__getattr__ = lazily(
    __name__,
    {
        "Amount": "farebox.core.amount",
        "AsyncClient": "farebox.http.buy",
        "Auth": "farebox.http.buy",
        "Budget": "farebox.core.budget",
        "Buyer": "farebox.http.buyer",
        "Capability": "farebox.catalog.capability",
        "Catalog": "farebox.catalog.catalog",
        "Client": "farebox.http.buy",
        "FareboxError": "farebox.core.errors",
        "Gate": "farebox.http.selling",
        "Invoice": "farebox.core.bolt11",
        "KeyRing": "farebox.core.secret",
        "NothingPaid": "farebox.core.errors",
        "OverBudget": "farebox.core.errors",
        "PaidNotServed": "farebox.core.errors",
        "PaymentUnresolved": "farebox.core.errors",
        "PurchaseError": "farebox.core.errors",
        "PurseToken": "farebox.core.purse_token",
        "Receipt": "farebox.core.exchange",
        "Sale": "farebox.http.sale",
        "Terms": "farebox.gate",
        "http": "farebox.http",
        "open_buyer": "farebox.http.buyer",
        "open_gate": "farebox.http.selling",
        "open_receiver": "farebox.lightning",
        "open_wallet": "farebox.lightning",
        "spending": "farebox.payer.spending",
    },
)
