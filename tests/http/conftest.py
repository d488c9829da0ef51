"""The faces under test: the same service, sold through each of them.

Without postponed annotations, because FastAPI has to read those of a handler that is written inside a function.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel

from farebox.catalog.catalog import Catalog
from farebox.catalog.routes import Route
from farebox.gate import Terms
from farebox.http.paywall import Manners, Paywall
from farebox.http.proxy import Proxy
from farebox.http.sale import Sale
from farebox.http.shopfront import shop, shopfront
from farebox.testing.market import Market, Service, ServiceFailed

FACES = ["middleware", "fastapi", "shop", pytest.param("gateway", marks=pytest.mark.system)]
PATH = "/api/dvm"


class Asked(BaseModel):
    prompt: str


def fastapi_app(market: Market, service: Service) -> FastAPI:
    app = FastAPI()

    @app.post(PATH)
    async def dvm(
        asked: Asked, sale: Annotated[Sale, Depends(market.gate.price("21 sat", rerun=True))]
    ) -> dict[str, str]:
        try:
            result = await service.write(asked.prompt)
        except ServiceFailed:
            raise HTTPException(500) from None
        if service.status != 200:
            raise HTTPException(service.status)
        return {"result": result}

    return app


def shop_app(market: Market, service: Service, manners: Manners) -> Any:
    catalog = Catalog()

    @catalog.sell(price="21 sat", path=PATH)
    async def dvm(prompt: str) -> str:
        """Text from a prompt."""
        return await service.write(prompt)

    return shop(catalog, market.gate, manners=manners)


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """An ASGI app on a loopback port of its own."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None, http="httptools", ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@dataclass
class Buyer:
    """Calls one face, and pays by hand."""

    http: httpx.AsyncClient
    market: Market

    async def ask(self, prompt: str = "hi", **headers: str) -> httpx.Response:
        return await self.http.post(PATH, json={"prompt": prompt}, headers=headers)

    async def challenged(self, prompt: str = "hi") -> dict[str, Any]:
        answer = await self.ask(prompt)
        assert answer.status_code == 402, answer.text
        return dict(answer.json())

    async def buy(self, prompt: str = "hi") -> str:
        """Pay for a prompt; the Authorization value that proves it."""
        asked = await self.challenged(prompt)
        preimage = self.market.pay(asked["invoice"])
        return f"L402 {asked['macaroon']}:{preimage.hex()}"

    def payment_credential(self, answer: httpx.Response, preimage: bytes) -> str:
        """The `Payment` credential for the challenge of a 402."""
        from farebox.dialects.http_auth import read_challenges

        found = [c for c in read_challenges([answer.headers["www-authenticate"]]) if c.scheme.lower() == "payment"]
        body = {"challenge": dict(found[0].parameters), "payload": {"preimage": preimage.hex()}}
        return "Payment " + base64.urlsafe_b64encode(json.dumps(body).encode()).rstrip(b"=").decode()


@asynccontextmanager
async def face(
    name: str, service: Service, *, terms: Terms | None = None, manners: Manners | None = None
) -> AsyncIterator[Buyer]:
    """A buyer in front of one face."""
    market = Market.open(terms)
    manners = manners or Manners()
    try:
        if name == "gateway":
            async with served(service) as upstream:
                proxy = Proxy(upstream)
                route = Route.read(f"POST {PATH}", "21 sat")
                async with _buyer(shopfront({route: proxy}, market.gate, manners=manners), market) as buyer:
                    yield buyer
                await proxy.aclose()
        else:
            app = {
                "middleware": lambda: Paywall(
                    service, gate=market.gate, prices={f"POST {PATH}": "21 sat"}, manners=manners
                ),
                "fastapi": lambda: fastapi_app(market, service),
                "shop": lambda: shop_app(market, service, manners),
            }[name]()
            async with _buyer(app, market) as buyer:
                yield buyer
    finally:
        await market.close()


@asynccontextmanager
async def _buyer(app: Any, market: Market) -> AsyncIterator[Buyer]:
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as client:
        yield Buyer(client, market)


@pytest.fixture(params=FACES)
def face_name(request: pytest.FixtureRequest) -> str:
    """Each face in turn."""
    return str(request.param)


@pytest.fixture
def open_face() -> Any:
    """Opens a face: `async with open_face("shop", service) as buyer`."""
    return face


@pytest.fixture
def serve_app() -> Any:
    """Serves an ASGI app on loopback: `async with serve_app(app) as url`."""
    return served
