"""The proxy's decisions: who may spend, where a request goes, and what its caller is told.

Rules
1. Without a good token nothing is fetched, nothing is spent, and no body is read.
2. A caller names a URL and a token. Nothing that he writes changes what the token allows.
3. The wallet, its proofs and its receipts stay here; what a call cost is told in `Farebox-…` fields.
4. Redirects are the caller's business: each of its hops is a request of its own, under the same token.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

import h11
import httpx

from farebox.core.allowance import Allowance
from farebox.core.amount import NOTHING
from farebox.core.errors import FareboxError, StoreUnavailable, TokenRefused
from farebox.core.host import can_be_called
from farebox.core.secret import Secret
from farebox.http.buy import AsyncClient
from farebox.http.forward.fields import Field, downstream_fields, elements, upstream_fields, values
from farebox.http.forward.prefix import ELSEWHERE, behind, without_credentials
from farebox.http.forward.reach import OutOfReach
from farebox.http.forward.refusal import Refusal, malformed, refusal_of
from farebox.http.forward.target import Fetch, Here, Own, Tunnel, read_target
from farebox.http.forward.token import no_token, read_token
from farebox.http.forward.wire import Caller
from farebox.payer import Bought, spending_under

_ASKS_FOR_A_PRICE: Final = b"l402=require"
_ABOUT: Final = b"""This is a farebox proxy: it fetches what you ask for and pays for it, within what your token allows.

  HTTP_PROXY=http://purse:TOKEN@%b  for http:// URLs; for https:// ones too, where it was started with --ca
  http://%b/pay/https://host/path   with the header `Farebox-Purse: TOKEN`
  http://%b/budget                  what your token may still spend

Answers tell what was paid in Farebox-Paid, Farebox-Payment-Hash and Farebox-Budget-Left.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnelled:
    """A tunnel that somebody was given, and the token that he showed for it."""

    tunnel: Tunnel
    token: Secret[str]


