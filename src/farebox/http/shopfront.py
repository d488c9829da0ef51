"""The shop: an app rendered from a catalog, each capability at its own path, behind a gate.

app = farebox.http.shop(catalog, gate)      # POST /summarise, GET /pricing, GET /health
"""

from __future__ import annotations

from collections.abc import Mapping

from farebox.catalog.capability import Capability
from farebox.catalog.catalog import Catalog
from farebox.catalog.path import canonical
from farebox.catalog.routes import Route, RouteTable
from farebox.core.errors import CallerError, MethodUnknown, RouteUnknown
from farebox.gate import Gate
from farebox.gate.hooks import Hooks
from farebox.http import problem
from farebox.http.documents import Documents
from farebox.http.manners import Manners
from farebox.http.paywall import Paywall, refuse
from farebox.http.rates import Rates
from farebox.http.request import AsgiApp, Receive, Scope, Send, raw_path, read_body
from farebox.http.webhook import WEBHOOK_PATH, Webhook


class Counter:
    """Where calls that may run are run: finds what is called, runs it, writes the answer.

    capabilities, apps: by route; an app gets the call as it is. What nobody listed is answered 404 or 405, never passed
    on.
    """

    def __init__(self, served: Mapping[Route, Capability | AsgiApp], *, most_body: int = 1024 * 1024) -> None:
        self._served = dict(served)
        self._routes = RouteTable(self._served)
        self._most_body = most_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "HTTP only"})
            return
        try:
            await self._serve(scope, receive, send)
        except CallerError as error:
            await refuse(scope, send, error)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = canonical(raw_path(scope))
        route = self._routes.lookup(scope["method"], path)
        if route is None:
            methods = self._routes.methods(path)
            if not methods:
                raise RouteUnknown()
            allow = ", ".join(sorted(methods | {"OPTIONS"}))
            if scope["method"] == "OPTIONS":
                await problem.answer(send, 204, [(b"allow", allow.encode())], b"", head=True)
                return
            raise MethodUnknown(allow=allow)
        served = self._served[route]
        if not isinstance(served, Capability):
            await served(scope, receive, send)
            return
        body = await read_body(scope["headers"], receive, self._most_body)
        result = await served.call(body)
        await problem.answer(
            send, 200, [(b"content-type", b"application/json")], result, head=scope["method"] == "HEAD"
        )


def shop(catalog: Catalog, gate: Gate, *, manners: Manners | None = None, rates: Rates | None = None) -> AsgiApp:
    """An ASGI app that sells everything in a catalog, and tells its prices at `GET /pricing`.

    rates: for prices in fiat; None for those of public services. Raises ConfigError.
    """
    return shopfront({capability.route: capability for capability in catalog}, gate, manners=manners, rates=rates)


def shopfront(
    served: Mapping[Route, Capability | AsgiApp],
    gate: Gate,
    *,
    manners: Manners | None = None,
    rates: Rates | None = None,
) -> AsgiApp:
    """The same for any mixture of capabilities and apps, priced by their routes. Raises ConfigError."""
    manners, rates = manners or Manners(), rates or Rates()
    routes = RouteTable(served)

    def check(route: Route, body: bytes) -> None:
        capability = served[route]
        if isinstance(capability, Capability):
            capability.check(body)

    counter = Counter(served, most_body=manners.most_body)
    paywall = Paywall(counter, gate=gate, routes=routes, manners=manners, check=check, rates=rates)
    app: AsgiApp = Documents(paywall, gate=gate, routes=routes, rates=rates)
    hooks = Hooks(ledger=gate.ledger, receivers=gate.receivers, converse=gate.converse, within=gate.terms.mint_within)
    return Webhook(app, hooks) if hooks and not any(route.path == WEBHOOK_PATH for route in routes) else app


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
