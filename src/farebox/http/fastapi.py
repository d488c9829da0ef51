"""The FastAPI face: a price as a dependency.

    @app.post("/rank")
    async def rank(q: Query, sale: Annotated[Sale, Depends(gate.price("10 sat"))]): ...

Rules
1. The dependency decides before the handler runs: an unpaid call ends in it, with the same 402 as everywhere.
2. A paid call is run by the same recorder as behind the middleware: the dependency leaves by an exception whose handler
   runs the same route once more, this time with the Sale in hand and the answer under the recorder's eyes.
3. FastAPI reads the body before it asks its dependencies, so a body that is not JSON at all is refused for free.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from farebox.catalog.path import canonical
from farebox.catalog.price import Price
from farebox.catalog.routes import ANY_METHOD, Route
from farebox.core.amount import Amount
from farebox.core.errors import BodyTooLarge, CallerError, ConfigError, Unavailable
from farebox.core.fiat import Fiat
from farebox.core.lazy import extra
from farebox.gate import Gate
from farebox.http.manners import Manners
from farebox.http.paywall import Paywall
from farebox.http.quotes import Quotes
from farebox.http.rates import Rates
from farebox.http.request import Receive, Scope, Send, raw_path
from farebox.http.sale import SALE, Sale

with extra("fastapi"):
    from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class _Sell:
    """The answer to a priced call, as an ASGI application."""

    paywall: Paywall
    route: Route
    body: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            canonical(raw_path(scope))
            if len(self.body) > self.paywall.reader.most_body:
                raise BodyTooLarge(f"at most {self.paywall.reader.most_body} bytes")
            request = self.paywall.reader.take(scope, self.body, self.route.method)
            await self.paywall.sell_request(self.route, request, scope, send)
        except (CallerError, Unavailable) as error:
            await self.paywall.refuse(scope, send, error, self.route.resource)


class _Leave(Exception):
    def __init__(self, sell: _Sell) -> None:
        super().__init__()
        self.sell = sell


async def _left(request: Request, leave: _Leave) -> _Sell:
    return leave.sell


def priced(
    gate: Gate,
    price: str | Amount | Fiat | Price,
    *,
    manners: Manners | None = None,
    rerun: bool = False,
    rates: Rates | None = None,
) -> Callable[[Request], Awaitable[Sale]]:
    """A dependency that lets its handler run only for callers who paid, or have a free call left.

    rerun: whether a call of unknown outcome may be run once more. rates: for a price in fiat. Raises MalformedAmount,
    and ConfigError for a price that the gate's node can't ask for.
    """
    amount = Price.read(price).amount
    rates = rates or Rates()
    Quotes(rates).check([Route(method=ANY_METHOD, path="/", price=amount)], gate.receivers)
    paywalls: dict[tuple[int, str], tuple[Paywall, Route]] = {}

    async def sale(request: Request) -> Sale:
        scope = request.scope
        if SALE in scope:
            sold: Sale = scope[SALE]
            return sold
        handlers = scope.get("starlette.exception_handlers")
        here = scope.get("route")
        if handlers is None or here is None:
            raise ConfigError("gate.price() is a dependency of a FastAPI route.")
        key = id(here), request.method
        if key not in paywalls:
            route = Route(method=request.method, path=here.path, price=amount, name=here.name, rerun=rerun)
            paywalls[key] = (Paywall(here.app, gate=gate, manners=manners, rates=rates), route)
        handlers[0].setdefault(_Leave, _left)
        raise _Leave(_Sell(*paywalls[key], await request.body()))

    return sale
