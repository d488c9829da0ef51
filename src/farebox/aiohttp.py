"""Buy answers with aiohttp.

    async with farebox.aiohttp.ClientSession(wallet=…, budget="500 sat/day") as session:
        async with session.post(url, json={"prompt": "…"}) as answer:
            answer.farebox.paid

Rules
1. All paying is done in a middleware, the innermost, which sees each hop of a redirect by itself.
2. A body is bought with only if it can be sent again: bytes, text, JSON, forms, files. It is read into memory. An async
   iterable, a pipe, or a form with one of them in it is left untouched.
3. aiohttp hands over an answer before it is read, so one that breaks off raises aiohttp's own error; make the same call
   again, and the proof is shown without paying.
"""

from __future__ import annotations

import asyncio
import warnings
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Self, cast

from farebox.core.amount import Amount
from farebox.core.budget import Budget
from farebox.core.exchange import Wire
from farebox.core.lazy import extra
from farebox.core.ports import Purse, Wallet
from farebox.http.buy_hops import Shown, Trail
from farebox.http.buy_read import Basket, answered, can_call, digest_of, is_short_problem, target_of, with_members
from farebox.http.buyer import Buyer, chosen_buyer
from farebox.payer import Answered, Bought, Deliver, Drivers, NoAnswer, OutgoingCall, Send
from farebox.payer.verdict import is_failure

with extra("aiohttp"):
    import aiohttp
    from aiohttp import payload
    from aiohttp.streams import StreamReader
    from yarl import URL

_PAYMENT_REQUIRED: Final = 402
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_SILENCE_S: Final = 10.0
_DECODED: Final = frozenset(("gzip", "deflate", "br", "zstd"))
_LOST: Final = (aiohttp.ClientError, OSError)

