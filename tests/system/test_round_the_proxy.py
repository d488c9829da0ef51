"""An agent that has only the address of `farebox proxy` and a purse token tries to spend more than the token allows.

Each way is tried after the purse was spent, when one more call would not fit, so that whatever gets round shows; and
then all of them at once by many, on a purse that is full. Besides, none may reach a server that only this machine can.
"""

from __future__ import annotations

import base64
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final

import httpx
import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Window
from farebox.core.macaroon import Macaroon
from farebox.core.purse_token import PurseToken
from farebox.core.secret import Secret
from farebox.http.converse import converse
from farebox.http.request import Receive, Scope, Send
from farebox.lightning import open_wallet

pytestmark = pytest.mark.system

PATIENCE_S = 20.0
PRICE = Amount.sats(21)
LIMIT = Amount.sats(50)
SPENT = Amount.sats(42)


# --- the scene --------------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """What the agent knows: where the proxy is, its token, a seller; and what it would like to reach.

    private: the port of a server at 127.0.0.2. leading: a seller whose every answer leads there.
    """

    port: int
    token: str
    seller: str
    private: int = 0
    leading: str = ""
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def host(self) -> str:
        return self.seller.removeprefix("http://")

    def said(
        self,
        *,
        token: str | None = None,
        target: str = "",
        host: str = "",
        fields: str = "",
        method: str = "POST",
        version: str = "HTTP/1.1",
        body: bytes | None = None,
        framed: bool = True,
    ) -> bytes:
        """A request to the seller, whichever way it is changed. token: another one, or none if it is empty."""
        shown = self.token if token is None else token
        lines = [f"{method} {target or self.seller + '/write'} {version}", f"Host: {host or self.host}"]
        if shown:
            lines.append(f"Proxy-Authorization: Bearer {shown}")
        content = b"prompt %d" % next(self.numbers) if body is None else body
        if framed:
            lines.append(f"Content-Length: {len(content)}")
        return "\r\n".join([*lines, fields]).rstrip("\r\n").encode("latin-1") + b"\r\n\r\n" + content

    def paying(self, url: str, **options: Any) -> bytes:
        """The same behind /pay/."""
        own = f"127.0.0.1:{self.port}"
        return self.said(target=f"/pay/{url}", host=options.pop("host", own), **options)

    def say(self, *said: bytes, hear: bool = True, stop: bool = False) -> list[int]:
        """Say it on one connection; the statuses of what is answered.

        The last word is to ask what the proxy is, and to close; unless it is not heard, or he is to stop before it.
        """
        heard, last = b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % self.port
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as line, suppress(OSError):
            line.sendall(b"".join((*said, last if hear and not stop else b"")))
            if stop:
                line.shutdown(socket.SHUT_WR)
            while hear and (data := line.recv(65_536)):
                heard += data
        told = [part for part in heard.split(b"HTTP/1.")[1:] if b"This is a farebox proxy" not in part]
        return [int(part[2:5]) for part in told if part[2:5].isdigit()]


Attack = Callable[[Scene], list[int]]


def changed(token: str, change: Callable[[Macaroon], Macaroon]) -> str:
    """A token whose holder has edited it."""
    macaroon = change(Macaroon.read_base64(token.removeprefix("fbx_")))
    return "fbx_" + base64.urlsafe_b64encode(macaroon.write()).decode().rstrip("=")


def narrowed(scene: Scene, **by: Any) -> str:
    return PurseToken.read(scene.token).attenuate(**by).reveal()


def without_caveats(macaroon: Macaroon) -> Macaroon:
    return Macaroon(
        location=macaroon.location, identifier=macaroon.identifier, caveats=(), signature=macaroon.signature
    )


def with_higher_limit(macaroon: Macaroon) -> Macaroon:
    higher = tuple(caveat.replace(b"1 sat", b"9999 sat") for caveat in macaroon.caveats)
    return Macaroon(
        location=macaroon.location, identifier=macaroon.identifier, caveats=higher, signature=macaroon.signature
    )


def of_other_purse(macaroon: Macaroon) -> Macaroon:
    return Macaroon(location=macaroon.location, identifier=b"other", caveats=(), signature=macaroon.signature)


def once(**how: Any) -> Attack:
    """A request that is changed in this way."""
    return lambda scene: scene.say(scene.said(**how))


def basic(text: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(text.encode()).decode()


def leave_early(scene: Scene) -> list[int]:
    for _ in range(10):
        scene.say(scene.said(), hear=False)
    return []


def many_at_once(scene: Scene) -> list[int]:
    with ThreadPoolExecutor(12) as agents:
        return [status for each in agents.map(lambda _: scene.say(scene.said()), range(24)) for status in each]


def spellings(scene: Scene) -> list[int]:
    """Of 127.0.0.2, where the private server is."""
    hosts = [
        "127.0.0.2",
        "2130706434",
        "0x7f000002",
        "0x7f.0.0.2",
        "0177.0.0.2",
        "127.2",
        "127.0.2",
        "[::ffff:127.0.0.2]",
    ]
    hosts += [
        "[::ffff:7f00:2]",
        "[::127.0.0.2]",
        "[64:ff9b::7f00:2]",
        "127.0.0.2.",
        "0.0.0.0",
        "[::]",
        "0",
        "127.0.0.%32",
    ]
    hosts += ["①②⑦.0.0.2".encode().decode("latin-1"), "127.0.0.2\t", "127.0.0.2%00"]
    statuses = []
    for host in hosts:
        at = f"{host}:{scene.private}"
        statuses += scene.say(scene.said(target=f"http://{at}/", host=at), scene.paying(f"http://{at}/"))
        statuses += scene.say(scene.paying(f"http://{at}/"))
    return statuses


def tunnels(scene: Scene) -> list[int]:
    statuses = []
    for place in (scene.host, f"127.0.0.2:{scene.private}", "127.0.0.1:25", f"127.0.0.1:{scene.port}", "shop.test"):
        inner = scene.said(token="", target="/write", host=place)
        statuses += scene.say(scene.said(method="CONNECT", target=place, host=place, body=b"", framed=False), inner)
    return statuses


# Each with the statuses that it may be answered with; not one of them is a 2xx.
ATTACKS: Final[Mapping[str, tuple[Attack, set[int]]]] = {
    "a plain call more": (once(), {403}),
    "no token": (once(token=""), {407}),
    "no token behind /pay/": (lambda s: s.say(s.paying(s.seller, token="")), {401}),
    "a made-up token": (once(token="fbx_" + "A" * 80), {407}),
    "a token of another key": (
        lambda s: s.say(s.said(token=PurseToken.mint("agent", Secret(secrets.token_bytes(32))).reveal())),
        {407},
    ),
    "a token with one bit changed": (
        lambda s: s.say(s.said(token=s.token[:-2] + ("A" if s.token[-2] != "A" else "Q") + s.token[-1])),
        {407},
    ),
    "a token of another purse under this signature": (
        lambda s: s.say(s.said(token=changed(s.token, of_other_purse))),
        {407},
    ),
    "a narrowed token whose caveats were taken away": (
        lambda s: s.say(s.said(token=changed(narrowed(s, limits=[Window.read("1 sat/day")]), without_caveats))),
        {407},
    ),
    "a narrowed token whose limit was raised": (
        lambda s: s.say(s.said(token=changed(narrowed(s, limits=[Window.read("1 sat/day")]), with_higher_limit))),
        {407},
    ),
    "a token with a higher limit added": (
        lambda s: s.say(s.said(token=narrowed(s, limits=[Window.read("1000000 sat/day")]))),
        {403},
    ),
    "many tokens made from one": (
        lambda s: [
            n for i in range(5) for n in s.say(s.said(token=narrowed(s, limits=[Window.read(f"{90 + i} sat/day")])))
        ],
        {403},
    ),
    "a token that has run out": (
        lambda s: s.say(s.said(token=narrowed(s, until=datetime.now(UTC) - timedelta(seconds=1)))),
        {407},
    ),
    "a token for other hosts": (lambda s: s.say(s.said(token=narrowed(s, hosts=["example.com"]))), {403}),
    "two tokens": (lambda s: s.say(s.said(fields=f"Proxy-Authorization: Bearer {s.token}")), {400}),
    "two tokens, a bad one first": (
        lambda s: s.say(s.said(token="bad", fields=f"Proxy-Authorization: Bearer {s.token}")),
        {400},
    ),
    "a token in two fields": (lambda s: s.say(s.said(fields=f"Farebox-Purse: {s.token}")), {400}),
    "a token in a comma list": (lambda s: s.say(s.said(token=f"x, Bearer {s.token}")), {400}),
    "a token as the user of the target": (
        lambda s: s.say(s.said(token="", target=f"http://{s.token}@{s.host}/write")),
        {400},
    ),
    "a token in the query": (lambda s: s.say(s.said(token="", target=f"{s.seller}/write?token={s.token}")), {407}),
    "a token as Authorization": (lambda s: s.say(s.said(token="", fields=f"Authorization: Bearer {s.token}")), {407}),
    "an empty user": (once(token="", fields=basic(":")), {400}),
    "another user": (lambda s: s.say(s.said(token="", fields=basic(f"root:{s.token}"))), {400}),
    "fields that might raise a limit": (
        lambda s: s.say(
            s.said(
                fields="Farebox-Max: 999999 sat\r\nFarebox-Budget: 999999 sat/day\r\nX-Farebox-Purse: owner\r\n"
                "Farebox-Limit: none\r\nX-Farebox-Max: 1 BTC\r\nFarebox-Accept-Price: 1 BTC\r\nIdempotency-Key: 1"
            )
        ),
        {403},
    ),
    "parameters that might raise a limit": (
        lambda s: s.say(s.said(target=f"{s.seller}/write?max=999999&budget=999999")),
        {403},
    ),
    "a write to /budget": (
        lambda s: s.say(s.said(target="/budget", host=f"127.0.0.1:{s.port}", method="PUT", body=b'{"limit": 1e9}')),
        {405},
    ),
    "a page of the operator's": (
        lambda s: [
            status
            for path in ("/admin", "/purse", "/purses/agent", "/wallet", "/pay", "/pay/", "/../budget", "//budget")
            for status in s.say(s.said(target=path, host=f"127.0.0.1:{s.port}"))
        ],
        {400, 404},
    ),
    "a body with two framings": (
        lambda s: s.say(s.said(fields="Transfer-Encoding: chunked", body=b"0\r\n\r\n" + s.said(token=""))),
        {400},
    ),
    "two lengths": (lambda s: s.say(s.said(fields="Content-Length: 0", body=s.said())), {400}),
    "an odd coding": (
        lambda s: s.say(s.said(fields="Transfer-Encoding: xchunked", framed=False, body=s.said())),
        {400},
    ),
    "a coding twice": (
        once(fields="Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", framed=False),
        {400},
    ),
    "a chunked body in HTTP/1.0": (
        once(version="HTTP/1.0", fields="Transfer-Encoding: chunked", framed=False, body=b"0\r\n\r\n"),
        {400},
    ),
    "a request within a body": (lambda s: s.say(s.said(body=s.said(token=""))), {403}),
    "a request behind a body, without a token": (lambda s: s.say(s.said(), s.said(token="")), {403, 407}),
    "a Host that is somebody else": (once(host="shop.test"), {400}),
    "two Hosts": (once(fields="Host: shop.test"), {400}),
    "no Host": (lambda s: s.say(s.said().replace(b"Host: ", b"Tsoh: ")), {400}),
    "the proxy's pages under another name": (
        lambda s: s.say(
            s.said(target="/budget", host=f"evil.test:{s.port}", method="GET"), s.paying(s.seller, host="evil.test")
        ),
        {400},
    ),
    "a page of another site": (
        lambda s: s.say(s.paying(s.seller, token="", fields="Origin: https://evil.test\r\nSec-Fetch-Site: cross-site")),
        {401},
    ),
    "tunnels": (tunnels, {400, 403, 501}),
    "/pay/ of itself": (
        lambda s: s.say(
            s.paying(f"http://127.0.0.1:{s.port}/pay/{s.seller}/write"), s.paying(f"http://localhost:{s.port}/")
        ),
        {403},
    ),
    "the proxy through itself": (
        lambda s: s.say(
            s.said(
                target=f"http://127.0.0.1:{s.port}/pay/http://[::ffff:127.0.0.1]:{s.port}/", host=f"127.0.0.1:{s.port}"
            )
        ),
        {403},
    ),
    "other schemes": (
        lambda s: [
            status
            for url in ("file:///etc/passwd", f"ftp://{s.host}/", f"ws://{s.host}/", "unix:/run/x", "data:,x")
            for status in s.say(s.said(target=url), s.said()) + s.say(s.paying(url))
        ],
        {400, 403},
    ),
    "a user in the URL": (lambda s: s.say(s.paying(f"http://me:secret@{s.host}/write")), {400}),
    "a host in a URL that two read differently": (
        lambda s: [
            status
            for host in (f"{s.host}\\@127.0.0.2:{s.private}", f"127.0.0.2:{s.private}#@{s.host}", f"{s.host}@127.0.0.2")
            for status in s.say(s.paying(f"http://{host}/"))
        ],
        {400},
    ),
    "spellings of an address of this machine": (spellings, {400, 403}),
    "a redirect to a private server": (
        lambda s: s.say(s.said(target=f"{s.leading}/", host=s.leading.removeprefix("http://"))),
        {307},
    ),
    "ports of other services": (
        lambda s: [n for port in (22, 25, 6379, 11211) for n in s.say(s.paying(f"http://127.0.0.2:{port}/"))],
        {403},
    ),
    "a websocket": (once(method="GET", fields="Connection: Upgrade\r\nUpgrade: websocket"), {501}),
    "a change to HTTP/2": (
        once(fields="Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA"),
        {403},
    ),
    "HTTP/2 at once": (lambda s: s.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), {400}),
    "TLS at once": (lambda s: s.say(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xfc\r\n\r\n"), {400}),
    "TRACE": (once(method="TRACE", body=b"", framed=False), {405}),
    "odd methods": (
        lambda s: [n for m in ("PAY", "post", "MKCOL", "X-Y") for n in s.say(s.said(method=m))],
        {400, 403},
    ),
    "a line break in a field": (lambda s: s.say(s.said(fields=f"X: 1\rFarebox-Purse: {s.token}")), {400}),
    "a NUL in a field": (once(fields="X: 1\x002"), {400}),
    "a folded field": (lambda s: s.say(s.said(fields=f"X: 1\r\n Farebox-Purse: {s.token}")), {400, 403}),
    "a line break in the target": (lambda s: s.say(s.said(target=f"{s.seller}/%0d%0aFarebox-Max:%201")), {400, 403}),
    "giant fields": (once(fields="X: " + "x" * 200_000), {431}),
    "very many fields": (once(fields="\r\n".join(["X: x"] * 2_000)), {431}),
    "a giant body": (lambda s: s.say(s.said(body=b"x" * (17 * 1024 * 1024))), {413}),
    "a body that stops": (lambda s: s.say(s.said()[:-1], stop=True), {400}),
    "fifty requests in one go": (lambda s: s.say(*(s.said() for _ in range(50))), {403}),
    "many agents at once": (many_at_once, {403, 503}),
    "a caller that leaves": (leave_early, set()),
    "an old caller": (once(version="HTTP/1.0"), {403}),
}


@contextmanager
def private_server() -> Iterator[tuple[int, list[bytes]]]:
    """A server that only this machine can reach, and what it was asked."""
    asked: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline())
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecret")

    with socketserver.ThreadingTCPServer(("127.0.0.2", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def scene(
    open_shop: Any, writer_url: str, serve_app: Any, open_forwarder: Any
) -> Iterator[tuple[Scene, Any, list[bytes]]]:
    """The scene, the wallet that pays, and what the private server was asked."""
    with private_server() as (private, asked):

        async def lead(_scope: Scope, _receive: Receive, send: Send) -> None:
            there = f"http://127.0.0.2:{private}/".encode()
            headers = [(b"location", there), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 307, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

        with (
            serve_app(lead) as leading,
            open_shop("--upstream", writer_url, "--price", str(PRICE), "--free-calls", "0") as shop,
            open_forwarder(
                shop.place["buyer_wallet"], "--purse", "agent", "--limit", f"{LIMIT}/day", "--allow", "127.0.0.1",
                "--budget", "100000 sat/day",
            ) as forwarder,
        ):  # fmt: skip
            port = int(forwarder.place["proxy"].rpartition(":")[2])
            there = Scene(port=port, token=forwarder.place["token"], seller=shop.url, private=private, leading=leading)
            yield there, shop.place["buyer_wallet"], asked


def left_in(wallet: str) -> Amount:
    with httpx.Client(trust_env=False) as client:
        return converse(open_wallet(wallet).balance(), client)


def test_no_way_round_a_purse_that_is_spent(scene: tuple[Scene, str, list[bytes]], tell: Any) -> None:
    agent, wallet, asked = scene
    full = left_in(wallet)
    assert [200, 200] == agent.say(agent.said(), agent.said())
    before = left_in(wallet)
    assert SPENT == full.less(before)
    wrong = {}
    for name, (attack, allowed) in ATTACKS.items():
        statuses = attack(agent)
        spent = before.less(left_in(wallet))
        if not set(statuses) <= allowed or spent != NOTHING or asked or (allowed and not statuses):
            wrong[name] = (statuses, spent, list(asked))
    assert {} == wrong
    assert len(ATTACKS) >= 25
    tell(f"{len(ATTACKS)} ways tried round a purse that is spent: 0 sat spent, 0 private servers reached")


def test_all_ways_at_once_spend_no_more_than_the_purse_has(scene: tuple[Scene, str, list[bytes]], tell: Any) -> None:
    agent, wallet, asked = scene
    full = left_in(wallet)
    with ThreadPoolExecutor(8) as agents:
        list(agents.map(lambda way: way[0](agent), [*ATTACKS.values()]))
    spent = full.less(left_in(wallet))
    assert spent <= LIMIT
    assert [] == asked
    tell(f"{len(ATTACKS)} ways tried at once on a purse of {LIMIT}: {spent} spent")
