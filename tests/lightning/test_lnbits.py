from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import (
    Failed,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    Paid,
    SpendProbe,
    Unresolved,
)
from farebox.core.settlement import Settlement, Settlements
from farebox.lightning.lnbits import LNbits
from farebox.lightning.sandbox import Sandbox
from farebox.testing.backend_faults import ReceiverFaultSuite, WalletFaultSuite
from farebox.testing.backends import (
    FEE_LIMIT,
    NOBODYS_HASH,
    PRICE,
    TEN_MINUTES,
    ReceiverSuite,
    WalletSuite,
    WalletWorld,
)
from farebox.testing.fake_lnbits import FakeLNbits
from farebox.testing.faked_world import FakedWorld
from farebox.testing.scripted import NO_CONNECTION, NO_REPLY, said, tell
from farebox.testing.settlement_streams import StreamSuite

T = TypeVar("T")

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
API = "http://lnbits.test:5000/api/v1"


class LNbitsWorld(FakedWorld):
    """The adapter against LNbits' API in front of the sandbox, without a socket."""

    def __init__(self, sandbox: Sandbox, forward: Callable[[timedelta], None]) -> None:
        self.server = FakeLNbits(
            sandbox,
            invoice_keys={"seller-in": "seller", "buyer-in": "buyer"},
            admin_keys={"seller-admin": "seller", "buyer-admin": "buyer"},
        )
        super().__init__(
            sandbox,
            forward,
            self.server,
            receiver=LNbits.from_url("lnbits+http://lnbits.test:5000?key=seller-in"),
            wallet=LNbits.from_url("lnbits+http://lnbits.test:5000?key=buyer-admin"),
        )


class _Conformance:
    @pytest.fixture
    def world(self, sandbox: Sandbox, clock: Any) -> LNbitsWorld:
        return LNbitsWorld(sandbox, clock.forward)


class TestStream(_Conformance, StreamSuite):
    pass


class TestReceiverFaults(_Conformance, ReceiverFaultSuite):
    pass


class TestWalletFaults(_Conformance, WalletFaultSuite):
    pass


