"""A payment is good for the request that it was made for, and for no other, however little differs."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import unquote

import pytest
from structlog.testing import capture_logs

from farebox.catalog.routes import Route
from farebox.core.amount import NOTHING, Amount
from farebox.dialects.http_auth import read_challenges
from farebox.http.request import AsgiApp, Message
from farebox.http.shopfront import shopfront
from farebox.testing.market import Market, Service

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)


@dataclass(frozen=True)
class Call:
    """What is sent, as it stands on the wire."""

    method: str
    path: str
    query: tuple[str, ...]
    host: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def some_call(chance: random.Random, number: int) -> Call:
    """A call with something to change in every part of it; no two are alike."""
    body = json.dumps({"prompt": f"prompt {number}", "temperature": chance.randint(0, 9)}).encode()
    return Call(
        method=chance.choice(("POST", "PUT", "PATCH")),
        path=chance.choice(("/api/dvm", "/files/a/b.txt", "/rank")),
        query=(f"a={number}", f"b={chance.randint(0, 99)}", "c=x%20y"),
        host="shop.test",
        headers=(("content-type", "application/json"), ("accept", "application/json")),
        body=body,
    )


# --- how a call is changed --------------------------------------------------------------------------------------------


def other_method(call: Call, chance: random.Random) -> Call:
    others = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "QUERY"} - {call.method}
    return replace(call, method=chance.choice(sorted(others)))


def other_path(call: Call, chance: random.Random) -> Call:
    spelling = chance.choice(
        ("{}/", "{}x", "/x{}", "//{}", "/.{}", "{}/../x", "/%2e{}", "{}%20", "{};v=1", "/%2F{}", "{}%00", "{}%3Fa=1")
    )
    upper = call.path.upper()
    return replace(call, path=chance.choice((spelling.format(call.path), upper, "/", "/other")))


def other_query(call: Call, chance: random.Random) -> Call:
    first, second, third = call.query
    changed: tuple[tuple[str, ...], ...] = (
        (second, first, third),
        (*call.query, "d=1"),
        (*call.query, third),
        ("d=1", *call.query),
        call.query[1:],
        (),
        (first + "0", second, third),
        (first, second, "c=x+y"),
        (*call.query, ""),
        (first.upper(), second, third),
    )
    return replace(call, query=chance.choice(changed))


def other_host(call: Call, chance: random.Random) -> Call:
    return replace(
        call, host=chance.choice(("other.test", "shop.test:8080", "shop.test.", "127.0.0.1", "sub.shop.test"))
    )


def flipped_bit(call: Call, chance: random.Random) -> Call:
    body = bytearray(call.body)
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    return replace(call, body=bytes(body))


def other_body(call: Call, chance: random.Random) -> Call:
    told = json.loads(call.body)
    changed = (
        b"",
        b"{}",
        call.body + b"\n",
        b" " + call.body,
        call.body[:-1],
        json.dumps(dict(reversed(told.items()))).encode(),
        json.dumps(told | {"more": 1}).encode(),
        json.dumps(told, separators=(",", ":")).encode(),
    )
    return replace(call, body=chance.choice(changed))


def other_header(call: Call, chance: random.Random) -> Call:
    kind, accept = call.headers
    changed: tuple[tuple[tuple[str, str], ...], ...] = (
        (("content-type", "text/plain"), accept),
        (("content-type", "application/json; charset=utf-8"), accept),
        (accept,),
        (kind, ("accept", "text/event-stream")),
        (kind, ("accept", "*/*")),
        (kind, accept, ("accept", "text/html")),
        (kind, ("content-type", "text/html"), accept),
    )
    return replace(call, headers=chance.choice(changed))


MUTATIONS: tuple[Callable[[Call, random.Random], Call], ...] = (
    other_method,
    other_path,
    other_query,
    other_host,
    flipped_bit,
    other_body,
    other_header,
)


# --- sending and paying -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


class Buyer:
    """Sends calls as they stand, where a client would first tidy them, and pays for them."""

    def __init__(self, app: AsgiApp, market: Market) -> None:
        self._app = app
        self._market = market

    async def send(self, call: Call, proof: tuple[tuple[str, str], ...] = ()) -> Answer:
        """The answer to exactly this call."""
        length = (("content-length", str(len(call.body))),) if call.body else ()
        headers = (("host", call.host), *call.headers, *length, *proof)
        scope = {
            "type": "http",
            "http_version": "1.1",
            "scheme": "http",
            "method": call.method,
            "path": unquote(call.path),
            "raw_path": call.path.encode(),
            "query_string": "&".join(call.query).encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "client": ("192.0.2.7", 4711),
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": call.body}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], told, b"".join(message["body"] for message in sent[1:]))

    async def buy(self, call: Call, chance: random.Random) -> tuple[tuple[str, str], ...]:
        """Pay for a call; the proof, in one of the ways to show it."""
        asked = await self.send(call)
        assert asked.status == 402, asked
        told = json.loads(asked.body)
        preimage = self._market.pay(told["invoice"]).hex()
        way = chance.choice(("L402", "LSAT", "Payment", "payment hash"))
        if way == "payment hash":
            return (("x-payment-hash", told["payment_hash"]),)
        if way == "Payment":
            return (("authorization", payment_credential(asked, preimage)),)
        return (("authorization", f"{way} {told['macaroon']}:{preimage}"),)


def payment_credential(asked: Answer, preimage: str) -> str:
    challenges = read_challenges([asked.headers["www-authenticate"]])
    (challenge,) = (each for each in challenges if each.scheme.lower() == "payment")
    shown = {"challenge": dict(challenge.parameters), "payload": {"preimage": preimage}}
    return "Payment " + base64.urlsafe_b64encode(json.dumps(shown).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("pairs", [300, pytest.param(10_000, marks=pytest.mark.full)])
async def test_so_many_payments_serve_no_other_request_and_stay_good_for_their_own(
    pairs: int, seed: int, tell: Callable[[str], object]
) -> None:
    chance = random.Random(seed)
    service, market = Service(), Market.open()
    buyer = Buyer(shopfront({Route.read("/*", str(PRICE)): service}, market.gate), market)
    answered: Counter[tuple[str, int]] = Counter()
    with capture_logs() as logs:
        for number in range(pairs):
            call = some_call(chance, number)
            mutate = MUTATIONS[number % len(MUTATIONS)]
            mutated = mutate(call, chance)
            proof = await buyer.buy(call, chance)
            refused = await buyer.send(mutated, proof)
            about = f"seed {seed}, pair {number}, {mutate.__name__}: {call} became {mutated}: {refused}"
            assert 400 <= refused.status < 500, about
            assert number == service.calls, about
            answered[mutate.__name__, refused.status] += 1
            own = await buyer.send(call, proof)
            assert 200 == own.status, f"{about}; then {own}"
        balance = await market.gate.ledger.balance()
    await market.close()
    tell(f"A4: {pairs} mutated requests, none served: {dict(answered)}; earned {balance.earned} (seed {seed})")
    assert pairs == service.calls == answered.total()
    assert PRICE * pairs == balance.earned == balance.received
    assert NOTHING == balance.held == balance.credit
    assert [] == [told for told in logs if told["log_level"] in ("error", "critical")]