class ForwardProxy:
    """Answers one request after the other, for whoever has a token.

    client: what buys; it follows no redirects, and reaches servers by a CheckedTransport.
    here: where the proxy is. tunnels: whether what is said to a host through a tunnel can be read here.
    """

    def __init__(self, *, client: AsyncClient, here: Here, tunnels: Callable[[str], bool] = lambda _: False) -> None:
        self._client = client
        self._here = here
        self._tunnels = tunnels
        self._via = f"1.1 farebox-{secrets.token_hex(4)}".encode()

    async def answer(self, caller: Caller, request: h11.Request, behind: Tunnelled | None = None) -> Tunnelled | None:
        """Answer a request that was heard; a tunnel where one was asked for and is granted. Raises Refusal, OSError.

        behind: the tunnel that the request came through.
        """
        fields = request.headers.raw_items()
        host = next(iter(values(fields, b"host")), None)
        asked = read_target(
            request.method, request.target, host, here=self._here, tunnel=behind.tunnel if behind else None
        )
        self._check(request, fields)
        if isinstance(asked, Own) and asked.path == "/":
            await _tell(caller, request, b"text/plain; charset=utf-8", _ABOUT.replace(b"%b", host or b"HERE"))
            return None
        proxied = isinstance(asked, Tunnel) or (isinstance(asked, Fetch) and not asked.server)
        token = behind.token if behind else read_token(fields)
        if token is None:
            raise no_token(proxied=proxied)
        try:
            allowance = await asyncio.to_thread(self._client.buyer.admit, token.reveal())
        except TokenRefused as error:
            raise no_token(proxied=proxied, detail=error.detail) from None
        except FareboxError as error:
            raise refusal_of(error) from None
        caller.known = True
        match asked:
            case Tunnel():
                return self._grant(caller, Tunnelled(tunnel=asked, token=token))
            case Own():
                await self._answer_own(caller, request, asked, allowance)
            case Fetch():
                await self._fetch(caller, request, asked, allowance)
        return None

    def _check(self, request: h11.Request, fields: Sequence[Field]) -> None:
        """Raises Refusal for what is not forwarded, whoever asks."""
        if request.method == b"TRACE":
            raise Refusal(405, "method-unknown", "TRACE is not forwarded", headers=((b"allow", b"GET, HEAD, POST"),))
        if _ASKS_FOR_A_PRICE in elements(fields, b"prefer"):
            raise Refusal(403, "pays-by-itself", "This proxy pays, and can't be asked what it would cost")
        if b"websocket" in elements(fields, b"upgrade"):
            raise Refusal(501, "no-websockets", "Websockets are not carried, because a call is what is paid for")
        if self._via.partition(b" ")[2] in b" ".join(values(fields, b"via")).lower().split(b" "):
            raise Refusal(508, "loop", "This request came from this proxy")

    def _grant(self, caller: Caller, asked: Tunnelled) -> Tunnelled:
        place = asked.tunnel.place
        if not self._tunnels(place.host):
            raise Refusal(
                501,
                "no-tunnel",
                "What goes through a tunnel can't be paid for",
                f"ask for http://PROXY/pay/https://{place.host}/… instead, or start `farebox proxy --ca` for this host",
            )
        if caller.unread:
            raise malformed("a tunnel is used when it is there")
        return asked

    async def _fetch(self, caller: Caller, request: h11.Request, asked: Fetch, allowance: Allowance) -> None:
        url = _url_of(asked)
        fields = upstream_fields(request.headers.raw_items(), via=self._via)
        if asked.server.startswith(ELSEWHERE):
            fields = without_credentials(fields)
        method, content = request.method.decode("ascii"), await caller.body()
        outgoing = httpx.Request(method, url, headers=fields, content=content)
        with spending_under(allowance):
            async with caller.waiting():
                try:
                    answer = await self._client.send(outgoing, stream=True)
                except OutOfReach as error:
                    raise Refusal(403, "out-of-reach", error.__doc__ or "", str(error)) from None
                except (FareboxError, httpx.HTTPError) as error:
                    raise refusal_of(error) from None
                try:
                    await self._pass_on(caller, answer, allowance, asked)
                finally:
                    await answer.aclose()

    async def _pass_on(self, caller: Caller, answer: httpx.Response, allowance: Allowance, asked: Fetch) -> None:
        fields = downstream_fields(answer.headers.raw, via=self._via)
        if asked.server:
            fields = [kept for field in fields if (kept := behind(field, answer.url, asked.server)) is not None]
        if values(answer.headers.raw, b"transfer-encoding"):
            fields = [field for field in fields if field[0].lower() != b"content-length"]
        bought: Bought = answer.extensions.get("farebox") or Bought()
        if bought.payment_hash is not None:
            fields += await self._receipt(bought, allowance)
        try:
            await caller.begin(answer.status_code, fields)
            async with aclosing(_parts(answer)) as parts:
                async for part in parts:
                    await caller.part(part)
            await caller.end()
        except (httpx.HTTPError, h11.LocalProtocolError):  # of which a caller hears only that the answer breaks off
            moved = bought.paid > NOTHING and not bought.replayed
            told = "The server's answer is no HTTP, or broke off"
            raise Refusal(502, "answer-unreadable", told, members={"money_moved": moved}) from None

    async def _receipt(self, bought: Bought, allowance: Allowance) -> list[Field]:
        told = {"paid": str(bought.paid), "fee": str(bought.fee), "payment-hash": (bought.payment_hash or b"").hex()}
        if bought.replayed:
            told["replayed"] = "true"
        with suppress(StoreUnavailable):  # the answer is here
            left = await asyncio.to_thread(self._client.buyer.left, allowance)
            if over_time := [each.left for each in left if each.window.span is not None]:
                told["budget-left"] = str(min(over_time))
        return [(f"farebox-{name}".encode(), value.encode()) for name, value in told.items()]

    async def _answer_own(self, caller: Caller, request: h11.Request, asked: Own, allowance: Allowance) -> None:
        if asked.path != "/budget":
            raise Refusal(404, "route-unknown", "This is a proxy: there is /, /budget and /pay/https://host/path")
        try:
            left = await asyncio.to_thread(self._client.buyer.left, allowance)
        except StoreUnavailable as error:
            raise refusal_of(error) from None
        told = [
            {
                "window": str(each.window),
                "limit_msat": each.window.limit.msat,
                "spent_msat": each.spent.msat,
                "left_msat": each.left.msat,
                "left": str(each.left),
                "ends": each.ends.isoformat() if each.ends else None,
            }
            for each in left
        ]
        await _tell(caller, request, b"application/json", json.dumps({"budget": told}).encode())


async def _tell(caller: Caller, request: h11.Request, kind: bytes, body: bytes) -> None:
    if request.method not in (b"GET", b"HEAD"):
        raise Refusal(405, "method-unknown", "This is only to be read", headers=((b"allow", b"GET, HEAD"),))
    await caller.say(200, [(b"content-type", kind)], body)


def _url_of(asked: Fetch) -> httpx.URL:
    """The URL, where httpx reads the same host in it as we do. Raises Refusal."""
    try:
        url = httpx.URL(asked.url)
        is_host = bool(url.host) and can_be_called(asked.place.host, asked.place.port)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise malformed(str(error)) from None
    if not is_host or url.raw_host.decode("ascii") != asked.place.host or url.userinfo:
        raise malformed("the host can't be read")
    return url


async def _parts(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as it came, and as it comes. The buyer may have read a problem already."""
    if answer.is_stream_consumed:
        yield answer.content
        return
    async for part in answer.aiter_raw():
        yield part