class TestReceiver(_Conformance, ReceiverSuite):
    def test_an_invoice_that_our_own_wallet_has_tried_to_pay_is_not_paid(self, world: LNbitsWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        ours = LNbits.from_url("lnbits+http://lnbits.test:5000?key=seller-admin")
        assert isinstance(world.ask(ours.pay_invoice(invoice, fee_limit=FEE_LIMIT)), Failed)
        assert InvoiceStatus(state=InvoiceState.OPEN) == world.ask(ours.lookup_invoice(invoice.payment_hash))

    def test_an_invoice_of_somebody_else_that_we_have_paid_is_none_of_ours(self, world: LNbitsWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
        buyer = LNbits.from_url("lnbits+http://lnbits.test:5000?key=buyer-in")
        assert InvoiceStatus(state=InvoiceState.UNKNOWN) == world.ask(buyer.lookup_invoice(invoice.payment_hash))

    def test_a_key_of_nobody_learns_nothing_of_a_paid_invoice(self, world: LNbitsWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.pay(invoice)
        nobody = LNbits.from_url("lnbits+http://lnbits.test:5000?key=nobodys")
        with pytest.raises(NodeUnavailable, match="key"):
            world.ask(nobody.lookup_invoice(invoice.payment_hash))


class TestWallet(_Conformance, WalletSuite):
    def test_a_failed_payment_may_be_tried_again(self, world: WalletWorld) -> None:
        """LNbits never tries one again, and says so."""
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.fail_next()
        for _ in range(2):
            outcome = world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
            assert isinstance(outcome, Failed)
        assert outcome.reason == "LNbits: Payment is failed node, retrying is not possible."
        assert world.received(invoice) == NOTHING

    def test_the_invoice_key_does_not_pay(self, world: LNbitsWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        outcome = world.ask(world.receiver.pay_invoice(invoice, fee_limit=NOTHING))
        assert isinstance(outcome, Failed)
        assert "admin key" in outcome.reason

    def test_an_invoice_of_our_own_is_no_payment(self, world: LNbitsWorld) -> None:
        ours = world.ask(world.receiver.create_invoice(PRICE, description="", expires_in=TEN_MINUTES))
        world.pay(ours)
        outcome = world.ask(world.receiver.lookup_payment(ours.payment_hash))
        assert isinstance(outcome, Unresolved)
        assert not outcome.known


@pytest.mark.parametrize(
    ("key", "spends"), [("seller-in", False), ("buyer-in", False), ("buyer-admin", True), ("nobodys", False)]
)
def test_a_key_is_known_to_spend_or_not_without_moving_anything(
    sandbox: Sandbox, clock: Any, key: str, spends: bool
) -> None:
    before = sandbox.buyer.funds(), sandbox.seller.funds()
    wallet = LNbits.from_url(f"lnbits+http://lnbits.test:5000?key={key}")
    assert isinstance(wallet, SpendProbe)
    assert spends is LNbitsWorld(sandbox, clock.forward).ask(wallet.spends())
    assert before == (sandbox.buyer.funds(), sandbox.seller.funds())


# --- scripted replies -------------------------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    members = {"payment_hash": PAYMENT_HASH.hex(), "amount": -21_000, "fee": -4_000, "status": "success"}
    return {**members, "preimage": PREIMAGE.hex(), **changes}


def paid(code: int = 201, /, **changes: Any) -> HttpReply:
    return said(code, **row(**changes))


def found(said_paid: object = True, /, **changes: Any) -> HttpReply:
    return said(paid=said_paid, preimage=PREIMAGE.hex(), details=row(**changes))


def incoming(said_paid: object = False, /, **changes: Any) -> HttpReply:
    return found(said_paid, **{"amount": 21_000, "fee": 0, "status": "pending", **changes})


def listed(*rows: object) -> HttpReply:
    return HttpReply(status=200, body=json.dumps(rows).encode())


def refused(detail: str = "no route", status: str = "failed") -> HttpReply:
    return said(520, detail=detail, status=status)


UNKNOWN = said(404, detail="Payment does not exist.")
NONSENSE = [
    HttpReply(status=200),
    HttpReply(status=200, body=b"<html>"),
    HttpReply(status=200, body=b"\xff\xfe"),
    HttpReply(status=200, body=b"[" * 100_000),
    HttpReply(status=200, body=b'"paid"'),
    HttpReply(status=200, body=b"9" * 10_000),
    HttpReply(status=307),
    HttpReply(status=404, body=b"<html>nginx"),
    said(404, detail="Not Found"),
    said(500, detail="Unexpected error! ID: x"),
    said(503),
]


@pytest.fixture
def wallet() -> LNbits:
    return LNbits.from_url("lnbits+http://lnbits.test:5000?key=hunter2")


@pytest.fixture
def invoice(sandbox: Sandbox) -> Invoice:
    """An invoice whose preimage this file knows."""
    return sandbox.seller.issue_held(PRICE, payment_hash=PAYMENT_HASH, description="a test", expires_in=TEN_MINUTES)


def pay(wallet: LNbits, invoice: Invoice, *replies: HttpReply) -> object:
    return tell(wallet.pay_invoice(invoice, fee_limit=NOTHING), *replies)[0]


# what proves a payment


def test_it_is_asked_to_pay_in_json_with_the_key_in_a_header(wallet: LNbits, invoice: Invoice) -> None:
    _, calls = tell(wallet.pay_invoice(invoice, fee_limit=NOTHING), paid())
    assert [("POST", f"{API}/payments")] == [(call.method, call.url) for call in calls]
    assert {"out": True, "bolt11": invoice.text} == json.loads(calls[0].body)
    assert calls[0].headers is not None
    assert "x-api-key: hunter2" in calls[0].headers.reveal().splitlines()


@pytest.mark.parametrize(("fee", "expected"), [(-4_084, 4_084), (4_084, 4_084), (0, 0), (None, 0), ("4", 0)])
def test_a_preimage_of_the_hash_is_paid_with_the_fee_whatever_its_sign(
    wallet: LNbits, invoice: Invoice, fee: object, expected: int
) -> None:
    outcome = pay(wallet, invoice, paid(fee=fee))
    assert isinstance(outcome, Paid)
    assert outcome.preimage.reveal() == PREIMAGE
    assert outcome.fee == Amount.msats(expected)


@pytest.mark.parametrize(
    "preimage", ["", "00" * 32, PREIMAGE.hex()[:-2], "zz" * 32, PAYMENT_HASH.hex(), None, 7, [PREIMAGE.hex()]]
)
def test_anything_but_the_preimage_of_the_hash_is_unresolved(
    wallet: LNbits, invoice: Invoice, preimage: object
) -> None:
    assert isinstance(pay(wallet, invoice, paid(preimage=preimage)), Unresolved)


def test_a_201_that_is_still_pending_is_in_flight_even_with_a_preimage(wallet: LNbits, invoice: Invoice) -> None:
    assert Unresolved(reason="the payment is in flight") == pay(wallet, invoice, paid(status="pending"))


@pytest.mark.parametrize("status", [None, "", "SUCCESS", True, 1, ["success"], "complete"])
def test_only_success_is_success(wallet: LNbits, invoice: Invoice, status: object) -> None:
    assert isinstance(pay(wallet, invoice, paid(status=status)), Unresolved)


@pytest.mark.parametrize(
    "reply",
    [
        NO_REPLY,
        *NONSENSE,
        HttpReply(status=201, body=b""),
        HttpReply(status=201, body=b"[]"),
        paid(payment_hash=NOBODYS_HASH.hex()),
        paid(payment_hash=None),
        paid(amount=21_000),
        paid(amount=True),
        said(429, detail="Rate limit exceeded"),
        HttpReply(status=403, body=b"<html>firewall"),
        HttpReply(status=520, body=b"cloudflare: Web server is returning an unknown error"),
        HttpReply(status=400, body=b""),
    ],
)
def test_what_is_not_clear_is_unresolved(wallet: LNbits, invoice: Invoice, reply: HttpReply) -> None:
    outcome = pay(wallet, invoice, reply)
    assert isinstance(outcome, Unresolved)
    assert outcome.known


def test_a_connection_that_was_refused_is_failed(wallet: LNbits, invoice: Invoice) -> None:
    assert isinstance(pay(wallet, invoice, NO_CONNECTION), Failed)


# when a refusal is believed


@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (UNKNOWN, Failed),
        (found(False, status="failed"), Failed),
        (found(False, status="pending"), Unresolved),
        (incoming(), Failed),
        (NO_REPLY, Unresolved),
        (NO_CONNECTION, Unresolved),
        (said(500), Unresolved),
        (said(404, detail="Not Found"), Unresolved),
        (said(paid=False, status="failed"), Unresolved),
        (found(preimage="00" * 32), Unresolved),
        (found(), Paid),
    ],
)
@pytest.mark.parametrize(
    "first", [refused("Internal invoice already paid."), said(400, detail="Payment already exists")]
)
def test_a_refusal_is_failed_only_when_the_look_up_agrees(
    wallet: LNbits, invoice: Invoice, first: HttpReply, second: HttpReply, kind: type
) -> None:
    assert isinstance(pay(wallet, invoice, first, second), kind)


@pytest.mark.parametrize("status", ["pending", "success", "", None, 7])
def test_a_520_that_does_not_say_failed_is_not_failed_because_nobody_knows_the_payment(
    wallet: LNbits, invoice: Invoice, status: Any
) -> None:
    assert isinstance(pay(wallet, invoice, refused(status=status), UNKNOWN), Unresolved)
    assert isinstance(pay(wallet, invoice, refused(status=status), found()), Paid)


def test_a_failed_payment_carries_the_reason_of_lnbits_in_one_line(wallet: LNbits, invoice: Invoice) -> None:
    outcome = pay(wallet, invoice, refused("Insufficient\n balance." + "x" * 500), UNKNOWN)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("LNbits: Insufficient balance.")
    assert len(outcome.reason) < 250


@pytest.mark.parametrize(
    "reply",
    [
        said(401, detail="No Api Key provided."),
        said(403, detail="Invoice (or Admin) key required."),
        said(404, detail="Wallet not found."),
    ],
)
def test_a_refused_key_pays_nothing_for_certain(wallet: LNbits, invoice: Invoice, reply: HttpReply) -> None:
    outcome = pay(wallet, invoice, reply)
    assert isinstance(outcome, Failed)
    assert "admin key" in outcome.reason


# looking up a payment


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (UNKNOWN, Unresolved(reason="LNbits has never heard of this payment", known=False)),
        (incoming(), Unresolved(reason="LNbits has never heard of this payment", known=False)),
        (found(False, status="pending"), Unresolved(reason="the payment is in flight")),
        (found(False, status="failed"), Failed(reason="LNbits says that the payment failed")),
        (found(preimage=None), Unresolved(reason="LNbits says that it paid and does not prove it")),
        (NO_CONNECTION, Unresolved(reason="LNbits did not answer (ConnectError)")),
        (
            found(payment_hash=NOBODYS_HASH.hex()),
            Unresolved(reason="LNbits answered with something that can't be read"),
        ),
    ],
)
def test_a_look_up_says_what_became_of_a_payment(wallet: LNbits, reply: HttpReply, expected: object) -> None:
    outcome, calls = tell(wallet.lookup_payment(PAYMENT_HASH), reply)
    assert expected == outcome
    assert [("GET", f"{API}/payments/{PAYMENT_HASH.hex()}")] == [(call.method, call.url) for call in calls]