_hops: ContextVar[list[Trail]] = ContextVar("farebox_hops")  # of the call that is being made: none before its first
_follows: ContextVar[bool] = ContextVar("farebox_follows")  # whether redirects of the call are followed

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # inheriting is discouraged; it closes what was opened here

    class ClientSession(aiohttp.ClientSession):
        """An aiohttp.ClientSession that pays for what it is asked to pay for, within a budget.

        buyer: of `farebox.open_buyer`; or instead of it wallet, budget, max and purse, as they are told there.
        Everything else is aiohttp's. Each answer has a `payer.Bought` as `farebox`. Calls raise a PurchaseError, which
        says whether money moved; StoreUnavailable, and nothing was paid, when the purse can't be written; and aiohttp's
        own errors for what went wrong before anything was to be paid.
        """

        ATTRS = aiohttp.ClientSession.ATTRS | {"buyer", "_is_buyer_ours", "_outer"}

        def __init__(
            self,
            *given: Any,
            buyer: Buyer | None = None,
            wallet: str | Wallet | None = None,
            budget: str | Budget | None = None,
            max: str | Amount | None = None,
            purse: str | Path | Purse | None = None,
            **options: Any,
        ) -> None:
            self._outer = tuple(options.pop("middlewares", ()))
            super().__init__(*given, **options)
            self.buyer = chosen_buyer(buyer=buyer, wallet=wallet, budget=budget, max=max, purse=purse)
            self._is_buyer_ours = buyer is None

        async def __aenter__(self) -> Self:
            return self

        async def _request(self, *given: Any, **options: Any) -> aiohttp.ClientResponse:
            outer = options.pop("middlewares", None)
            options["middlewares"] = (*(self._outer if outer is None else outer), self._pay)
            hops: list[Trail] = []
            call = _hops.set(hops)
            follows = _follows.set(options.get("allow_redirects", True))
            try:
                return await super()._request(*given, **options)
            except Exception:
                if hops and (owed := hops[0].owed) is not None:
                    await self.buyer.drivers.anote(owed.trouble)
                raise
            finally:
                _hops.reset(call)
                _follows.reset(follows)

        async def _pay(
            self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            if not can_call(str(request.url)):
                raise aiohttp.InvalidURL(request.url, "nobody can have such a host or port")
            hops = _hops.get()
            origin = target_of(str(request.url))[0]
            trail = hops[0] if hops else Trail(origin=origin)
            hops[:] = [trail]
            shown = trail.at(origin)
            if shown is not None:
                response = await _show_again(request, shown, handler)
            else:
                exchange = _Exchange(request, await _replayable(request), trail)
                response = await _buy(self.buyer, exchange, handler)
                trail.owed = exchange.owed or trail.owed
                if response.status in _REDIRECTS:
                    trail.shown = exchange.shown
            if trail.owed is not None and not _is_followed(response):
                if is_failure(response.status):
                    await self.buyer.drivers.anote(trail.owed.trouble)
                else:
                    await _watch(response, self.buyer.drivers, trail.owed)
            return response

        async def close(self) -> None:
            """Close the connections, and the purse if it was opened here."""
            await super().close()
            if self._is_buyer_ours:
                self.buyer.close()


# --- one call ---------------------------------------------------------------------------------------------------------


class _Exchange:
    """One call as the middleware sees it: the request, and the answer heard last."""

    def __init__(self, request: aiohttp.ClientRequest, body: bytes | None, trail: Trail) -> None:
        self.request = request
        self.body = body
        self.response: aiohttp.ClientResponse | None = None
        self.shown: Shown | None = None
        self.owed: Deliver | None = None
        self._proof: Wire | None = None
        self.origin, url, path = target_of(str(request.url))
        self._headers, self._url = request.headers.copy(), request.url

        def digest() -> bytes | None:
            return None if body is None else digest_of(request.method, url, self._headers, body)

        if trail.call is None:
            named, method = trail.origin, request.method
            trail.call = OutgoingCall(origin=named, url=url, method=method, path=path, digest=digest)
        self.call = trail.call.led(strays=trail.strays(self.origin))

    @property
    def answer(self) -> aiohttp.ClientResponse:
        if self.response is None:
            raise TypeError("there is no answer yet")
        return self.response

    async def prepare(self, proof: Wire | None) -> None:
        """Make the request what it was at first, but for this proof."""
        if self._proof is not None:
            self.request.headers.clear()
            self.request.headers.extend(self._headers)
            self.request.url = self._url
            if self._proof.body:
                await self.request.update_body(self.body)
        self._proof = proof
        if proof is not None:
            await _put_proof(self.request, proof, self.body)

    async def heard(self, response: aiohttp.ClientResponse) -> Answered:
        self.response = response
        body = await _hear(response, is_decoding=self.request.session.auto_decompress)
        return answered(response.status, self.origin, response.headers.items(), body)

    def end(self, bought: Bought) -> aiohttp.ClientResponse:
        if self._proof is not None and not bought.reused:
            self.shown = Shown(proof=self._proof, bought=bought)
        return _carrying(self.answer, bought)


async def _buy(buyer: Buyer, exchange: _Exchange, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    drivers, telling = buyer.drivers, buyer.purchase(exchange.call)
    try:
        while (step := await drivers.aadvance(telling)) is not None:
            match step:
                case Send():
                    telling.reply(await _send_one(exchange, step, handler))
                case Deliver() if _is_followed(exchange.answer):
                    exchange.owed = step
                    telling.reply(None)
                case Deliver():
                    await _watch(exchange.answer, drivers, step)
                    telling.reply(None)
            if telling.step is not None and not isinstance(telling.step, Deliver):
                exchange.answer.close()
    except BaseException:
        if exchange.response is not None:
            exchange.response.close()
        raise
    finally:
        telling.close()
    return exchange.end(telling.result)


async def _send_one(exchange: _Exchange, step: Send, handler: aiohttp.ClientHandlerType) -> Answered | NoAnswer:
    await exchange.prepare(step.proof)
    try:
        return await exchange.heard(await handler(exchange.request))
    except _LOST as error:
        if not step.is_owed:
            raise
        return NoAnswer(reason=type(error).__name__)


async def _show_again(
    request: aiohttp.ClientRequest, shown: Shown, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """What a paid answer redirected to, within the origin."""
    await _put_proof(request, shown.proof, await _replayable(request) if shown.proof.body else None)
    response = await handler(request)
    if response.status == _PAYMENT_REQUIRED:
        response.close()
        raise shown.refused(str(request.url))
    return _carrying(response, shown.bought)


def _is_followed(response: aiohttp.ClientResponse) -> bool:
    """Whether aiohttp goes where it leads."""
    leads = response.headers.get("location") or response.headers.get("uri")
    return _follows.get() and bool(leads) and response.status in _REDIRECTS


def _carrying(response: aiohttp.ClientResponse, bought: Bought) -> aiohttp.ClientResponse:
    response.farebox = bought  # type: ignore[attr-defined] # where a caller finds what it cost
    return response


# --- the request ------------------------------------------------------------------------------------------------------


async def _replayable(request: aiohttp.ClientRequest) -> bytes | None:
    """The body, read into memory; None, and it is left untouched, when it can be read only once."""
    body = request.body
    if not isinstance(body, payload.Payload):
        return bytes(body)
    if not _is_replayable(body):
        return None
    whole = await body.as_bytes()
    if not isinstance(body, payload.BytesPayload):
        await request.update_body(whole)
    return whole


def _is_replayable(body: payload.Payload) -> bool:
    if isinstance(body, aiohttp.MultipartWriter):
        return not body.consumed and all(_is_replayable(part) for part, *_ in body)
    if isinstance(body, payload.IOBasePayload):
        return not body.consumed and bool(body._value.seekable())
    return isinstance(body, payload.BytesPayload)


async def _put_proof(request: aiohttp.ClientRequest, proof: Wire, body: bytes | None) -> None:
    """Give a request a proof, which replaces headers, parameters and JSON members of the same names.

    It is this hop's alone: aiohttp makes the next one of what the caller gave.
    """
    for name in dict.fromkeys(name for name, _ in proof.headers):
        request.headers.popall(name, None)
        for value in proof.all(name):
            request.headers.add(name, value)
    if proof.query:
        request.url = URL(request.url).update_query(dict(proof.query))
    if proof.body and body is not None:
        await request.update_body(with_members(body, proof.body))


# --- the answer -------------------------------------------------------------------------------------------------------


async def _hear(response: aiohttp.ClientResponse, *, is_decoding: bool) -> bytes | None:
    """What the payer has to read of an answer. A 402 is used up by it, a problem is read, the rest is left unread."""
    if response.status == _PAYMENT_REQUIRED:
        coding = response.headers.get("content-encoding", "").strip().lower()
        basket = Basket(response.headers, is_decoded=is_decoding and coding in _DECODED)
        with suppress(*_LOST):
            async with asyncio.timeout(_SILENCE_S):
                while (part := await response.content.readany()) and basket.take(part):
                    pass
        (response.release if response.content.at_eof() else response.close)()
        return basket.body()
    return await response.read() if is_short_problem(response.status, response.headers) else None


async def _watch(response: aiohttp.ClientResponse, drivers: Drivers, step: Deliver) -> None:
    """Have the purse told when the last byte was read, before the caller has it, or when the answer breaks off."""
    if response.content.at_eof():
        await drivers.anote(step.outcome)
    else:
        response.content = cast(StreamReader, _Watched(response.content, drivers, step))


class _Watched:
    """What a caller reads an answer from, in every way that aiohttp has for it."""

    __aiter__ = StreamReader.__aiter__  # each of these makes use of the methods below
    iter_any = StreamReader.iter_any
    iter_chunked = StreamReader.iter_chunked
    iter_chunks = StreamReader.iter_chunks

    def __init__(self, content: StreamReader, drivers: Drivers, step: Deliver) -> None:
        self._content = content
        self._drivers = drivers
        self._step = step
        self._is_noted = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def _read(self, name: str, *given: Any, **options: Any) -> Any:
        try:
            part = await getattr(self._content, name)(*given, **options)
        except _LOST:
            await self._drivers.anote(self._step.trouble)
            raise
        if self._content.at_eof() and not self._is_noted:
            self._is_noted = True
            await self._drivers.anote(self._step.outcome)
        return part

    async def read(self, n: int = -1) -> bytes:
        return cast(bytes, await self._read("read", n))

    async def readany(self) -> bytes:
        return cast(bytes, await self._read("readany"))

    async def readchunk(self) -> tuple[bytes, bool]:
        return cast("tuple[bytes, bool]", await self._read("readchunk"))

    async def readexactly(self, n: int) -> bytes:
        return cast(bytes, await self._read("readexactly", n))

    async def readline(self, **options: Any) -> bytes:
        return cast(bytes, await self._read("readline", **options))

    async def readuntil(self, separator: bytes = b"\n", **options: Any) -> bytes:
        return cast(bytes, await self._read("readuntil", separator, **options))
