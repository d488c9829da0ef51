"""Ways round the price that were tried once and must not work again."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import unquote

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.routing import Route as Path

from farebox.catalog.routes import Route
from farebox.core.payment import PaymentState
from farebox.http.paywall import Manners, Paywall
from farebox.http.sale import Sale
from farebox.http.selling import open_gate
from farebox.http.shopfront import shopfront
from farebox.testing.market import Market, Service

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def visiting(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 1), **options)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as client:
        yield client


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    market = Market.open()
    yield market
    await market.close()


def site(ran: list[str]) -> Starlette:
    async def answer(request: Request) -> PlainTextResponse:
        ran.append(request.url.path)
        return PlainTextResponse("the goods")

    return Starlette(routes=[Path("/api/dvm", answer, methods=["POST"])])


@pytest.mark.parametrize("path", ["/v1/api/dvm", "/api/dvm", "/v1/v1/api/dvm"])
async def test_a_root_path_is_no_way_round_the_price(market: Market, path: str) -> None:
    ran: list[str] = []
    paywall = Paywall(site(ran), gate=market.gate, prices={"POST /api/dvm": "21 sat"})
    async with visiting(paywall, root_path="/v1") as client:
        answer = await client.post(path, json={"a": 1})
    assert (answer.status_code in (402, 404), ran) == (True, [])


async def test_a_mounted_app_is_priced_where_it_is_mounted(market: Market) -> None:
    ran: list[str] = []
    paywall = Paywall(site(ran), gate=market.gate, prices={"POST /api/dvm": "21 sat"})
    async with visiting(Starlette(routes=[Mount("/v1", paywall)])) as client:
        answer = await client.post("/v1/api/dvm", json={"a": 1})
        proof = await bought(market, answer)
        served = await client.post("/v1/api/dvm", json={"a": 1}, headers=proof)
    assert (answer.status_code, served.status_code, ran) == (402, 200, ["/v1/api/dvm"])


@pytest.mark.parametrize(
    "target", ["/%761/api/dvm", "/v%31/api/dvm", "/v1//api/dvm", "/v1/%61pi/dvm", "/x/../v1/api/dvm"]
)
@pytest.mark.parametrize("by", ["mount", "pattern", "root_path"])
async def test_no_spelling_of_a_prefix_is_a_way_round_the_price(market: Market, target: str, by: str) -> None:
    ran: list[str] = []
    paywall = Paywall(site(ran), gate=market.gate, prices={"POST /api/dvm": "21 sat"})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    app: Any = paywall if by == "root_path" else Starlette(routes=[Mount("/v1" if by == "mount" else "/{t}", paywall)])
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": unquote(target),
        "raw_path": target.encode(),
        "query_string": b"",
        "root_path": "/v1" if by == "root_path" else "",
        "client": ("192.0.2.7", 1),
        "headers": [(b"host", b"shop.test")],
    }
    await app(scope, receive, send)
    assert sent[0]["status"] in (400, 402, 404)
    assert ran == []


async def test_the_dearer_of_two_readings_of_a_mounted_path_is_the_price(market: Market) -> None:
    prices = {"POST /api/dvm": "100 sat", "/*": "1 sat"}
    paywall = Paywall(site([]), gate=market.gate, prices=prices)
    async with visiting(paywall, root_path="/v1") as client:
        answer = await client.post("/v1/api/dvm", json={"a": 1})
    assert answer.json()["amount_sats"] == 100


async def bought(market: Market, answer: httpx.Response) -> dict[str, str]:
    asked = answer.json()
    return {"authorization": f"L402 {asked['macaroon']}:{market.pay(asked['invoice']).hex()}"}


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "trace"])
async def test_no_method_runs_what_is_priced_for_every_method_without_paying(market: Market, method: str) -> None:
    service = Service()
    app = shopfront({Route.read("/*", "21 sat"): service}, market.gate)
    async with visiting(app) as client:
        answer = await client.request(method, "/x", content=b'{"prompt": "hi"}', headers={"x-payment-hash": "ab" * 32})
        payments = await market.gate.ledger.recent_payments(1)
    assert answer.status_code == (204 if method == "OPTIONS" else 405)
    assert (service.calls, payments) == (0, [])


async def test_a_proof_shown_at_a_free_route_goes_no_further(market: Market) -> None:
    service = Service()
    app = shopfront({Route.read("/free", None): service, Route.read("/paid", "1 sat"): service}, market.gate)
    proof = {"authorization": f"L402 {'ab' * 32}", "x-payment-hash": "ab" * 32}
    async with visiting(app) as client:
        await client.post("/free", json={"prompt": "hi"}, headers=proof | {"x-own": "stays"})
    names = [name for name, _ in service.seen[0]["headers"]]
    assert b"x-own" in names
    assert not {b"authorization", b"x-payment-hash"} & set(names)


async def test_each_method_of_a_fastapi_route_is_priced_as_itself() -> None:
    market = Market.open()
    app = FastAPI()
    seen: list[str] = []
    gate = market.gate

    @app.api_route("/thing", methods=["GET", "DELETE"])
    async def thing(request: Request, sale: Annotated[Sale, Depends(gate.price("1 sat"))]) -> str:
        seen.append(request.method)
        return "ok"

    async with visiting(app) as client:
        got, deleted = await client.get("/thing"), await client.delete("/thing")
        invoices = {got.json()["invoice"], deleted.json()["invoice"]}
        await client.delete("/thing", headers=await bought(market, deleted))
    await market.close()
    assert len(invoices) == 2
    assert seen == ["DELETE"]


async def test_a_large_body_is_refused_by_the_fastapi_dependency_before_an_invoice_is_made() -> None:
    market = Market.open()
    app = FastAPI()

    @app.post("/thing")
    async def thing(body: dict[str, str], sale: Annotated[Sale, Depends(market.gate.price("1 sat"))]) -> str:
        return "ok"

    async with visiting(app) as client:
        answer = await client.post("/thing", json={"a": "x" * 2**20})
        payments = await market.gate.ledger.recent_payments(1)
    await market.close()
    assert (answer.status_code, payments) == (413, [])


async def test_a_head_of_an_answer_too_large_to_keep_costs_nothing(market: Market) -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        await Response(b"x" * 5000, media_type="text/event-stream")(scope, receive, send)

    manners = Manners(held_back=1000, most_answer=2000)
    paywall = Paywall(large, gate=market.gate, prices={"GET /x": "1 sat"}, manners=manners)
    async with visiting(paywall) as client:
        proof = await bought(market, await client.get("/x"))
        await client.head("/x", headers=proof)
        after_head = (await market.gate.ledger.recent_payments(1))[0].state
        got = await client.get("/x", headers=proof)
    assert after_head is PaymentState.FUNDED
    assert (got.status_code, len(got.content)) == (200, 5000)


async def test_no_cache_may_keep_what_is_free_for_one_caller_or_refused_to_a_payer() -> None:
    market = Market.open()
    gate = open_gate(receiver=market.sandbox.seller, store=market.gate.ledger, keys=market.ring, clock=market.clock)

    async def public(scope: Any, receive: Any, send: Any) -> None:
        status = 404 if scope["query_string"] else 200
        await Response(b"x", status, headers={"cache-control": "public, max-age=60"})(scope, receive, send)

    paywall = Paywall(public, gate=gate, prices={"GET /x": "1 sat"})
    async with visiting(paywall) as client:
        free = await client.get("/x")
        proof = await bought(market, await client.get("/x?gone"))
        refused = await client.get("/x?gone", headers=proof)
    await market.close()
    assert (free.status_code, free.headers["cache-control"]) == (200, "private")
    assert (refused.status_code, refused.headers["cache-control"]) == (404, "no-store")
    assert refused.headers["payment-kept"] == "true"
    assert refused.headers["access-control-allow-origin"] == "*"


async def test_members_behind_the_first_many_are_no_proof(market: Market) -> None:
    service = Service()
    members: dict[str, object] = {f"m{n}": n for n in range(300)}
    paywall = Paywall(service, gate=market.gate, prices={"POST /x": "1 sat"})
    async with visiting(paywall) as client:
        answer = await client.post("/x", content=json.dumps(members | {"payment_hash": "ab" * 32}))
    assert answer.status_code == 402
