"""A gateway for tests: what `farebox serve` puts in front of an upstream, in this event loop, on a loopback port.

async with gateway(market.gate, {Route.read("POST /x", "21 sat"): Proxy(upstream.url)}) as url:
    proof = await bought(market, http, "POST", url + "/x")
    status, body, whole = await heard(http, "POST", url + "/x", headers=proof)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import httpx
import uvicorn
from uvicorn.server import ServerState

from farebox.catalog.routes import Route
from farebox.gate import Gate
from farebox.http.manners import Manners
from farebox.http.request import AsgiApp
from farebox.http.server import strict_http
from farebox.http.shopfront import shopfront
from farebox.http.watch import Patience
from farebox.testing.market import Market


@asynccontextmanager
async def gateway(
    gate: Gate, served: Mapping[Route, AsgiApp], *, manners: Manners | None = None, patience: Patience | None = None
) -> AsyncIterator[str]:
    """The URL of a gateway that sells these."""
    app = shopfront(served, gate, manners=manners)
    config = uvicorn.Config(
        cast(Any, app),  # uvicorn's own types of what ASGI leaves untyped
        http=strict_http(patience),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # as `farebox serve` has it: uvicorn would believe whatever loopback says
    )
    config.load()
    state = ServerState()
    protocol = cast(Any, config.http_protocol_class)
    server = await asyncio.get_running_loop().create_server(
        lambda: cast(asyncio.Protocol, protocol(config=config, server_state=state, app_state={})), "127.0.0.1", 0
    )
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for connection in tuple(state.connections):
            cast(Any, connection).transport.abort()
        while state.tasks:
            await asyncio.wait(state.tasks)
        await server.wait_closed()


async def bought(market: Market, http: httpx.AsyncClient, method: str, url: str, **sent: Any) -> dict[str, str]:
    """A paid proof for one call, as headers."""
    market.clock.pass_by(timedelta(seconds=1))  # so that it is known which payment is the newest
    asked = await http.request(method, url, **sent)
    assert 402 == asked.status_code, asked.text
    told = asked.json()
    return {"authorization": f"L402 {told['macaroon']}:{market.pay(told['invoice']).hex()}"}


async def heard(http: httpx.AsyncClient, method: str, url: str, **sent: Any) -> tuple[int, bytes, bool]:
    """Status, body, and whether the answer was whole."""
    body = b""
    async with http.stream(method, url, **sent) as answer:
        try:
            async for chunk in answer.aiter_raw():
                body += chunk
        except httpx.TransportError:
            return answer.status_code, body, False
    return answer.status_code, body, True
