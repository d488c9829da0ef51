"""The HTTP faces: a paywall round any ASGI app, a shop, a gateway, and clients that pay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.core.lazy import lazily

if TYPE_CHECKING:
    from farebox.http.buy import AsyncClient, Auth, Client
    from farebox.http.manners import Manners
    from farebox.http.paywall import Paywall
    from farebox.http.proxy import Proxy
    from farebox.http.rates import Rates
    from farebox.http.sale import Sale
    from farebox.http.selling import Gate, open_gate
    from farebox.http.shopfront import shop

__all__ = [
    "AsyncClient",
    "Auth",
    "Client",
    "Gate",
    "Manners",
    "Paywall",
    "Proxy",
    "Rates",
    "Sale",
    "open_gate",
    "shop",
]

__getattr__ = lazily(
    __name__,
    {
        "AsyncClient": "farebox.http.buy",
        "Auth": "farebox.http.buy",
        "Client": "farebox.http.buy",
        "Gate": "farebox.http.selling",
        "Manners": "farebox.http.manners",
        "Paywall": "farebox.http.paywall",
        "Proxy": "farebox.http.proxy",
        "Rates": "farebox.http.rates",
        "Sale": "farebox.http.sale",
        "open_gate": "farebox.http.selling",
        "shop": "farebox.http.shopfront",
    },
)
