"""What a shop tells for free: its prices at `GET /pricing`, and whether it is well at `GET /health`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from farebox.catalog.pricing import pricing_document
from farebox.catalog.routes import RouteTable
from farebox.core.errors import CallerError, Unavailable
from farebox.core.fiat import Fiat, Rate
from farebox.gate import Gate
from farebox.http import problem
from farebox.http.paywall import refuse
from farebox.http.rates import Rates
from farebox.http.request import AsgiApp, Message, Receive, Scope, Send


class Documents:
    """Answers `/pricing` and `/health` in front of an app, unless a route names that path.

    A route such as `/*`, which sells everything, does not name it: what sells must be able to tell its prices.
    """

    def __init__(self, app: AsgiApp, *, gate: Gate, routes: RouteTable, rates: Rates | None = None) -> None:
        self._app = app
        self._gate = gate
        self._routes = routes
        self._rates = rates or Rates()
        self._currencies = {route.price.currency for route in routes if isinstance(route.price, Fiat)}
        self._pricing = self._written({})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        path = scope.get("path")
        if (
            scope["type"] != "http"
            or path not in ("/pricing", "/health")
            or scope["method"] not in ("GET", "HEAD")
            or any(route.path == path for route in self._routes)
        ):
            await self._pass_on(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        headers = [(b"content-type", b"application/json"), *problem.exposed([])]
        if path == "/pricing":
            headers.append((b"cache-control", b"public, max-age=60"))
            pricing = self._pricing
            if self._currencies:
                pricing = self._written(await self._rates.find_all(self._currencies))
            await problem.answer(send, 200, headers, pricing, head=head)
            return
        headers.append((b"cache-control", b"no-store"))
        try:
            balance = await self._gate.ledger.balance()
        except Unavailable as error:
            refused, body = problem.problem(error)
            await problem.answer(send, error.status, refused, body, head=head)
            return
        status, word = (200, "ok") if balance.balanced else (503, "the ledger does not balance")
        await problem.answer(send, status, headers, json.dumps({"status": word}).encode(), head=head)

    def _written(self, rates: Mapping[str, Rate]) -> bytes:
        document = pricing_document(
            self._routes,
            free_calls=self._gate.terms.free_calls,
            protocols=[dialect.name for dialect in self._gate.dialects],
            rates=rates,
        )
        return json.dumps(document, ensure_ascii=False).encode()

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What a free route of the app can't serve is a problem too, or a broken connection if it had begun."""
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except (CallerError, Unavailable) as error:
            if not started:
                await refuse(scope, send, error)