@pytest.mark.parametrize("reply", [NO_REPLY, *NONSENSE, said(paid=True, preimage=PREIMAGE.hex()), said(details=[])])
def test_a_look_up_that_is_not_clear_is_known_and_unresolved(wallet: LNbits, reply: HttpReply) -> None:
    outcome, _ = tell(wallet.lookup_payment(PAYMENT_HASH), reply)
    assert isinstance(outcome, Unresolved)
    assert outcome.known


# being paid


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (incoming(), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(status="failed"), InvoiceStatus(state=InvoiceState.CANCELLED)),
        (incoming(True, status="success"), InvoiceStatus(state=InvoiceState.PAID, received=PRICE)),
        (incoming(True, status="success", fee=-210), InvoiceStatus(state=InvoiceState.PAID, received=PRICE)),
        (UNKNOWN, InvoiceStatus(state=InvoiceState.UNKNOWN)),
    ],
)
def test_only_success_that_is_paid_is_paid(wallet: LNbits, reply: HttpReply, expected: InvoiceStatus) -> None:
    assert expected == tell(wallet.lookup_invoice(PAYMENT_HASH), reply)[0]


@pytest.mark.parametrize(
    "reply",
    [
        NO_CONNECTION,
        NO_REPLY,
        *NONSENSE,
        said(paid=True, preimage=PREIMAGE.hex()),
        said(paid=True, preimage=PREIMAGE.hex(), details=None),
        incoming(True),
        incoming(False, status="success"),
        incoming("true", status="success"),
        incoming(1, status="success"),
        incoming(status=None),
        incoming(status="paid"),
        incoming(True, status="success", payment_hash=NOBODYS_HASH.hex()),
        incoming(True, status="success", amount=0),
        incoming(True, status="success", amount="21000"),
        incoming(True, status="success", amount=21_000.5),
        incoming(True, status="success", amount=True),
        incoming(True, status="success", amount=10**30),
    ],
)
def test_lnbits_that_answers_nonsense_is_unavailable(wallet: LNbits, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(wallet.lookup_invoice(PAYMENT_HASH), reply)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (listed(row(amount=21_000)), InvoiceStatus(state=InvoiceState.PAID, received=PRICE)),
        (listed(row(amount=21_000, status="pending")), InvoiceStatus(state=InvoiceState.OPEN)),
        (listed(), InvoiceStatus(state=InvoiceState.UNKNOWN)),
    ],
)
def test_a_payment_with_the_hash_of_an_invoice_does_not_hide_it(
    wallet: LNbits, second: HttpReply, expected: InvoiceStatus
) -> None:
    status, calls = tell(wallet.lookup_invoice(PAYMENT_HASH), found(), second)
    assert expected == status
    assert calls[1].url == f"{API}/payments?payment_hash={PAYMENT_HASH.hex()}&amount%5Bgt%5D=0&limit=1"


