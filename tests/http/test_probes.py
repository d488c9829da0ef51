"""What directories, browsers and the curious see without paying."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as Path
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from farebox.catalog.catalog import Catalog
from farebox.catalog.routes import Route
from farebox.gate import Terms
from farebox.http.paywall import Paywall
from farebox.http.shopfront import shop, shopfront
from farebox.testing.market import Market, Service

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def visiting(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as client:
        yield client


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    market = Market.open(Terms(free_calls=1))
    yield market
    await market.close()


def files_app(market: Market) -> tuple[Paywall, list[str]]:
    """A site with priced and free paths, and what of it was really run."""
    ran: list[str] = []

    async def answer(request: Request) -> PlainTextResponse:
        ran.append(request.url.path)
        return PlainTextResponse(request.url.path)

    async def listen(socket: WebSocket) -> None:
        await socket.accept()
        ran.append("socket")
        await socket.close()

    site = Starlette(
        routes=[
            Path("/files/{name:path}", answer, methods=["GET"]),
            Path("/about", answer),
            Path("/api/dvm", answer, methods=["POST"]),
            WebSocketRoute("/files/live", listen),
        ]
    )
    prices = {"GET /files/*": "5 sat", "POST /api/dvm": "21 sat"}
    return Paywall(site, gate=market.gate, prices=prices), ran


def told(headers: httpx.Headers) -> dict[str, str]:
    """The headers of a 402, without what differs from invoice to invoice."""
    names = ("content-type", "cache-control", "access-control-allow-origin", "access-control-expose-headers")
    return {name: headers[name] for name in names} | {"challenge": headers["www-authenticate"][:5]}


async def test_a_head_always_gets_the_headers_of_the_402_and_leaves_the_free_call(market: Market) -> None:
    app, ran = files_app(market)
    async with visiting(app) as client:
        head = await client.head("/files/a")
        on_post = await client.head("/api/dvm")
        free = await client.get("/files/a")
        asked = await client.get("/files/a")
    assert (head.status_code, on_post.status_code, free.status_code, asked.status_code) == (402, 402, 200, 402)
    assert told(head.headers) == told(on_post.headers) == told(asked.headers)
    assert head.content == b""
    assert ran == ["/files/a"]


async def test_what_a_head_was_challenged_for_is_the_get(market: Market) -> None:
    app, _ = files_app(market)
    async with visiting(app) as client:
        head = await client.head("/files/a")
        challenge = head.headers["www-authenticate"]
        macaroon, invoice = challenge.split('"')[1], challenge.split('"')[3]
        proof = {"authorization": f"L402 {macaroon}:{market.pay(invoice).hex()}"}
        paid_head = await client.head("/files/a", headers=proof)
        got = await client.get("/files/a", headers=proof)
    assert (paid_head.status_code, paid_head.content, paid_head.headers["content-length"]) == (200, b"", "8")
    assert (got.status_code, got.text) == (200, "/files/a")


@pytest.mark.parametrize(
    "target",
    [
        *(
            b"/files/%61",
            b"/files//a",
            b"//files/a",
            b"/files/../files/a",
            b"/files/./a",
            b"/files/a%2fb",
            b"/files/a;x",
        ),
        *(b"/x/../files/a", b"/files\\a", b"/files/%2e%2e/files/a", b"/files/a%00", b"/files/%zz", b"/%66iles/a"),
        *(b"/FILES/a", b"/files/a/", b"/files/%ff", b"/files/a%5cb", b"/files/%252e"),
    ],
)
async def test_no_spelling_of_a_priced_path_gets_past_the_price(market: Market, target: bytes) -> None:
    app, ran = files_app(market)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    from urllib.parse import unquote

    await market.gate.ledger.take_free_call("192.0.2.7/32", limit=1, window=market.gate.terms.free_window)
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": unquote(target.decode("latin-1")),
        "raw_path": target,
        "query_string": b"",
        "root_path": "",
        "client": ("192.0.2.7", 1),
        "headers": [(b"host", b"shop.test")],
    }
    await app(scope, receive, send)
    assert sent[0]["status"] in (400, 402, 404)
    assert ran == []


async def test_what_has_no_price_stays_as_it_is(market: Market) -> None:
    app, ran = files_app(market)
    async with visiting(app) as client:
        about = await client.get("/about", headers={"authorization": "Bearer x"})
        missing = await client.get("/nothing;here")
        other_method = await client.delete("/files/a")
    assert (about.status_code, missing.status_code, other_method.status_code) == (200, 404, 405)
    assert "ratelimit" not in about.headers
    assert ran == ["/about"]


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
async def test_an_override_of_the_method_is_refused_on_a_priced_path(market: Market, header: str) -> None:
    app, ran = files_app(market)
    async with visiting(app) as client:
        answer = await client.get("/files/a", headers={header: "DELETE"})
    assert (answer.status_code, ran) == (400, [])


def test_a_websocket_is_no_way_round_the_price() -> None:
    market = Market.open()
    app, ran = files_app(market)
    with pytest.raises(WebSocketDisconnect) as refused, TestClient(app).websocket_connect("/files/live"):
        pass
    market.sandbox.close()
    assert (refused.value.code, ran) == (1008, [])


async def test_a_page_of_any_origin_may_ask_pay_and_read(market: Market) -> None:
    app, ran = files_app(market)
    asking = {"origin": "https://page.example", "access-control-request-method": "POST"}
    async with visiting(app) as client:
        preflight = await client.options(
            "/api/dvm", headers=asking | {"access-control-request-headers": "authorization, x-custom"}
        )
        answer = await client.post("/api/dvm", json={}, headers={"origin": "https://page.example"})
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    allowed = preflight.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in ("authorization", "x-payment-hash", "content-type", "x-custom"))
    exposed = answer.headers["access-control-expose-headers"].lower()
    assert all(name in exposed for name in ("www-authenticate", "payment-receipt", "retry-after"))
    assert ran == []


async def test_the_402_fits_the_buffer_of_an_ordinary_proxy(market: Market) -> None:
    app, _ = files_app(market)
    async with visiting(app) as client:
        answer = await client.head("/files/a")
    size = sum(len(name) + len(value) + 4 for name, value in answer.headers.raw)
    assert size < 4000  # nginx gives the head of an answer 4 KiB


def catalog() -> Catalog:
    catalog = Catalog()

    @catalog.sell(price="21 sat", path="/api/dvm")
    async def dvm(prompt: str) -> str:
        """Text from a prompt."""
        return prompt

    @catalog.sell(price="500 msat")
    async def echo(word: str, times: int = 1) -> str:
        """A word, some times."""
        return word * times

    return catalog


async def test_a_shop_tells_its_prices_and_its_health_for_free(market: Market) -> None:
    async with visiting(shop(catalog(), market.gate)) as client:
        pricing = await client.get("/pricing")
        health = await client.get("/health")
    document = pricing.json()
    assert [(entry["path"], entry["price_sats"]) for entry in document["priced_endpoints"]] == [
        ("/api/dvm", 21),
        ("/echo", 1),
    ]
    assert document["protocols"] == ["L402", "Payment", "payment_hash"]
    assert pricing.headers["cache-control"] == "public, max-age=60"
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


async def test_a_shop_whose_ledger_is_gone_says_so(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    from farebox.core.errors import StoreUnavailable

    async def gone() -> None:
        raise StoreUnavailable("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(market.gate.ledger, "balance", gone)
        async with visiting(shop(catalog(), market.gate)) as client:
            health = await client.get("/health")
    assert (health.status_code, "retry-after" in health.headers) == (503, True)


async def test_what_a_shop_does_not_sell_is_404_or_405_and_never_passed_on(market: Market) -> None:
    service = Service()
    app = shopfront({Route.read("POST /api/dvm", "21 sat"): service}, market.gate)
    async with visiting(app) as client:
        unknown = await client.get("/etc/passwd")
        absolute = await client.get("/http://example.com/")
        wrong = await client.get("/api/dvm")
        options = await client.options("/api/dvm")
    assert (unknown.status_code, unknown.json()["error"]) == (404, "route-unknown")
    assert (absolute.status_code, wrong.status_code, options.status_code) == (400, 405, 204)
    assert "POST" in wrong.headers["allow"]
    assert service.calls == 0


async def test_arguments_that_do_not_fit_are_told_before_an_invoice_is_made(market: Market) -> None:
    async with visiting(shop(catalog(), market.gate)) as client:
        answer = await client.post("/api/dvm", json={"promt": "hi"})
        broken = await client.post("/api/dvm", content=b"{", headers={"content-type": "application/json"})
        bare = await client.post("/api/dvm", json={})
        free = await client.post("/echo", json={"word": "ab", "times": 2})
        payments = await market.gate.ledger.recent_payments(10)
    assert (answer.status_code, answer.json()["error"]) == (422, "arguments-invalid")
    assert "promt" in answer.json()["detail"]
    assert (broken.status_code, bare.status_code) == (422, 402)
    assert (free.status_code, free.json()) == (200, {"result": "abab"})
    assert len(payments) == 1


async def test_a_free_route_whose_service_is_gone_is_a_problem_and_not_a_500(market: Market) -> None:
    from farebox.core.errors import UpstreamFailed

    async def gone(scope: Any, receive: Any, send: Any) -> None:
        raise UpstreamFailed("connection refused", sent=False)

    routes = {Route.read("GET /free", None): gone, Route.read("GET /paid", "1 sat"): gone}
    async with visiting(shopfront(routes, market.gate)) as client:
        free, first = await client.get("/free"), await client.get("/paid")
    assert (free.status_code, first.status_code) == (502, 502)
    assert json.loads(free.content)["error"] == "upstream-failed"
