"""No secret of a sale is where none belongs: logs, error bodies, metrics, traces, the ledger, the process list (F3)."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import random
import re
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from farebox.cli.logs import configure
from farebox.core.exchange import Challenge, Credential, Wire
from farebox.core.macaroon import Macaroon
from farebox.core.ports import Conversation, HttpCall, HttpReply, Paid
from farebox.core.secret import KeyRing, Secret
from farebox.dialects import L402, PaymentAuth
from farebox.gate import Terms
from farebox.http.paywall import Paywall
from farebox.http.request import Receive, Scope, Send
from farebox.http.selling import Gate
from farebox.lightning import open_receiver
from farebox.testing.canaries import Canaries
from farebox.testing.dialects import NOW, PREIMAGE, QUOTE, sample_invoice
from farebox.testing.forging import FORGERIES, Proof, write_l402, write_payment
from farebox.testing.market import Market, whole_body

pytestmark = [pytest.mark.system, pytest.mark.anyio]

CALLS = [60, pytest.param(10_000, marks=pytest.mark.full)]
AT_ONCE = 4
PATHS = ("/", "/fail", "/break")
UPSTREAM_KEY = "upstream-key-" + "6d" * 12


class Sink(ThreadingHTTPServer):
    """Takes whatever is posted to it, such as traces."""

    daemon_threads = True

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sink.taken.append(str(self.headers).encode() + self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        thread = threading.Thread(target=sink.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield sink
        sink.shutdown()
        thread.join()


async def service(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers, fails with all that it was sent in its answer, or breaks off."""
    body = await whole_body(receive)
    told = repr(scope["headers"]).encode() + body
    if scope["path"] == "/break":
        raise RuntimeError("breaks off")
    status = 500 if scope["path"] == "/fail" else 200
    answer = told if status == 500 else b'{"sold": true}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