@pytest.mark.parametrize("second", [NO_REPLY, listed(1), listed(row()), listed({}), said(500), said(paid=True)])
def test_a_payment_with_the_hash_of_an_invoice_is_never_taken_for_it(wallet: LNbits, second: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(wallet.lookup_invoice(PAYMENT_HASH), found(), second)


@pytest.mark.parametrize("name", ["bolt11", "payment_request"])
def test_an_invoice_is_asked_for_in_satoshis_and_seconds(wallet: LNbits, invoice: Invoice, name: str) -> None:
    reply = said(201, payment_hash=PAYMENT_HASH.hex(), **{name: invoice.text})
    made, calls = tell(wallet.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES), reply)
    assert invoice == made
    assert wallet.network is Network.REGTEST
    asked = {"out": False, "amount": 21, "unit": "sat", "memo": "a test", "expiry": 600}
    assert [asked] == [json.loads(call.body) for call in calls]


@pytest.mark.parametrize(
    ("amount", "changes"),
    [
        (Amount.sats(22), {}),
        (PRICE, {"payment_hash": NOBODYS_HASH.hex()}),
        (PRICE, {"payment_hash": None}),
        (PRICE, {"bolt11": None}),
        (PRICE, {"bolt11": 7}),
        (PRICE, {"bolt11": "lnbc1"}),
    ],
)
def test_an_invoice_that_is_not_what_was_asked_for_is_not_given_out(
    wallet: LNbits, invoice: Invoice, amount: Amount, changes: dict[str, Any]
) -> None:
    reply = said(201, **{"payment_hash": PAYMENT_HASH.hex(), "bolt11": invoice.text, **changes})
    with pytest.raises(NodeUnavailable):
        tell(wallet.create_invoice(amount, description="", expires_in=TEN_MINUTES), reply)


