"""Whatever comes, a parser reads it or refuses it in its own words, and quickly (target E1)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import random
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from farebox.catalog import Catalog
from farebox.catalog.path import canonical
from farebox.catalog.price import Price
from farebox.catalog.routes import RouteTable
from farebox.cli.config import TEMPLATE, checked
from farebox.core.amount import Amount
from farebox.core.bech32 import read_bech32, write_bech32
from farebox.core.bolt11 import decode
from farebox.core.budget import Budget
from farebox.core.errors import (
    CallerError,
    ChallengeUnreadable,
    ConfigError,
    CredentialRejected,
    InvoiceRefused,
    MalformedCredential,
    MalformedValue,
)
from farebox.core.exchange import Wire
from farebox.core.json_text import load_json
from farebox.core.macaroon import MOST_BYTES, Macaroon
from farebox.core.secret import KeyRing
from farebox.dialects import L402, PaymentAuth, PaymentHash
from farebox.http.client import ClientPrefix
from farebox.http.request import Reader
from farebox.http.server import strict_http
from farebox.payer.offer import Limits, choose_offer
from farebox.testing.dialects import NOW, QUOTE, sample_credential, sample_invoice
from farebox.testing.fuzzing import damaged
from farebox.testing.smuggling import CORPUS

FEW = 250  # of each parser
MANY = 80_000
MOST_S = 0.050
DIGITS = b"0123456789abcdefghijklmnopqrstuv"  # of bech32, as `core.bech32` has them

KEYS = KeyRing([sha256(b"a key").digest()])
SELLERS = (L402(KEYS), PaymentAuth(KEYS, "shop.example"), PaymentHash())
INVOICE = sample_invoice()
CHALLENGES = [seller.issue(QUOTE, INVOICE, valid_until=NOW + timedelta(days=1)) for seller in SELLERS]
ASKED = [seller.write_challenge(each) for seller, each in zip(SELLERS, CHALLENGES, strict=True) if each]
SHOWN = [
    seller.write_credential(sample_credential(each)) for seller, each in zip(SELLERS, CHALLENGES, strict=True) if each
]
AUTHORIZATIONS = [value.encode() for wire in SHOWN for name, value in wire.headers if name == "authorization"]
TOKEN = CHALLENGES[0].token if CHALLENGES[0] else ""
TERMS = Limits(budget=Budget.read("500 sat/day"))
TABLE = RouteTable.read({"POST /api/dvm": "21 sat", "/files/*": "1 sat", "GET /users/{id}": "2 sat", "/*": "free"})
READER = Reader(
    proof_headers=frozenset({"x-payment-hash", "macaroon"}),
    proof_fields=frozenset({"payment_hash"}),
    vary=("x-tenant",),
)
ANY_DIGIT = bytes(byte if byte in DIGITS else DIGITS[byte % 32] for byte in range(256))
PROXIED = ClientPrefix(["10.0.0.0/8", "2001:db8::/32"])

CATALOG = Catalog()


@CATALOG.sell(price="1 sat")
async def summarise(text: str, sentences: int = 3, tone: list[str] | None = None) -> str:
    """Summarise a text."""
    return text[:sentences] + str(tone)


(CAPABILITY,) = CATALOG


def text(data: bytes) -> str:
    """As a server decodes a header field."""
    return data.decode("latin-1")


def read_proof(data: bytes) -> None:
    for name in ("authorization", "macaroon", "grpc-metadata-macaroon", "x-payment-hash"):
        wire = Wire(headers=((name, text(data)),), query=(("payment_hash", text(data)),))
        for seller in SELLERS:
            try:
                credential = seller.read_credential(wire)
                if credential is not None:
                    seller.verify(credential, now=NOW)
                    seller.sealed(credential)
            except CallerError:
                pass


def read_402(data: bytes) -> None:
    wire = Wire(headers=(("www-authenticate", text(data)),))
    if data.startswith(b"{"):
        with contextlib.suppress(ValueError):  # as the client has it
            body = load_json(data)
            wire = Wire(body=body if isinstance(body, dict) else {})
    choose_offer(wire, dialects=SELLERS, limits=TERMS, now=NOW)


def read_sound_invoice(data: bytes) -> None:
    """An invoice whose checksum is right, whatever else is not."""
    prefix, _, digits = data.partition(b":")
    decode(write_bech32(prefix.decode("ascii", "ignore").lower(), digits.translate(ANY_DIGIT)))


def read_request(data: bytes) -> None:
    method, target, fields, body = (data.split(b"\n", 3) + [b""] * 3)[:4]
    path, _, query = target.partition(b"?")
    headers = [
        (name.strip().lower(), value.strip())
        for name, _, value in (each.partition(b":") for each in fields.split(b"|"))
    ]
    scope = {
        "method": text(method),
        "scheme": "http",
        "path": "/",
        "raw_path": path,
        "query_string": query,
        "headers": headers,
    }
    READER.passed_on(READER.take(scope, body, text(method)))


def read_path(data: bytes) -> None:
    TABLE.could_mean(data)
    for method in ("GET", "HEAD", "POST", "?"):
        TABLE.lookup(method, canonical(data))


def read_route(data: bytes) -> None:
    key, _, price = data.decode("utf-8", "replace").partition("=")
    RouteTable.read({key: price})


def read_money(data: bytes) -> None:
    for read in (Amount.read, Price.read, Budget.read):
        with contextlib.suppress(MalformedValue):
            read(data.decode("utf-8", "replace"))


def read_config(data: bytes) -> None:
    try:
        content = tomllib.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:  # as `read_config` has it, without the file
        raise ConfigError from error
    checked(content, "here")


def read_address(data: bytes) -> None:
    PROXIED("10.1.1.1", [(b"x-forwarded-for", data)])
    PROXIED(text(data), [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """good: what it reads. refusals: the words in which it refuses."""

    name: str
    read: Callable[[bytes], object]
    good: Sequence[bytes]
    refusals: tuple[type[Exception], ...]


REQUESTS = (
    b"POST\n/api/dvm?a=1&payment_hash=" + b"ab" * 32 + b"&l402=require\ncontent-type: application/json|accept: */*\n"
    b'{"prompt": "hi", "payment_hash": "' + b"ab" * 32 + b'", "n": [1, {"a": "\\u00e9"}]}',
    b'GET\n/x?%70ayment_hash=1\nhost: a|authorization: Basic YTpi|x-tenant: b\n{"payment_hash":1,"a":{}}',
)
ROUTES = (b"POST /api/dvm=21 sat", b"/files/*=1 sat", b"* /users/{id}=500 msat", "GET /%C3%BCber/ü=free".encode())
PARSERS = (
    Parser(name="macaroon", read=Macaroon.read, good=[Macaroon.read_base64(TOKEN).write()], refusals=(MalformedValue,)),
    Parser(
        name="token",
        read=lambda data: Macaroon.read_base64(text(data)),
        good=[TOKEN.encode()],
        refusals=(MalformedValue,),
    ),
    Parser(name="Authorization", read=read_proof, good=[*AUTHORIZATIONS, b"L402 " + b"ab" * 32], refusals=()),
    Parser(
        name="402",
        read=read_402,
        good=[
            *(value.encode() for wire in ASKED for name, value in wire.headers if name == "www-authenticate"),
            json.dumps({name: value for wire in ASKED for name, value in wire.body.items()}).encode(),
        ],
        refusals=(ChallengeUnreadable, InvoiceRefused),
    ),
    Parser(
        name="BOLT11",
        read=lambda data: decode(text(data)),
        good=[INVOICE.text.encode(), INVOICE.text.upper().encode()],
        refusals=(MalformedValue,),
    ),
    Parser(
        name="BOLT11 with a good checksum",
        read=read_sound_invoice,
        good=[b":".join((prefix.encode(), digits)) for prefix, digits in [read_bech32(INVOICE.text)]],
        refusals=(MalformedValue,),
    ),
    Parser(name="request", read=read_request, good=REQUESTS, refusals=(CallerError,)),
    Parser(
        name="path",
        read=read_path,
        good=[b"/api/dvm", b"/files/a%20b/%C3%BC", b"/users/{id}", b"/%2e%2e/files/..;/x"],
        refusals=(CallerError,),
    ),
    Parser(name="route", read=read_route, good=ROUTES, refusals=(ConfigError,)),
    Parser(
        name="money",
        read=read_money,
        good=[b"21 sat", b"500 msat", b"500 sat/day", b"50 sat/call, 500 sat/day"],
        refusals=(),
    ),
    Parser(
        name="arguments",
        read=CAPABILITY.check,
        good=[b'{"text": "hi", "sentences": 2, "tone": ["dry", "\\u00e9"]}'],
        refusals=(CallerError,),
    ),
    Parser(
        name="address",
        read=read_address,
        good=[b"192.0.2.7, 10.0.0.1", b"[2001:db8::1]:80", b"::ffff:192.0.2.1, fe80::1%eth0", b"2002:c000:0201::1"],
        refusals=(),
    ),
    Parser(
        name="farebox.toml",
        read=read_config,
        good=[
            TEMPLATE.encode(),
            b'free_calls = 2\ntrusted_proxies = ["10.0.0.0/8"]\nlisten = "127.0.0.1:0"\nreceiver = "sandbox:"\n'
            b'[[route]]\npath = "/x"\nmethod = "POST"\nprice = "21 sat"\nupstream = "http://127.0.0.1:9"\n'
            b'[route.upstream_headers]\nauthorization = "Bearer x"\n',
        ],
        refusals=(ConfigError,),
    ),
)


def outcome(parser: Parser, data: bytes) -> tuple[str, float]:
    """What became of an input, and the seconds of this thread that it took."""
    began = time.thread_time()
    try:
        parser.read(data)
        became = "read"
    except parser.refusals:
        became = "refused"
    except Exception as error:
        became = f"{type(error).__name__}: {error}"
    return became, time.thread_time() - began


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.full)])
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_damaged_input_is_read_or_refused_and_nothing_else(
    parser: Parser, count: int, seed: int, tell: Callable[[str], object]
) -> None:
    assert {"read"} <= {outcome(parser, data)[0] for data in parser.good}
    slowest, tally = 0.0, {"read": 0, "refused": 0}
    for data in damaged(random.Random(seed), parser.good, count):
        became, took = outcome(parser, data)
        if took > MOST_S:  # once may be the collector's doing
            took = min(took, *(outcome(parser, data)[1] for _ in range(3)))
        assert became in tally, (became, data, seed)
        assert took <= MOST_S, (took, data, seed)
        tally[became] += 1
        slowest = max(slowest, took)
    tell(f"E1 {parser.name}: {count} inputs, {tally}, slowest {slowest * 1000:.1f} ms; FAREBOX_SEED={seed}")


def test_a_token_of_more_than_4_kib_is_refused() -> None:
    macaroon = Macaroon.read_base64(TOKEN)
    room = MOST_BYTES - len(macaroon.attenuate(b"x" * 1000).write()) + 1000
    assert 4096 == MOST_BYTES == len(macaroon.attenuate(b"x" * room).write())
    fields = dataclasses.replace(macaroon, caveats=(*macaroon.caveats, b"x" * room)).write_base64()
    shown = Wire(headers=(("authorization", f"L402 {fields}:{'ab' * 32}"),))
    credential = SELLERS[0].read_credential(shown)
    assert credential is not None
    with pytest.raises(CredentialRejected):
        SELLERS[0].verify(credential, now=NOW)
    longer = macaroon.write()[:-34]  # less its signature, which is to follow one more caveat
    data = (
        longer[:-1] + b"\x02" + bytes([0x80 | 4000 & 0x7F, 4000 >> 7]) + b"x" * 4000 + b"\0\0" + macaroon.write()[-34:]
    )
    assert len(data) > 4096
    with pytest.raises(MalformedCredential, match="more than 4096 bytes"):
        SELLERS[0].read_credential(
            Wire(headers=(("authorization", f"L402 {base64.b64encode(data).decode()}:{'ab' * 32}"),))
        )


class Socket(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False
        self.written = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.mark.anyio
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.full)])
async def test_damaged_bytes_on_a_connection_are_a_request_or_a_refusal(
    count: int, seed: int, tell: Callable[[str], object]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(app, lifespan="off", log_config=None, http=strict_http(), ws="none")
    config.load()
    state = ServerState()
    slowest, tally = 0.0, {"read": 0, "refused": 0, "waiting": 0}
    chance = random.Random(seed)
    for data in damaged(chance, [scenario.said for scenario in CORPUS], count):
        socket = Socket()
        connection: Any = config.http_protocol_class(config=config, server_state=state, app_state={})
        connection.connection_made(socket)
        began = time.thread_time()
        at = chance.randrange(len(data) + 1)
        for part in (data[:at], data[at:]):
            if not socket.closing:
                connection.data_received(part)
        slowest = max(slowest, time.thread_time() - began)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        statuses = {line[9:12] for line in socket.written.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")}
        assert statuses <= {b"100", b"200", b"400", b"414", b"431"}, (data, seed)
        tally["refused" if statuses - {b"100", b"200"} else "read" if b"200" in statuses else "waiting"] += 1
        connection.connection_lost(None)
    for task in state.tasks:
        task.cancel()
    await asyncio.gather(*state.tasks, return_exceptions=True)
    tell(f"E1 connections: {count} inputs, {tally}, slowest {slowest * 1000:.1f} ms; FAREBOX_SEED={seed}")
    assert min(tally.values()) > 0
