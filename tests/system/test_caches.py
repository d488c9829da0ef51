"""No cache in front sells again what it was given (target E6): a real nginx that would keep all it may."""

from __future__ import annotations

import json
import os
import random
import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farebox.core.ports import Paid
from farebox.http.request import Receive, Scope, Send
from farebox.testing.market import whole_body
from farebox.testing.nginx import Nginx, nginx_path, opened_nginx
from farebox.testing.raw_http import RawMessage, calling

pytestmark = [
    pytest.mark.system,
    pytest.mark.anyio,
    pytest.mark.skipif(nginx_path() is None and os.environ.get("CI") != "true", reason="there is no nginx"),
]

SOME = 200
ALL = 10_000
PATHS = 6
ADDRESSES = tuple(f"198.51.100.{number}" for number in range(1, 201))

HTTP = "proxy_cache_path {folder}/cache keys_zone=kept:10m; upstream gateway { server 127.0.0.1:%d; keepalive 4; }"
COMMON = """
location / {
    proxy_pass http://gateway;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $http_x_comes_from;  # for want of other networks
    proxy_cache kept;
    proxy_cache_lock on;
    %s
}
"""
CACHES = {
    # One key for everybody, whatever they show, and everything valid.
    "greedy": COMMON
    % """
    proxy_cache_key $request_uri;
    proxy_cache_methods GET HEAD POST;
    proxy_cache_valid 200 402 10m;
    proxy_cache_valid any 10m;
    proxy_cache_use_stale error timeout updating http_500 http_502 http_503 http_504 http_429;
    """,
    # As Varnish's built-in rules have it: what shows an Authorization or a Cookie passes by, the rest is kept.
    "like Varnish": COMMON
    % """
    proxy_cache_key $host$request_uri;
    proxy_cache_bypass $http_authorization $http_cookie;
    proxy_no_cache $http_authorization $http_cookie;
    proxy_cache_valid 200 203 300 301 302 304 404 410 120s;
    """,
}


