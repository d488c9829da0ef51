"""No spelling of a priced path, under no method, runs what is sold without being paid (target E3)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest

from farebox.catalog.routes import Route
from farebox.http.paywall import Paywall
from farebox.http.request import AsgiApp, Receive, Scope, Send
from farebox.http.shopfront import shopfront
from farebox.testing.market import Market
from farebox.testing.spellings import meanings, spellings

pytestmark = pytest.mark.anyio

PRICED = (b"/api/dvm", b"/Files/a/b")
FREE = (b"/free/x", b"/static/style.css")
SOME = 250
ALL = 5_000
OVERRIDE = [(name, b"POST") for name in (b"x-http-method-override", b"x-http-method", b"x-method-override")]
METHODS: list[tuple[str, list[tuple[bytes, bytes]]]] = [
    *[(method, []) for method in ("GET", "HEAD", "OPTIONS", "POST", "post", "TRACE")],
    *[("GET", [override]) for override in OVERRIDE],
]


class Forgiving:
    """An app that takes a path for whatever any server might take it for, and notes what was sold that way."""

    def __init__(self) -> None:
        self.calls = 0
        self.hits: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        self.calls += 1
        method = scope["method"].upper()
        for name, value in scope["headers"]:
            if name in dict(OVERRIDE) and method != "OPTIONS":
                method = value.decode()
        if b"_method=POST" in scope["query_string"]:
            method = "POST"
        means = meanings(scope["raw_path"])
        sold = any(each.startswith("/files/") for each in means) or (method == "POST" and "/api/dvm" in means)
        if sold:
            self.hits.append((scope["method"], scope["raw_path"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"the goods"})


async def ask(app: AsgiApp, method: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """The status of an unpaid call, as a server hands it on."""
    raw_path, _, query = target.partition(b"?")
    statuses: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path.decode("latin-1")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "client": ("192.0.2.7", 1),
        "headers": [(b"host", b"shop.test"), *headers],
    }
    await app(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize("count", [SOME, pytest.param(ALL, marks=pytest.mark.full)])
@pytest.mark.parametrize("how", ["middleware", "gateway"])
async def test_no_spelling_under_no_method_is_served_unpaid(
    how: str, count: int, seed: int, tell: Callable[[str], object]
) -> None:
    market, goods = Market.open(), Forgiving()
    prices = {"POST /api/dvm": "21 sat", "/Files/*": "5 sat"}
    app: AsgiApp
    if how == "middleware":
        app = Paywall(goods, gate=market.gate, prices=prices)
    else:
        served = {Route.read(key, price): goods for key, price in (prices | {"/*": "free"}).items()}
        app = shopfront(served, market.gate)
    statuses: dict[int, int] = {}
    for target in spellings(random.Random(seed), (*PRICED * 3, *FREE), count):
        for method, headers in METHODS:
            status = await ask(app, method, target, headers)
            statuses[status] = statuses.get(status, 0) + 1
    payments = await market.gate.ledger.recent_payments(1)
    await market.close()
    tell(
        f"E3 {how}: {count} spellings, {sum(statuses.values())} calls: {statuses}, {len(goods.hits)} served unpaid; "
        f"FAREBOX_SEED={seed}"
    )
    assert [] == goods.hits[:10], seed
    assert goods.calls > 0  # so it is not that everything was refused
    assert [] != payments
    assert not [status for status in statuses if status >= 500], seed