@dataclass
class Caller:
    """Buys, and goes wrong in every way."""

    shop: Any
    wallet: str
    payer: Any
    chance: random.Random
    canaries: Canaries = field(default_factory=Canaries)
    bodies: list[bytes] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    bought: list[tuple[str, str, Proof]] = field(default_factory=list)
    serial: int = 0

    async def buy(self, path: str) -> tuple[str, str, Proof]:
        """Path, prompt and paid proof; its preimage, token and seal are canaries from now on."""
        self.serial += 1
        prompt = f"call {self.serial}"
        asked = await self.payer.http.post(self.shop.url + path, content=prompt, headers=dict([self.somebody()]))
        assert 402 == asked.status_code, asked.text
        wire = Wire(headers=(("www-authenticate", asked.headers["www-authenticate"]),))
        (l402,), (payment,) = L402().read_challenges(wire), PaymentAuth().read_challenges(wire)
        paid = await self.payer.pay(self.wallet, l402.invoice)
        assert isinstance(paid, Paid)
        proof = _proof(l402, payment, paid.preimage.reveal())
        self.canaries.add(f"preimage of {prompt}", proof.preimage)
        self.canaries.add(f"signature of {prompt}", proof.macaroon.signature)
        self.canaries.add(f"seal of {prompt}", base64.urlsafe_b64decode(dict(payment.parameters)["id"] + "="))
        return path, prompt, proof

    def somebody(self) -> tuple[str, str]:
        """A caller of one's own, who may ask for an invoice."""
        return "x-forwarded-for", f"198.51.{self.chance.randrange(250)}.{self.chance.randrange(250)}"

    async def call(self) -> None:
        """One call that is good, or not."""
        kind = self.chance.randrange(10)
        if kind < 4 or not self.bought:
            path = self.chance.choice(("/", "/", *PATHS))
            path, prompt, proof = await self.buy(path)
            self.bought.append((path, prompt, proof))
            await self.show(path, prompt, self.chance.choice((proof.l402, proof.payment_auth)))
            return
        path, prompt, proof = self.chance.choice(self.bought)
        _, _, other = self.chance.choice(self.bought)
        match kind:
            case 4:  # again, or for another call
                await self.show(path, self.chance.choice((prompt, "something else")), proof.l402)
            case 5:
                forge = self.chance.choice(FORGERIES)
                value = forge(proof, other, self.chance) if other is not proof else f"L402 {proof.preimage.hex()}:"
                await self.show(path, prompt, value)
            case 6:  # two at once, in a header of its own, in the query and in the body
                bound = proof.macaroon.attenuate(b"preimage=" + proof.preimage.hex().encode()).write().hex()
                await self.show(path, prompt, other.l402, ("macaroon", bound), ("cookie", f"preimage={bound[:200]}"))
                shown = f"{path}?payment_hash={proof.preimage.hex()}&token={proof.macaroon.write_base64()}"
                await self.show(shown, f'{{"payment_hash": "{proof.preimage.hex()}"}}', None)
            case 7:  # badly spoken
                text = proof.l402
                digits, token = proof.preimage.hex(), proof.macaroon.write_base64()
                ways = [text.replace(":", ";"), text.lower(), text + text[4:], text[:-1], "L402 " + text * 6, text[5:]]
                ways += [f"Bearer {digits}", f"Basic {base64.b64encode(proof.preimage).decode()}"]
                value = self.chance.choice([*ways, f"Payment {token}", f"L402 {digits}", f"{digits} {token}"])
                await self.show(path, prompt, value)
            case 8:  # no HTTP
                await self.send_raw(f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization {proof.l402}\r\n\r\n".encode())
                await self.send_raw(f"GET /{proof.l402} HTTP/9.9\r\n\r\n".encode())
                await self.send_raw(
                    b"POST / HTTP/1.1\r\nhost: x\r\nauthorization: L402 " + proof.preimage + b"\r\n\r\n"
                )
            case _:  # nothing that is sold here
                await self.show(f"/{proof.preimage.hex()}/nowhere", prompt, proof.l402)

    async def show(self, path: str, prompt: str, value: str | None, *more: tuple[str, str]) -> None:
        """Keeps what is answered, but for a 402: it has a token of its own, which is a secret only when it is paid."""
        headers = [self.somebody(), *more, *([("authorization", value)] if value is not None else [])]
        told = [(name.encode(), text.encode("utf-8")) for name, text in headers]
        try:
            answer = await self.payer.http.post(self.shop.url + path, content=prompt, headers=told)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            self.outcomes[type(error).__name__] += 1
            return
        self.outcomes[str(answer.status_code)] += 1
        if answer.status_code != 404:  # which tells the path that was asked for, as the caller wrote it
            self.bodies.append(repr(answer.headers.raw).encode() + answer.content)

    async def send_raw(self, octets: bytes) -> None:
        """What is no request, and what comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.shop.port)
        try:
            writer.write(octets)
            await writer.drain()
            self.bodies.append(await asyncio.wait_for(reader.read(65536), 20))
            self.outcomes["raw"] += 1
        finally:
            writer.close()


def _proof(l402: Challenge, payment: Challenge, preimage: bytes) -> Proof:
    return Proof(
        macaroon=Macaroon.read_base64(l402.token),
        preimage=preimage,
        payment={"challenge": dict(payment.parameters), "payload": {"preimage": preimage.hex()}},
    )


def process_list(pid: int) -> bytes:
    """What anybody can see of a process and all below it."""
    pids = [pid]
    for each in pids:
        pids += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    names = [Path(f"/proc/{each}/{name}") for each in pids for name in ("cmdline", "comm", "status")]
    return b"\n".join(name.read_bytes() for name in names)


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in folder.glob(pattern)}
    assert found
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="the process list is read from /proc")
@pytest.mark.parametrize("calls", CALLS)
async def test_of_so_many_calls_no_secret_is_left_where_none_belongs(
    open_shop_in: Any, serve_app: Any, payer: Any, sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    seed: int, tell: Any, calls: int,
) -> None:  # fmt: skip
    chance = random.Random(seed)
    with serve_app(service) as upstream, open_shop_in("node", "--upstream", upstream, "--price", "1sat") as node:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{sink.server_port}")
        monkeypatch.setenv("MY_NODE", node.place["seller_wallet"])
        monkeypatch.setenv("MY_KEY", UPSTREAM_KEY)
        config = tmp_path / "shop.toml"
        config.write_text(
            f'receiver = "$MY_NODE"\nstore = "sqlite:///{tmp_path}/shop.db"\nkeys = "{tmp_path}/keys"\nfree_calls = 0\n'
            'trusted_proxies = ["127.0.0.1"]\nmetrics = "127.0.0.1:0"\n'
            + "".join(
                f'[[route]]\npath = "{path}"\nmethod = "POST"\nprice = "1 sat"\nupstream = "{upstream}"\n'
                'upstream_headers = { X-Key = "$MY_KEY" }\n'
                for path in PATHS
            )
        )
        with open_shop_in("shop", str(config), "--log-level", "debug") as shop:
            caller = Caller(shop, node.place["buyer_wallet"], payer, chance)
            for name in ("buyer", "seller"):
                caller.canaries.add(f"password of the {name}", _password(node.place[f"{name}_wallet"]))
            caller.canaries.add("upstream key", UPSTREAM_KEY)
            caller.canaries.add("master key", bytes.fromhex((tmp_path / "keys").read_text().split()[0]))
            for _ in range(calls // AT_ONCE):
                await asyncio.gather(*(caller.call() for _ in range(AT_ONCE)))
            metrics = re.search(r'"url": "(http://[^"]+/metrics)"', shop.told)
            assert metrics
            scraped = httpx.get(metrics[1], trust_env=False).content
            shown = process_list(shop.process.pid)
            ledger = files(tmp_path, "shop.db*")  # with the write-ahead log, while it is open
            assert 0 == shop.stop()
        places = {
            "the log": shop.told.encode(),
            "the node's log": node.told.encode(),
            "error bodies": b"\n".join(caller.bodies),
            "metrics": scraped,
            "traces": b"\n".join(sink.taken),
            "the process list": shown,
            **{f"the ledger, {name}": octets for name, octets in (ledger | files(tmp_path, "shop.db*")).items()},
        }
        assert all(places.values()), {name: len(octets) for name, octets in places.items()}
        found = caller.canaries.found_in(places)
    sizes = {name: len(octets) for name, octets in places.items()}
    tell(f"seed {seed}: {calls} calls, {caller.canaries.count} canaries, {dict(caller.outcomes)}; bytes: {sizes}")
    assert [] == found, seed
    assert {"200", "400", "502"} <= set(caller.outcomes), seed
    assert {0o600} == {mode(path) for path in (tmp_path / "keys", shop.folder / "state.json", tmp_path / "shop.db")}


def _password(wallet: str) -> str:
    return wallet.partition("://:")[2].partition("@")[0]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- errors that are full of secrets ----------------------------------------------------------------------------------


@pytest.fixture
def listen(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """`told = listen(as_json=True)` begins to log at debug level; `told()` is all that was logged."""
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level

    def begin(*, as_json: bool) -> Any:
        configure("debug", as_json=as_json)
        structlog.configure(cache_logger_on_first_use=False)  # the loggers of all modules outlive this test
        return lambda: "".join(capsys.readouterr())

    yield begin
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


async def careless(scope: Scope, receive: Receive, send: Send) -> None:
    """Fails, and says all that it knows."""
    body, kept_in_a_variable = await whole_body(receive), scope["headers"]
    try:
        raise ValueError(f"can't read {body!r}")
    except ValueError as error:
        error.add_note(f"headers: {kept_in_a_variable}")
        raise RuntimeError({"request": scope, "body": body.decode()}) from error


@pytest.mark.parametrize("machine", [True, False])
async def test_an_app_that_fails_with_the_request_in_its_error_leaks_nothing(listen: Any, machine: bool) -> None:
    told = listen(as_json=machine)
    market = Market.open()
    canaries, bodies = Canaries(), []
    transport = httpx.ASGITransport(Paywall(careless, gate=market.gate, prices={"POST /": "1 sat"}))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as client:
        for n in range(20):
            inner = os.urandom(32)
            prompt = f'{{"call": {n}, "preimage": "{inner.hex()}"}}'
            headers = {"x-proof": f"L402 AgEEbHNhdAJC{base64.b64encode(inner + inner).decode()}:{inner.hex()}"}
            asked = await client.post("/", content=prompt, headers=headers)
            preimage = market.pay(asked.json()["invoice"])
            canaries.add(f"what was sent in call {n}", inner)
            canaries.add(f"preimage of call {n}", preimage)
            token = Macaroon.read_base64(asked.json()["macaroon"])
            canaries.add(f"signature of call {n}", token.signature)
            proof = {"authorization": f"L402 {token.write_base64()}:{preimage.hex()}"}
            for more in (proof, {**proof, "x-payment-hash": inner.hex()}):
                answer = await client.post("/", content=prompt, headers={**headers, **more})
                assert answer.status_code in (400, 409, 502)
                bodies.append(answer.content)
    await market.close()
    log = told()
    assert log.count("can't read") >= 20
    assert [] == canaries.found_in({"the log": log.encode(), "error bodies": b"".join(bodies)})


@pytest.mark.parametrize("machine", [True, False])
async def test_a_node_that_answers_with_our_password_does_not_spread_it(listen: Any, machine: bool) -> None:
    told = listen(as_json=machine)
    market = Market.open()
    password = os.urandom(24).hex()
    canaries = Canaries()
    canaries.add("password", password)

    async def hostile(conversation: Conversation[Any]) -> Any:
        call: HttpCall = next(conversation)
        said = f"{call} {call.headers.reveal() if call.headers else ''} {password}".encode()
        try:
            for status in (500, 200, 401):
                call = conversation.send(HttpReply(status=status, body=said, reason="ReadTimeout"))
        except StopIteration as over:
            return over.value

    gate = Gate(
        ledger=market.gate.ledger,
        receiver=open_receiver(f"phoenixd+http://:{password}@127.0.0.1:1"),
        dialects=(L402(market.ring), PaymentAuth(market.ring)),
        converse=hostile,
        clock=market.clock,
        terms=Terms(free_calls=0),
    )
    transport = httpx.ASGITransport(Paywall(careless, gate=gate, prices={"POST /": "1 sat"}))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as client:
        answers = [await client.post("/", content=f"call {n}") for n in range(5)]
    await market.close()
    assert {503} == {answer.status_code for answer in answers}
    places = {"the log": told().encode(), "error bodies": b"".join(answer.content for answer in answers)}
    assert [] == canaries.found_in(places)


def test_no_value_prints_a_secret() -> None:
    canaries = Canaries()
    secret = os.urandom(32)
    canaries.add("it", secret)
    text, pair = secret.hex(), ("authorization", f"L402 x:{secret.hex()}")
    values = [
        Wire(headers=(pair,), query=(pair,), body={"token": text}),
        Challenge(dialect="L402", invoice="", payment_hash=b"", token=text, parameters=(pair,)),
        Credential(dialect="L402", payment_hash=b"", preimage=Secret(secret), token=text, parameters=(pair,)),
        HttpCall(method="GET", url="http://node", headers=Secret(text), body=text.encode()),
        HttpReply(status=200, body=secret),
        Macaroon(location=b"x", identifier=b"x", caveats=(b"preimage=" + text.encode(),), signature=secret),
        KeyRing([secret]),
        KeyRing([secret]).derive("test", b""),
    ]
    assert [] == canaries.found_in({type(value).__name__: f"{value!r} {value}".encode() for value in values})


def test_a_canary_is_found_in_every_spelling() -> None:
    secret = os.urandom(32)
    canaries = Canaries()
    canaries.add("it", secret)
    proof = f'{{"preimage": "{secret.hex()}"}}'.encode()
    for place in (
        b"..." + secret + b"...",
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret),
        base64.urlsafe_b64encode(b"x" + secret),
        base64.b64encode(b":u" + secret + b"more"),
        b"Payment " + base64.urlsafe_b64encode(proof),
        f"L402 {secret.hex()}".encode(),
        repr({"body": secret}).encode(),
        httpx.URL("http://x/", params={"p": base64.b64encode(secret).decode()}).query,
    ):
        assert ["it in here"] == canaries.found_in({"here": place}), place
    assert [] == canaries.found_in({"here": os.urandom(100_000) + os.urandom(50_000).hex().encode()})


def test_a_forged_value_is_written_as_it_is_shown() -> None:
    """The proofs of this file say what a buyer's own dialect says."""
    ring = KeyRing.generate()
    (l402, payment) = (
        dialect.issue(QUOTE, sample_invoice(), valid_until=NOW + timedelta(days=1))
        for dialect in (L402(ring), PaymentAuth(ring))
    )
    assert l402 is not None
    assert payment is not None
    proof = _proof(l402, payment, PREIMAGE)
    credential = Credential(dialect="L402", payment_hash=l402.payment_hash, preimage=Secret(PREIMAGE), token=l402.token)
    assert L402().write_credential(credential).all("authorization") == (proof.l402,)
    assert write_l402(proof.macaroon, PREIMAGE) == proof.l402
    assert write_payment(proof.payment) == proof.payment_auth