@pytest.mark.parametrize("reply", [NO_CONNECTION, NO_REPLY, *NONSENSE, refused(), said(401, detail="x")])
def test_an_invoice_that_was_not_made_is_told(wallet: LNbits, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable) as caught:
        tell(wallet.create_invoice(PRICE, description="", expires_in=TEN_MINUTES), reply)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("amount", [Amount.msats(1_500), NOTHING])
def test_what_is_no_whole_satoshi_is_refused_before_asking(wallet: LNbits, amount: Amount) -> None:
    with pytest.raises(WalletError):
        next(wallet.create_invoice(amount, description="", expires_in=TEN_MINUTES))


def test_a_description_that_is_not_text_is_cut_and_not_refused(wallet: LNbits) -> None:
    call = next(wallet.create_invoice(PRICE, description="a\ud800" + "ü" * 640, expires_in=TEN_MINUTES))
    assert json.loads(call.body)["memo"] == "a" + "ü" * 319


# the stream


HASHES = [hashlib.sha256(bytes([number])).digest() for number in range(3)]
AT = datetime(2030, 1, 1, tzinfo=UTC)
AT_MS = 1_893_456_000_000


def settled(*hashes: bytes) -> tuple[Settlement, ...]:
    return tuple(Settlement(payment_hash=each, received=PRICE) for each in hashes)


def came_in(payment_hash: bytes, at: datetime = AT, /, **changes: Any) -> dict[str, Any]:
    return row(**{"payment_hash": payment_hash.hex(), "amount": 21_000, "updated_at": at.isoformat(), **changes})


def test_settlements_are_read_page_by_page_until_a_little_before_the_cursor(
    wallet: LNbits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farebox.lightning.lnbits._PAGE", 2)
    first = listed(came_in(HASHES[0], AT + timedelta(seconds=5)), came_in(HASHES[1]))
    second = listed(came_in(HASHES[2], AT - timedelta(seconds=9)), came_in(NOBODYS_HASH, AT - timedelta(seconds=11)))
    told, calls = tell(wallet.settlements(str(AT_MS), wait=timedelta(0)), first, second)
    assert Settlements(settled=settled(*HASHES), cursor=str(AT_MS + 5_000)) == told
    query = "status=success&amount%5Bgt%5D=0&sortby=updated_at&direction=desc&limit=2"
    assert [f"{API}/payments?{query}&offset={offset}" for offset in (0, 2)] == [call.url for call in calls]


def test_a_time_without_a_zone_is_utc(wallet: LNbits) -> None:
    told, _ = tell(wallet.settlements("0", wait=timedelta(0)), listed(came_in(HASHES[0], AT.replace(tzinfo=None))))
    assert str(AT_MS) == told.cursor


def test_a_cursor_never_goes_back(wallet: LNbits) -> None:
    told, _ = tell(wallet.settlements(str(AT_MS + 9_000), wait=timedelta(0)), listed(came_in(HASHES[0])))
    assert Settlements(settled=settled(HASHES[0]), cursor=str(AT_MS + 9_000)) == told


def test_a_hash_that_comes_twice_is_told_once_with_the_larger(wallet: LNbits) -> None:
    rows = came_in(HASHES[0], amount=210), came_in(HASHES[0]), came_in(HASHES[0], amount=21)
    assert settled(HASHES[0]) == tell(wallet.settlements("0", wait=timedelta(0)), listed(*rows))[0].settled


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "pending"},
        {"status": None},
        {"amount": -21_000},
        {"amount": 0},
        {"amount": None},
        {"amount": 10**30},
        {"payment_hash": None},
    ],
)
def test_a_row_that_is_no_payment_to_us_is_passed_over(wallet: LNbits, changes: dict[str, Any]) -> None:
    assert () == tell(wallet.settlements("0", wait=timedelta(0)), listed(came_in(HASHES[0], **changes)))[0].settled


