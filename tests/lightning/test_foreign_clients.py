"""Other people's clients take our fakes for real: the wallets of LNbits, against what our adapters are tested with.

Each client is asked for an invoice, sees it unpaid, pays it and sees it paid; pays with a fee, without a route, and
with a payment that stays in flight. A fake that any of them misunderstands is wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.lightning.phoenixd_api import phoenixd_api
from farebox.lightning.sandbox import Sandbox, Trouble
from farebox.testing.backends import PRICE, TEN_MINUTES
from farebox.testing.fake_blink import FakeBlink
from farebox.testing.fake_blink import Key as BlinkKey
from farebox.testing.fake_cln import FakeCln, Rune
from farebox.testing.fake_eclair import FakeEclair
from farebox.testing.fake_strike import FakeStrike
from farebox.testing.fake_strike import Key as StrikeKey
from farebox.testing.real_lnbits import RealLNbits
from farebox.testing.regtest import kept_programs
from farebox.testing.served import served, served_app, served_socket

pytestmark = pytest.mark.lightning

CACHE = kept_programs(os.environ).parent / "lnbits"
FEE = Amount.sats(3)
LIMIT_MSAT = 10_000
# The first of two parts only; and what Blink gives back, it gives back in a transaction of its own.
READ_OF_THE_FEE = {"eclair": Amount.msats(1_500), "blink": Amount.sats(5)}


def now() -> datetime:
    return datetime.now(UTC)


class Asked:
    """A program that has somebody else's wallets, made and asked by lines of JSON."""

    def __init__(self, python: Path, script: Path, folder: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "LNBITS_DATA_FOLDER": str(folder)},
        )

    def __call__(self, **asked: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Wallet:
    """One of its wallets, whose name is `seller` or `buyer`."""

    def __init__(self, program: Asked, name: str) -> None:
        self._program = program
        self._name = name

    def __call__(self, method: str, *given: object) -> dict[str, Any]:
        return self._program(ask=self._name, method=method, given=given)


class Pair:
    """Both sides of one sandbox, as a client of others sees them."""

    def __init__(self, name: str, sandbox: Sandbox, client: Client, program: Asked) -> None:
        self.name = name
        self.sandbox = sandbox
        self._client, self._program = client, program
        self._known_as = ""
        self.seller, self.buyer = Wallet(program, "seller"), Wallet(program, "buyer")
        for side in client.settings:
            self.make(side)

    def make(self, side: str) -> None:
        made = {"module": self._client.module, "class": self._client.name, "settings": self._client.settings[side]}
        told = self._program(make=side, **made)
        assert "raised" not in told, told

    def invoice(self) -> Invoice:
        return self.sandbox.seller.issue(PRICE, description="a test", expires_in=TEN_MINUTES)

    def pay(self, invoice: Invoice) -> dict[str, Any]:
        told = self.buyer("pay_invoice", invoice.text, LIMIT_MSAT)
        self._known_as = told["checking_id"] or invoice.payment_hash.hex()
        return told

    def found(self) -> dict[str, Any]:
        """What a client that was started again says of the last payment."""
        self.make("buyer")
        return self.buyer("get_payment_status", self._known_as)


@pytest.fixture(scope="module")
def lnbits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    RealLNbits.install(CACHE)
    script = Path(__file__).with_name("foreign_lnbits.py")
    program = Asked(CACHE / "venv/bin/python", script, tmp_path_factory.mktemp("foreign"))
    yield program
    program.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One of LNbits' wallets, and how it is set up for each side."""

    module: str
    name: str
    settings: dict[str, dict[str, str]]


def cln_rest(sandbox: Sandbox, folder: Path, stack: ExitStack) -> Client:
    runes = {"seller": Rune(node=sandbox.seller), "buyer": Rune(node=sandbox.buyer)}
    url = stack.enter_context(served(FakeCln(sandbox, runes=runes, nested=True)))
    names = [f"clnrest_{name}_rune" for name in ("readonly", "invoice", "pay")]
    settings = {side: {"clnrest_url": url, **dict.fromkeys(names, side)} for side in runes}
    return Client(module="clnrest", name="CLNRestWallet", settings=settings)


def cln_socket(sandbox: Sandbox, folder: Path, stack: ExitStack) -> Client:
    paths = {side: folder / side for side in ("seller", "buyer")}
    sockets = {str(paths["seller"]): sandbox.seller, str(paths["buyer"]): sandbox.buyer}
    fake = FakeCln(sandbox, sockets=sockets)
    for path in paths.values():
        stack.enter_context(served_socket(fake, path))
    settings = {side: {"corelightning_rpc": str(path)} for side, path in paths.items()}
    return Client(module="corelightning", name="CoreLightningWallet", settings=settings)


def phoenixd(sandbox: Sandbox, folder: Path, stack: ExitStack) -> Client:
    url = stack.enter_context(served_app(phoenixd_api(sandbox, {"seller": "seller", "buyer": "buyer"})))
    settings = {
        side: {"phoenixd_api_endpoint": url, "phoenixd_api_password": side, "phoenixd_data_dir": str(folder)}
        for side in ("seller", "buyer")
    }
    return Client(module="phoenixd", name="PhoenixdWallet", settings=settings)


def eclair(sandbox: Sandbox, folder: Path, stack: ExitStack) -> Client:
    url = stack.enter_context(served(FakeEclair({"seller": sandbox.seller, "buyer": sandbox.buyer}, now)))
    settings = {side: {"eclair_url": url, "eclair_pass": side} for side in ("seller", "buyer")}
    return Client(module="eclair", name="EclairWallet", settings=settings)


def blink(sandbox: Sandbox, folder: Path, stack: ExitStack) -> Client:
    nodes = {"seller": sandbox.seller, "buyer": sandbox.buyer}
    keys = {side: BlinkKey(node=node, wallet=f"{side}s") for side, node in nodes.items()}
    url = stack.enter_context(served(FakeBlink(keys, now))) + "/graphql"
    settings = {side: {"blink_api_endpoint": url, "blink_token": side} for side in nodes}
    return Client(module="blink", name="BlinkWallet", settings=settings)


def strike(sandbox: Sandbox, folder: Path, stack: ExitStack) -> Client:
    nodes = {"seller": sandbox.seller, "buyer": sandbox.buyer}
    keys = {side: StrikeKey(node=node) for side, node in nodes.items()}
    url = stack.enter_context(served(FakeStrike(keys, now))) + "/v1"
    settings = {side: {"strike_api_endpoint": url, "strike_api_key": side} for side in nodes}
    return Client(module="strike", name="StrikeWallet", settings=settings)


@pytest.fixture(params=[cln_rest, cln_socket, phoenixd, eclair, blink, strike], ids=lambda each: each.__name__)
def pair(request: pytest.FixtureRequest, lnbits: Asked, tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        sandbox = Sandbox.open(None, clock=now)
        stack.callback(sandbox.close)
        client = request.param(sandbox, tmp_path, stack)
        yield Pair(request.param.__name__, sandbox, client, lnbits)


def test_an_invoice_is_made_seen_unpaid_paid_and_seen_paid(pair: Pair) -> None:
    made = pair.seller("create_invoice", 21, "a test")
    invoice = decode(made["payment_request"])
    assert (PRICE, "a test") == (invoice.amount, invoice.description)
    assert pair.seller("get_invoice_status", made["checking_id"])["paid"] is None
    assert pair.pay(invoice)["ok"] is True
    pair.make("seller")
    assert pair.seller("get_invoice_status", made["checking_id"])["paid"] is True
    assert PRICE == pair.sandbox.seller.invoice_status(invoice.payment_hash).received
    found = pair.found()
    assert (True, invoice.payment_hash) == (found["paid"], sha256(bytes.fromhex(found["preimage"])).digest())


def test_a_fee_is_told_as_this_client_reads_it(pair: Pair) -> None:
    pair.sandbox.buyer.fee = FEE
    assert pair.pay(pair.invoice())["ok"] is True
    assert READ_OF_THE_FEE.get(pair.name, FEE) == Amount.msats(abs(pair.found()["fee_msat"]))


def test_a_payment_without_a_route_is_not_made(pair: Pair) -> None:
    invoice, before = pair.invoice(), pair.sandbox.buyer.funds()
    pair.sandbox.script(None, Trouble.FAIL)
    assert pair.pay(invoice)["ok"] is (None if pair.name == "phoenixd" else False)
    assert pair.found()["paid"] is not True
    assert before == pair.sandbox.buyer.funds()


def test_a_payment_in_flight_is_pending_until_it_arrives(pair: Pair) -> None:
    invoice = pair.invoice()
    pair.sandbox.script(None, Trouble.STAY_IN_FLIGHT)
    assert pair.pay(invoice)["ok"] is None
    assert pair.found()["paid"] is None
    assert NOTHING == pair.sandbox.seller.invoice_status(invoice.payment_hash).received
    assert pair.sandbox.release(invoice.payment_hash)
    assert pair.found()["paid"] is True