class Keepable:
    """A service that does all it can to have its answers kept, and never gives the same one twice."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await whole_body(receive)
        body = secrets.token_hex(32).encode()
        headers = [
            *(
                (b"cache-control", b"public, max-age=3600, s-maxage=3600"),
                (b"expires", b"Thu, 31 Dec 2099 00:00:00 GMT"),
            ),
            *((b"x-accel-expires", b"3600"), (b"surrogate-control", b"max-age=3600"), (b"pragma", b"cache")),
            *((b"cdn-cache-control", b"max-age=3600"), (b"etag", b'"same"'), (b"vary", b"accept")),
            *((b"last-modified", b"Thu, 01 Jan 2026 00:00:00 GMT"), (b"content-length", b"64")),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


class Callers:
    """Callers of several addresses, some of whom pay, in one way or another, and all of whom look for a bargain.

    paid: what was bought, by path and proof. wrong: answers that should not have been given.
    """

    def __init__(self, nginx: Nginx, payer: Any, wallet: str, chance: random.Random) -> None:
        self.nginx = nginx
        self.payer = payer
        self.wallet = wallet
        self.chance = chance
        self.told: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.sold: dict[bytes, str] = {}  # who was given which answer
        self.hashes: list[tuple[str, str, str]] = []  # address, path, payment hash

    async def say(self, address: str, target: str, fields: str = "", *, method: str = "GET") -> RawMessage:
        fields += f"Connection: close\r\nX-Comes-From: {address}\r\n"
        async with calling(self.nginx.port) as caller:
            caller.say(f"{method} {target} HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n".encode())
            answer = await caller.hear(without_body=method == "HEAD")
        assert answer is not None
        return answer

    async def act(self) -> None:
        """One request, or the few of a purchase."""
        address, path = self.chance.choice(ADDRESSES), f"/x/{self.chance.randrange(PATHS)}"
        match self.chance.choice(("ask", "ask", "ask", "head", "range", "buy", "again", "steal", "post")):
            case "ask":
                self.unpaid(address, path, await self.say(address, path))
            case "head":
                self.unpaid(address, path, await self.say(address, path, method="HEAD"))
            case "range":
                fields = 'Range: bytes=0-9\r\nIf-None-Match: "same"\r\nCache-Control: only-if-cached\r\n'
                self.unpaid(address, path, await self.say(address, path, fields))
            case "post":
                self.unpaid(address, path, await self.say(address, path, "Content-Length: 0\r\n", method="POST"))
            case "buy":
                await self.buy(address, path)
            case "again" if self.hashes:
                address, path, payment_hash = self.chance.choice(self.hashes)
                self.given(address, await self.say(address, f"{path}?payment_hash={payment_hash}"), fresh=False)
            case "steal" if self.hashes:
                owner, path, payment_hash = self.chance.choice(self.hashes)
                thief = self.chance.choice([each for each in ADDRESSES if each != owner])
                answer = await self.say(thief, f"{path}?payment_hash={payment_hash}")
                self.unpaid(thief, path, answer)

    async def buy(self, address: str, path: str) -> None:
        """Ask, pay, and show the proof in one of the ways there are."""
        asked = await self.say(address, path)
        self.unpaid(address, path, asked)
        if asked.status != 402:
            return
        told = json.loads(asked.body)
        paid = await self.payer.pay(self.wallet, told["invoice"])
        if not isinstance(paid, Paid):
            return
        match self.chance.choice(("authorization", "header", "query")):
            case "authorization":
                fields = f"Authorization: L402 {told['macaroon']}:{paid.preimage.reveal().hex()}\r\n"
                answer = await self.say(address, path, fields)
            case "header":
                answer = await self.say(address, path, f"X-Payment-Hash: {told['payment_hash']}\r\n")
            case _:
                answer = await self.say(address, f"{path}?payment_hash={told['payment_hash']}")
                self.hashes.append((address, path, told["payment_hash"]))
        self.given(address, answer, fresh=True)
        self.unpaid(address, path, await self.say(address, path))  # and at once without a proof

    def unpaid(self, address: str, path: str, answer: RawMessage) -> None:
        """Whoever has not paid gets a price, or is told to go slowly."""
        self.told[f"unpaid {answer.status}"] += 1
        if answer.status not in (401, 402, 409, 429):
            self.wrong.append(f"{address} got {path} unpaid: {answer.status}")
        if answer.values(b"cache-control") != [b"no-store"]:
            self.wrong.append(f"{answer.status} of {path} may be kept: {answer.fields}")

    def given(self, address: str, answer: RawMessage, *, fresh: bool) -> None:
        """Whoever has paid gets what was bought, and nobody else's."""
        self.told[f"paid {answer.status}"] += 1
        if answer.status != 200:
            self.wrong.append(f"{address} did not get what was bought: {answer.status} {answer.body[:200]!r}")
        elif fresh == (answer.body in self.sold) or self.sold.setdefault(answer.body, address) != address:
            self.wrong.append(f"{address} got what is not its own")
        if answer.status == 200 and answer.values(b"cache-control") != [b"private"]:
            self.wrong.append(f"a paid answer may be kept: {answer.fields}")


@pytest.mark.parametrize("count", [SOME, pytest.param(ALL, marks=pytest.mark.full)])
@pytest.mark.parametrize("cache", CACHES)
async def test_no_cache_keeps_a_price_or_gives_away_what_somebody_bought(
    cache: str,
    count: int,
    open_shop: Any,
    serve_app: Any,
    payer: Any,
    tmp_path: Path,
    seed: int,
    tell: Callable[[str], object],
) -> None:
    with serve_app(Keepable()) as upstream:
        (tmp_path / "farebox.toml").write_text(
            'free_calls = 0\ntrusted_proxies = ["127.0.0.1"]\n'
            f'[[route]]\npath = "/x/*"\nupstream = "{upstream}"\nprice = "1 sat"\n'
        )
        with open_shop(str(tmp_path / "farebox.toml")) as shop:
            with opened_nginx(tmp_path / "nginx", server=CACHES[cache], http=HTTP % shop.port) as nginx:
                callers = Callers(nginx, payer, shop.place["buyer_wallet"], random.Random(seed))
                while callers.told.total() < count:
                    await callers.act()
                for _ in range(3):  # what is meant for everybody may be kept: the cache is at work
                    assert 200 == (await callers.say(ADDRESSES[0], "/pricing")).status
                logged = nginx.logged()
            told = shop.told
    priced = [each for each in logged if "/pricing" not in each.request and each.request]
    kept = [each for each in priced if not each.upstream or each.cache not in ("MISS", "BYPASS", "EXPIRED", "-")]
    tell(
        f"E6, {cache}: {len(priced)} requests, {dict(callers.told)}; {len(kept)} answered by the cache, "
        f"{len(callers.wrong)} wrong; FAREBOX_SEED={seed}"
    )
    assert ([], []) == (kept[:5], callers.wrong[:5]), seed
    assert "HIT" in {each.cache for each in logged}
    assert '"level": "error"' not in told