@pytest.mark.parametrize("updated_at", [None, "", 7, "yesterday", "0001-01-01T00:00:00+23:59", "9" * 100])
def test_a_row_without_a_time_is_read_from_the_beginning_only(wallet: LNbits, updated_at: object) -> None:
    reply = listed(came_in(HASHES[0], updated_at=updated_at))
    assert settled(HASHES[0]) == tell(wallet.settlements("no number", wait=timedelta(0)), reply)[0].settled
    assert () == tell(wallet.settlements(str(AT_MS), wait=timedelta(0)), reply)[0].settled


@pytest.mark.parametrize(
    "reply", [NO_CONNECTION, NO_REPLY, *NONSENSE, listed(1), said(404, detail="Wallet not found.")]
)
def test_a_list_that_can_not_be_had_is_no_empty_one(wallet: LNbits, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(wallet.settlements("5", wait=timedelta(0)), reply)


def test_a_cursor_at_an_instant_is_that_instant_in_milliseconds(wallet: LNbits) -> None:
    assert (str(AT_MS), []) == tell(wallet.cursor_at(AT))
    assert ("0", []) == tell(wallet.cursor_at(datetime(1960, 1, 1, tzinfo=UTC)))


# keys and URLs


@pytest.mark.parametrize("reply", [NO_CONNECTION, NO_REPLY, *NONSENSE, said(403, detail="x"), said(400)])
def test_lnbits_that_does_not_say_whether_we_can_spend_is_not_guessed_at(wallet: LNbits, reply: HttpReply) -> None:
    expected = False if reply.status == 403 else None
    outcome, calls = tell(wallet.spends(), reply)
    assert expected is outcome
    assert {"out": True} == json.loads(calls[0].body)


def test_the_balance_is_told_in_millisatoshis(wallet: LNbits) -> None:
    balance, calls = tell(wallet.balance(), said(name="mine", balance=1_500))
    assert Amount.msats(1_500) == balance
    assert [f"{API}/wallet"] == [call.url for call in calls]


@pytest.mark.parametrize("reply", [NO_CONNECTION, *NONSENSE, said(balance=-1), said(404, detail="Wallet not found.")])
def test_a_balance_that_can_not_be_had_is_told_in_one_line_without_the_key(wallet: LNbits, reply: HttpReply) -> None:
    with pytest.raises(WalletError, match=r"lnbits at lnbits\.test:5000") as caught:
        tell(wallet.balance(), reply)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_neither_name_nor_call_shows_the_key(wallet: LNbits) -> None:
    call = next(wallet.balance())
    assert wallet.name == "lnbits at lnbits.test:5000"
    for shown in (repr(call), repr(vars(wallet)), wallet.name, call.url):
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("url", "base_url"),
    [
        ("lnbits+http://127.0.0.1:5000?key=k", "http://127.0.0.1:5000"),
        ("lnbits+https://lnbits.example?key=k", "https://lnbits.example"),
        ("lnbits+https://lnbits.example/wallets/?key=k", "https://lnbits.example/wallets"),
        ("lnbits+http://[::1]:5000/?key=k", "http://[::1]:5000"),
    ],
)
def test_a_url_says_where_lnbits_is(url: str, base_url: str) -> None:
    for opened in (LNbits.open_wallet, LNbits.open_receiver):
        assert next(opened(url).balance()).url == f"{base_url}/api/v1/wallet"


@pytest.mark.parametrize(
    "url",
    [
        "lnbits+http://127.0.0.1:5000",
        "lnbits+http://127.0.0.1:5000?key=",
        "lnbits+http://127.0.0.1:5000?key=hunter2%0Ahost:%20evil",
        "lnbits+http://127.0.0.1:5000?key=hunter2%C3%BC",
        "lnbits+http://127.0.0.1:5000?key=hunter2&more=1",
        "lnbits+http://hunter2@127.0.0.1:5000?key=k",
        "lnbits+http://?key=hunter2",
        "lnbits+ftp://127.0.0.1?key=hunter2",
        "lnbits+http://127.0.0.1:port?key=hunter2",
    ],
)
def test_a_url_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(WalletError, match=r"lnbits\+https://HOST\?key=KEY") as caught:
        LNbits.from_url(url)
    assert "hunter2" not in str(caught.value)
