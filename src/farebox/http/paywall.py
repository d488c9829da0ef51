"""The paywall: an ASGI middleware that puts a gate in front of the priced routes of any app.

Rules
1. Pure ASGI. The answer is passed on as it comes, except that a paid answer of ordinary size is stored before its first
   byte leaves, and a paid stream is copied while it flows and charged before its last byte leaves.
2. A caller who goes away does not stop a paid call: it runs to its end, is charged, and can be fetched again.
3. An app that fails, or answers 5xx, is not paid: the payment is released and the caller told to ask again. An answer
   that refuses the call (4xx) is passed on, and the payment is kept.
4. A path that can be read in two ways never reaches a priced route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final
from weakref import WeakKeyDictionary

import structlog

from farebox.catalog.path import canonical
from farebox.catalog.routes import ANY_METHOD, Route, RouteTable
from farebox.core.amount import Amount
from farebox.core.errors import CallerError, MalformedRequest, MethodUnknown, Unavailable, UpstreamFailed
from farebox.core.exchange import Quote, Wire
from farebox.core.fiat import Conversion, Fiat
from farebox.gate import Challenged, Decision, Free, Gate, HeldCall, Replay, Visit
from farebox.gate.events import CallRefused
from farebox.http import problem
from farebox.http.client import ClientPrefix
from farebox.http.given import replayed_headers, without_word_to_caches
from farebox.http.held import HeldCalls, Kept, to_nobody
from farebox.http.manners import Manners
from farebox.http.quotes import Quotes
from farebox.http.rates import Rates
from farebox.http.recorder import BrokenOff, Recorder
from farebox.http.request import (
    AsgiApp,
    Disconnected,
    Message,
    PricedRequest,
    RawHeaders,
    Reader,
    Receive,
    Scope,
    Send,
    body_then,
    overrides_method,
    raw_path,
)
from farebox.http.sale import SALE, Sale
from farebox.http.spool import Spools
from farebox.http.turned_away import TurnedAway

log = structlog.get_logger("farebox")

Check = Callable[[Route, bytes], None]

_MOST_AT_ONCE: Final = 256 * 1024
_IDEMPOTENCY_KEY: Final = b"idempotency-key"


class Paywall:
    """Puts a gate in front of an app: `app.add_middleware(farebox.http.Paywall, gate=gate, prices={...})`.

    prices: a route such as `POST /api/dvm` or `GET /files/*` to a price such as `21 sat` or `2 EUR`. Every other path
    of the app stays as it is. check: called with the route and body of a call that has content; raises ArgumentsInvalid
    to refuse it before an invoice is made. rates: for prices in fiat; None for those of public services. Raises
    ConfigError for a price that the gate's node can't ask for.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        gate: Gate,
        prices: Mapping[str, str | Amount | Fiat] | None = None,
        routes: RouteTable | None = None,
        manners: Manners | None = None,
        check: Check | None = None,
        rates: Rates | None = None,
    ) -> None:
        self._app = app
        self._gate = gate
        self._manners = manners or Manners()
        self._check = check
        self._routes = RouteTable.read(prices or {}) if routes is None else routes
        self._quotes = Quotes(rates)
        self._quotes.check(self._routes, gate.receivers)
        self._client = ClientPrefix(self._manners.trusted_proxies, self._manners.client_header)
        self.reader = Reader(
            proof_headers=gate.proof_headers,
            proof_fields=gate.proof_fields,
            authority=self._manners.authority,
            most_body=self._manners.most_body,
            vary=self._manners.vary,
        )
        self._spools = Spools(self._manners.spool, most=max(self._manners.most_answer, self._manners.held_back))
        self._running: set[asyncio.Task[None]] = set()
        self._held = HeldCalls(gate, self._run_held)
        self._turned_away = TurnedAway()
        self._replays: WeakKeyDictionary[Replay, RawHeaders] = WeakKeyDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            route = self._route(scope)
        except CallerError as error:
            await self.refuse(scope, send, error)
            return
        if route is None:
            await self._app(scope, receive, send)
            return
        if route.price is None:
            await self._give(route, scope, receive, send)
            return
        if scope["type"] == "websocket":  # nothing is sold over it, and it is no way round the price
            await send({"type": "websocket.close", "code": 1008, "reason": "sold over HTTP only"})
            return
        if scope["method"] == "OPTIONS":
            await self._tell_methods(route, scope, send)
            return
        await self.sell(route, scope, receive, send)

    async def sell(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call of a priced route."""
        try:
            method: str = scope["method"] if route.method == ANY_METHOD else route.method
            request = await self.reader.read(scope, receive, "GET" if method == "HEAD" else method)
            await self.sell_request(route, request, scope, send, receive)
        except (Disconnected, BrokenOff):
            return  # the server breaks a connection whose answer is not whole
        except (CallerError, Unavailable) as error:
            await self.refuse(scope, send, error, route.resource)

    async def refuse(self, scope: Scope, send: Send, error: CallerError | Unavailable, resource: str = "") -> None:
        """Answer an error as a problem, and tell the gate's observer."""
        self._gate.tell(CallRefused(resource=resource, reason=error.type))
        answer = await self._turned_away.answer(error)
        if answer is None:
            await refuse(scope, send, error)
            return
        headers, body = answer
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _give(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call of a route that is listed as free."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(self._without_proof(scope), receive, watched)
        except UpstreamFailed as failure:
            if not started:  # else the server breaks a connection whose answer is not whole
                await self.refuse(scope, send, failure, route.resource)

    async def sell_request(
        self, route: Route, request: PricedRequest, scope: Scope, send: Send, receive: Receive | None = None
    ) -> None:
        """Answer a call whose body was read. Raises CallerError or Unavailable, when nothing was sent yet."""
        head = scope["method"] == "HEAD"
        decision: Decision | None = None
        conversion = None
        if request.authorization:
            decision = self._gate.recall(request.authorization, request.digest)
        if decision is None:
            quote, conversion = await self._quotes.quote(route, request.digest)
            visit = self._visit(quote, route, request, scope)
            decision = await self._gate.admit(visit)
            if isinstance(decision, Challenged) and decision.held:
                self._held.keep(decision.invoice, route, request, scope, visit.client)
        match decision:
            case Challenged():
                await self._ask(decision, conversion, scope, send, head=head)
            case Replay():
                await self._replay(decision, send, head=head)
            case Free(free_call=call):
                teller = _Teller(send, problem.free_headers(call, self._gate.now()))
                try:
                    await self._app(self._inner(scope, route, request, None), body_then(request.body, receive), teller)
                except UpstreamFailed as failure:
                    if teller.started:
                        raise BrokenOff from failure
                    raise
            case HeldCall():
                self._held.forget(decision.hold.payment_hash)
                recorder = self._recorder(decision, route, request, send, receive, head=head)
                inner = self._inner(scope, route, request, decision)
                # A task of its own: a caller who goes away cancels us in some servers, and must not cancel the call.
                task = asyncio.ensure_future(recorder.run(self._app, inner, body_then(request.body, None)))
                self._running.add(task)
                task.add_done_callback(self._ended)
                try:
                    await asyncio.shield(task)
                except asyncio.CancelledError:
                    recorder.leave()
                    raise

    async def _run_held(self, kept: Kept, granted: HeldCall) -> None:
        """Run a call whose money the node holds; nobody listens, and its payer comes for the kept answer."""
        recorder = self._recorder(granted, kept.route, kept.request, to_nobody, None, head=False)
        recorder.leave()
        inner = self._inner(kept.scope, kept.route, kept.request, granted)
        await recorder.run(self._app, inner, body_then(kept.request.body, None))

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A call is over; what became of it is told to its caller, who may have gone away."""
        self._running.discard(task)
        if not task.cancelled():
            error = task.exception()
            if error is not None and not isinstance(error, (BrokenOff, CallerError, Unavailable)):
                log.error("call-failed", exc_info=error)

    # --- before the gate ----------------------------------------------------------------------------------------------

    def _route(self, scope: Scope) -> Route | None:
        raw = raw_path(scope)
        method = scope.get("method", "OPTIONS").upper()
        if method == "OPTIONS":  # asks about whatever is sold here, as does a websocket
            method = "HEAD"
        root: str = scope.get("root_path", "").rstrip("/")
        try:
            path = canonical(raw)
        except MalformedRequest:
            # Any reading of a crooked path that leads to a priced route is refused, not guessed.
            # Under a prefix that others stripped, there are more readings than can be told apart.
            if root or self._routes.could_mean(raw):
                raise
            return None
        route = self._routes.lookup(method, path)
        if root and path.startswith(root) and path[len(root) :].startswith("/"):
            # Where the app is mounted, its routes are told without the prefix; some apps look at the whole path.
            inner = self._routes.lookup(method, path[len(root) :])
            route = max((each for each in (inner, route) if each), key=lambda each: each.dearness, default=None)
        if route is not None and route.price is not None and method in ("TRACE", "CONNECT"):
            raise MethodUnknown(allow=", ".join(sorted(self._routes.methods(path) - {ANY_METHOD})))
        unpriced = route is None or route.price is None
        if unpriced and overrides_method(scope) and (root or self._routes.could_mean(raw)):
            # The app might honour it, and what it means is not free.
            raise MalformedRequest("a method override is not honoured here; send the method itself")
        return route

    def _visit(self, quote: Quote, route: Route, request: PricedRequest, scope: Scope) -> Visit:
        peer = scope.get("client")
        body_expected = request.method in ("POST", "PUT", "PATCH")
        if self._check is not None and request.has_content:
            self._check(route, request.body)
        return Visit(
            quote=quote,
            # A HEAD asks for the price of a call; only where it stands for a GET can it also be that call.
            wire=request.wire if scope["method"] != "HEAD" or request.method == "GET" else Wire(),
            client=self._client(peer[0] if peer else None, scope["headers"]),
            rerun=_may_rerun(route, request),
            on_success=route.on_success,
            probing=request.forced or scope["method"] == "HEAD" or (body_expected and not request.has_content),
        )

    async def _tell_methods(self, route: Route, scope: Scope, send: Send) -> None:
        """OPTIONS, for a browser's preflight and for anyone: answered here, because what is behind is not free."""
        methods = sorted(self._routes.methods(scope["path"]) | {route.method, "OPTIONS"} - {ANY_METHOD})
        if route.method == ANY_METHOD:
            methods = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
        await problem.answer(send, 204, problem.preflight(methods, scope["headers"]), b"", head=True)

    async def _ask(
        self, challenged: Challenged, conversion: Conversion | None, scope: Scope, send: Send, *, head: bool
    ) -> None:
        asked = problem.payment_required(
            challenged,
            endpoint=raw_path(scope).decode("latin-1"),
            free_calls=self._gate.terms.free_calls,
            now=self._gate.now(),
            conversion=conversion,
        )
        log.info("challenged", resource=challenged.quote.resource, amount_msat=challenged.quote.amount.msat)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in asked.headers]
        await problem.answer(send, asked.status, headers, asked.body, head=head)

    async def _replay(self, replay: Replay, send: Send, *, head: bool) -> None:
        headers = self._replays.get(replay)
        if headers is None:
            headers = self._replays[replay] = replayed_headers(replay.answer, replay.receipt)
        await send({"type": "http.response.start", "status": replay.answer.status, "headers": headers})
        body, at = b"" if head else replay.answer.body, 0
        while len(body) - at > _MOST_AT_ONCE:  # so that a server that waits for its reader has not copied all of it
            await send({"type": "http.response.body", "body": body[at : at + _MOST_AT_ONCE], "more_body": True})
            at += _MOST_AT_ONCE
        await send({"type": "http.response.body", "body": body[at:] if at else body})

    # --- behind the gate ----------------------------------------------------------------------------------------------

    def _without_proof(self, scope: Scope) -> Scope:
        """A call of something free, without a proof that its caller may show all the same."""
        headers = [
            (name, value)
            for name, value in scope["headers"]
            if name.decode("latin-1").lower() not in self._gate.proof_headers
            and not (name.lower() == b"authorization" and self._gate.is_proof(value.decode("latin-1")))
        ]
        return {**scope, "headers": headers}

    def _inner(self, scope: Scope, route: Route, request: PricedRequest, grant: HeldCall | None) -> Scope:
        """The scope as the app sees it: the request that was paid for, without its proof."""
        headers = [
            (name, value)
            for name, value in self.reader.passed_on(request)
            if not (name == b"authorization" and self._gate.is_proof(value.decode("latin-1")))
            # A paid answer is kept for whoever shows the proof again, and that one may not unpack what this one can.
            and not (name == b"accept-encoding" and grant is not None)
            and not (name == _IDEMPOTENCY_KEY and grant is not None)
        ]
        if grant is not None:
            # One payment is one call, however often it has to be run: by this, what is behind can tell. A key of the
            # caller's own, another one each time it asks, would have it run twice.
            headers.append((_IDEMPOTENCY_KEY, grant.hold.payment_hash.hex().encode()))
        return {
            **scope,
            "method": request.method,
            "headers": headers,
            "query_string": request.query,
            "extensions": {},
            SALE: Sale(
                price=grant.hold.amount if grant else Amount(0),
                resource=route.resource,
                payment_hash=grant.hold.payment_hash.hex() if grant else None,
            ),
        }

    def _recorder(
        self,
        grant: HeldCall,
        route: Route,
        request: PricedRequest,
        send: Send,
        receive: Receive | None,
        *,
        head: bool,
    ) -> Recorder:
        return Recorder(
            grant,
            send,
            head=head,
            rerun=_may_rerun(route, request),
            manners=self._manners,
            spools=self._spools,
            charge_for=route.charge_for,
            gone=receive,
        )


def _may_rerun(route: Route, request: PricedRequest) -> bool:
    return route.rerun or request.method == "GET"


class _Teller:
    """A send that adds headers to the answer's own."""

    def __init__(self, send: Send, extra: RawHeaders) -> None:
        self._send = send
        self._extra = extra
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            # Free for this caller is not free for the next one, so no cache may keep it.
            headers = without_word_to_caches(message.get("headers", []))
            headers.append((b"cache-control", b"private"))
            message = {**message, "headers": [*headers, *self._extra, *problem.exposed(headers)]}
        await self._send(message)


async def refuse(scope: Scope, send: Send, error: CallerError | Unavailable) -> None:
    """Answer an error as a problem."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": error.title})
        return
    headers, body = problem.problem(error)
    if isinstance(error, MethodUnknown) and isinstance(allow := error.evidence.get("allow"), str):
        headers.append((b"allow", allow.encode()))
    tell = log.warning if isinstance(error, Unavailable) else log.info
    tell("refused", problem=error.type, status=error.status, detail=error.detail)
    await problem.answer(send, error.status, headers, body, head=scope["method"] == "HEAD")
