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
from farebox.core.settlement import Settlement
from farebox.lightning.blink import Blink
from farebox.lightning.sandbox import Sandbox
from farebox.testing.backend_faults import ReceiverFaultSuite, WalletFaultSuite
from farebox.testing.backends import FEE_LIMIT, NOBODYS_HASH, PRICE, TEN_MINUTES, ReceiverSuite, WalletSuite
from farebox.testing.fake_blink import FakeBlink, Key
from farebox.testing.faked_world import FakedWorld
from farebox.testing.scripted import NO_CONNECTION, NO_REPLY, said, tell
from farebox.testing.settlement_streams import StreamSuite

T = TypeVar("T")

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
NO_WAIT = timedelta(0)


class BlinkWorld(FakedWorld):
    """The adapter against Blink's interface in front of the sandbox, without a socket."""

    def __init__(self, sandbox: Sandbox, clock: Any) -> None:
        keys = {"sellers": Key(sandbox.seller, "one", ("READ", "RECEIVE")), "buyers": Key(sandbox.buyer, "two")}
        self.blink = FakeBlink(keys, clock)
        super().__init__(
            sandbox,
            clock.forward,
            self.blink,
            receiver=Blink.from_url("blink+https://blink.test?key=sellers"),
            wallet=Blink.from_url("blink+https://blink.test?key=buyers&wallet=two"),
        )


class _Conformance:
    @pytest.fixture
    def world(self, sandbox: Sandbox, clock: Any) -> BlinkWorld:
        return BlinkWorld(sandbox, clock)


class TestReceiverFaults(_Conformance, ReceiverFaultSuite):
    pass


class TestWalletFaults(_Conformance, WalletFaultSuite):
    pass


class TestReceiver(_Conformance, ReceiverSuite):
    @pytest.mark.parametrize(("asked_s", "lasts_s"), [(59, 60), (119, 60), (600, 600), (90_000, 86_400)])
    def test_an_invoice_lasts_whole_minutes_up_to_a_day(self, world: BlinkWorld, asked_s: int, lasts_s: int) -> None:
        made = world.receiver.create_invoice(PRICE, description="", expires_in=timedelta(seconds=asked_s))
        assert timedelta(seconds=lasts_s) == world.ask(made).expires_in


class TestStream(_Conformance, StreamSuite):
    pass


class TestWallet(_Conformance, WalletSuite):
    def test_the_key_of_a_shop_does_not_pay(self, world: BlinkWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.wallet = Blink.from_url("blink+https://blink.test?key=sellers")
        outcome = world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
        assert isinstance(outcome, Failed)
        assert "WRITE" in outcome.reason

    def test_a_wallet_that_the_key_does_not_open_pays_nothing(self, world: BlinkWorld) -> None:
        for url in ("blink+https://blink.test?key=buyers&wallet=dollars", "blink+https://blink.test?key=nobodys"):
            wallet = Blink.from_url(url)
            invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
            assert isinstance(world.ask(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT)), Failed)
            with pytest.raises(NodeUnavailable):
                world.ask(wallet.create_invoice(PRICE, description="", expires_in=TEN_MINUTES))


@pytest.mark.parametrize(("key", "spends"), [("sellers", False), ("buyers", True), ("nobodys", False)])
def test_a_key_is_known_to_spend_or_not_without_moving_anything(
    sandbox: Sandbox, clock: Any, key: str, spends: bool
) -> None:
    node = Blink.from_url(f"blink+https://blink.test?key={key}")
    assert isinstance(node, SpendProbe)
    assert spends is BlinkWorld(sandbox, clock).ask(node.spends())


# --- scripted replies -------------------------------------------------------------------------------------------------


def data(told: object, *path: str) -> HttpReply:
    for name in reversed(path):
        told = {name: told}
    return said(data=told)


def error(code: str | None, *path: str, message: str = "no") -> HttpReply:
    return said(errors=[{"message": message, "path": [*path], "extensions": {"code": code}}], data=None)


ACCOUNT = data(
    {
        "globals": {"network": "regtest"},
        "me": {"defaultAccount": {"wallets": [{"id": "w", "walletCurrency": "BTC", "balance": 7}]}},
    }
)
UNAUTHORIZED = HttpReply(status=401, body=b'{"error":{"code":401,"message":"hunter2"}}')
NOT_AUTHORIZED = error("NOT_AUTHORIZED", message="Not authorized")
NONSENSE = [
    NO_REPLY,
    said(500),
    said(502),
    said(429),
    HttpReply(status=302),
    HttpReply(status=200),
    HttpReply(status=200, body=b"<html>"),
    HttpReply(status=200, body=b"[]"),
    HttpReply(status=200, body=b"[" * 100_000),
    HttpReply(status=200, body=b"\xff\xfe"),
    said(),
    said(data=None),
    said(data=7),
    said(data={"me": 7}, errors=7),
    error("UNEXPECTED_CLIENT_ERROR"),
    error(None),
]


def send(status: object, *errors: str, transaction: object = None) -> HttpReply:
    payload = {"status": status, "errors": [{"message": each} for each in errors], "transaction": transaction}
    return data(payload, "lnInvoicePaymentSend")


def sent(status: object = "SUCCESS", preimage: object = PREIMAGE.hex(), **changes: Any) -> dict[str, Any]:
    told = {"direction": "SEND", "status": status, "settlementAmount": -31, "settlementFee": 10}
    return {**told, "settlementVia": {"preImage": preimage}, **changes}


def back(amount: object = 7, status: str = "SUCCESS") -> dict[str, Any]:
    return {"direction": "RECEIVE", "status": status, "settlementAmount": amount, "settlementVia": {}}


def payments(*rows: object) -> HttpReply:
    return data(list(rows), "me", "defaultAccount", "walletById", "transactionsByPaymentHash")


def incoming(**changes: Any) -> HttpReply:
    told = {"paymentHash": PAYMENT_HASH.hex(), "paymentStatus": "PAID", "satoshis": 21, **changes}
    return data(told, "me", "defaultAccount", "walletById", "invoiceByPaymentHash")


@pytest.fixture
def node() -> Blink:
    return Blink.from_url("blink+https://blink.test?key=hunter2")


@pytest.fixture
def invoice(sandbox: Sandbox) -> Invoice:
    """An invoice whose preimage this file knows."""
    return sandbox.seller.issue_held(PRICE, payment_hash=PAYMENT_HASH, description="a test", expires_in=TEN_MINUTES)


def test_a_payment_is_asked_for_and_then_looked_at(node: Blink, invoice: Invoice) -> None:
    replies = ACCOUNT, send("SUCCESS", transaction=sent()), payments(sent(), back())
    outcome, calls = tell(node.pay_invoice(invoice, fee_limit=NOTHING), *replies)
    assert isinstance(outcome, Paid)
    assert outcome.preimage.reveal() == PREIMAGE
    assert outcome.fee == Amount.sats(3)
    assert {("POST", "https://blink.test/graphql")} == {(call.method, call.url) for call in calls}
    assert {"input": {"walletId": "w", "paymentRequest": invoice.text}} == json.loads(calls[1].body)["variables"]
    assert {"wallet": "w", "hash": PAYMENT_HASH.hex()} == json.loads(calls[2].body)["variables"]
    assert calls[0].headers is not None
    assert "x-api-key: hunter2" in calls[0].headers.reveal().splitlines()


def test_the_wallet_and_the_chain_are_asked_for_once(node: Blink) -> None:
    assert node.network is None
    tell(node.lookup_invoice(PAYMENT_HASH), ACCOUNT, incoming())
    tell(node.lookup_invoice(PAYMENT_HASH), incoming())
    assert node.network is Network.REGTEST


# what a payment has become


@pytest.mark.parametrize(
    ("reply", "found", "kind"),
    [
        (send("SUCCESS", transaction=sent()), NO_REPLY, Paid),
        (send("SUCCESS", transaction=sent()), payments(), Paid),
        (send("SUCCESS", transaction=sent(preimage=None)), payments(sent()), Paid),
        (send("SUCCESS", transaction=sent(preimage=None)), payments(sent(preimage=None)), Unresolved),
        (send("SUCCESS"), payments(sent("FAILURE")), Unresolved),
        (send("SUCCESS"), payments(), Unresolved),
        (send("PENDING"), payments(sent("PENDING")), Unresolved),
        (send("PENDING"), payments(sent()), Paid),
        (send("PENDING"), payments(), Unresolved),
        (send("PENDING"), payments(sent("FAILURE"), back(31, "FAILURE")), Failed),
        (send("ALREADY_PAID"), payments(sent()), Paid),
        (send("ALREADY_PAID"), payments(), Unresolved),
        (send("ALREADY_PAID"), NO_REPLY, Unresolved),
        (send("FAILURE", "no route"), payments(), Failed),
        (send("FAILURE", "no route"), payments(sent("FAILURE"), back(31, "FAILURE")), Failed),
        (send("FAILURE", "in transit"), payments(sent("PENDING")), Unresolved),
        (send("FAILURE", "paid"), payments(sent("FAILURE"), sent()), Paid),
        (send("FAILURE", "lost"), payments(sent(preimage="00" * 32)), Unresolved),
        (send("FAILURE", "lost"), NO_REPLY, Unresolved),
        (send("FAILURE", "lost"), NO_CONNECTION, Unresolved),
        (send("FAILURE", "lost"), UNAUTHORIZED, Unresolved),
        (send("FAILURE", "lost"), payments(7), Unresolved),
        (send("FAILURE"), payments(), Failed),
        (send(None, "Memo is too long"), payments(), Failed),
        (send(None, "Memo is too long"), payments(sent("PENDING")), Unresolved),
        (send("HALF_PAID"), payments(), Unresolved),
    ],
)
def test_a_status_is_believed_as_far_as_the_transactions_agree(
    node: Blink, invoice: Invoice, reply: HttpReply, found: HttpReply, kind: type
) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), ACCOUNT, reply, found)
    assert isinstance(outcome, kind)
    assert not isinstance(outcome, Unresolved) or outcome.known


def test_a_failed_payment_carries_the_reason_in_one_line(node: Blink, invoice: Invoice) -> None:
    replies = ACCOUNT, send("FAILURE", "balance is\n\ud800 too low"), payments()
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), *replies)
    assert outcome == Failed(reason="Blink: balance is ? too low")


@pytest.mark.parametrize("reply", [*NONSENSE, send(None), send(7), data({}, "lnInvoicePaymentSend")])
def test_what_is_not_clear_is_unresolved(node: Blink, invoice: Invoice, reply: HttpReply) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), ACCOUNT, reply)
    assert isinstance(outcome, Unresolved)
    assert outcome.known


@pytest.mark.parametrize("reply", [NO_CONNECTION, UNAUTHORIZED, NOT_AUTHORIZED])
def test_what_certainly_began_nothing_is_failed(node: Blink, invoice: Invoice, reply: HttpReply) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), ACCOUNT, reply)
    assert isinstance(outcome, Failed)
    assert "hunter2" not in outcome.reason


@pytest.mark.parametrize("reply", [*NONSENSE, NO_CONNECTION, UNAUTHORIZED, NOT_AUTHORIZED])
def test_without_a_wallet_nothing_is_paid_or_made(node: Blink, invoice: Invoice, reply: HttpReply) -> None:
    outcome, calls = tell(node.pay_invoice(invoice, fee_limit=NOTHING), reply)
    assert isinstance(outcome, Failed)
    assert len(calls) == 1
    with pytest.raises(NodeUnavailable):
        tell(node.create_invoice(PRICE, description="", expires_in=TEN_MINUTES), reply)


def test_an_invoice_for_another_chain_is_not_even_sent(node: Blink, invoice: Invoice) -> None:
    reply = HttpReply(status=200, body=ACCOUNT.body.replace(b"regtest", b"mainnet"))
    outcome, calls = tell(node.pay_invoice(invoice, fee_limit=NOTHING), reply)
    assert isinstance(outcome, Failed)
    assert len(calls) == 1


# looking up a payment


NO_PROOF = Unresolved(reason="Blink says that it paid and does not prove it")
IN_FLIGHT = Unresolved(reason="the payment is in flight")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (payments(), Unresolved(reason="Blink has never heard of this payment", known=False)),
        (payments(sent("FAILURE"), sent("FAILURE")), Failed(reason="Blink says that the payment failed")),
        (payments(sent("FAILURE"), sent("PENDING")), IN_FLIGHT),
        (payments(sent("FAILURE"), sent(None)), IN_FLIGHT),
        (payments(sent("FAILURE", PREIMAGE.hex()), sent("PENDING", PREIMAGE.hex())), IN_FLIGHT),
        (payments(back()), IN_FLIGHT),
        (payments(sent("FAILURE"), sent(preimage=None)), NO_PROOF),
        (payments(sent(preimage="00" * 32)), NO_PROOF),
        (payments(sent(preimage=PAYMENT_HASH.hex())), NO_PROOF),
        (payments(sent(settlementVia=None)), NO_PROOF),
        (NO_CONNECTION, Unresolved(reason="Blink did not answer (ConnectError)")),
        (error("X", message="down"), Unresolved(reason="Blink: down")),
    ],
)
def test_a_look_up_says_what_became_of_a_payment(node: Blink, reply: HttpReply, expected: object) -> None:
    outcome, _ = tell(node.lookup_payment(PAYMENT_HASH), ACCOUNT, reply)
    assert expected == outcome


@pytest.mark.parametrize(
    ("rows", "fee"),
    [
        ((sent(), back(7)), 3),
        ((sent(),), 10),
        ((sent(), back(10)), 0),
        ((sent("FAILURE"), back(31, "FAILURE"), sent(), back(8)), 2),
        ((sent(), back(50)), 0),
        ((sent("FAILURE"), sent()), 10),
        ((sent(), back("7")), 10),
        ((sent(settlementFee=None),), 0),
        ((sent(settlementAmount=None),), 10),
        ((sent(settlementFee=10**30, settlementAmount=-(10**30)),), 0),
    ],
)
def test_the_fee_is_what_was_taken_and_not_given_back(node: Blink, rows: tuple[object, ...], fee: int) -> None:
    outcome, _ = tell(node.lookup_payment(PAYMENT_HASH), ACCOUNT, payments(*rows))
    assert isinstance(outcome, Paid)
    assert outcome.fee == Amount.sats(fee)


@pytest.mark.parametrize("reply", [*NONSENSE, payments(7), payments(None)])
def test_a_look_up_that_can_not_be_read_is_unresolved(node: Blink, reply: HttpReply) -> None:
    for replies in ((ACCOUNT, reply), (reply,)):
        outcome, _ = tell(node.lookup_payment(PAYMENT_HASH), *replies)
        assert isinstance(outcome, Unresolved)
        assert outcome.known


# being paid


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (incoming(), InvoiceStatus(state=InvoiceState.PAID, received=PRICE)),
        (incoming(paymentStatus="PENDING"), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(paymentStatus="EXPIRED"), InvoiceStatus(state=InvoiceState.CANCELLED)),
        (error("LIGHTNING_PAYMENT_ERROR", "me", "invoiceByPaymentHash"), InvoiceStatus(state=InvoiceState.UNKNOWN)),
        (error("NOT_FOUND", "me", "invoiceByPaymentHash"), InvoiceStatus(state=InvoiceState.UNKNOWN)),
    ],
)
def test_only_the_status_of_an_invoice_counts(node: Blink, reply: HttpReply, expected: InvoiceStatus) -> None:
    status, _ = tell(node.lookup_invoice(PAYMENT_HASH), ACCOUNT, reply)
    assert expected == status


@pytest.mark.parametrize(
    "reply",
    [
        *NONSENSE,
        NO_CONNECTION,
        UNAUTHORIZED,
        NOT_AUTHORIZED,
        error("NOT_FOUND", "me", "defaultAccount"),
        error("UNKNOWN_CLIENT_ERROR", "me", "invoiceByPaymentHash"),
        incoming(paymentHash=NOBODYS_HASH.hex()),
        incoming(paymentStatus="paid"),
        incoming(paymentStatus=True),
        incoming(satoshis=-21),
        incoming(satoshis="21"),
        incoming(satoshis=10**30),
    ],
)
def test_an_answer_that_is_nonsense_is_none(node: Blink, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable) as caught:
        tell(node.lookup_invoice(PAYMENT_HASH), ACCOUNT, reply)
    assert "hunter2" not in str(caught.value)


def test_an_invoice_is_asked_for_in_satoshis_and_minutes(node: Blink, invoice: Invoice) -> None:
    made = {"invoice": {"paymentRequest": invoice.text, "paymentHash": PAYMENT_HASH.hex()}, "errors": []}
    asked = node.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES)
    given, calls = tell(asked, ACCOUNT, data(made, "lnInvoiceCreate"))
    assert invoice == given
    assert json.loads(calls[1].body)["variables"] == {
        "input": {"walletId": "w", "amount": 21, "memo": "a test", "expiresIn": 10}
    }


@pytest.mark.parametrize(
    "reply", [*NONSENSE, data({"invoice": None, "errors": [{"message": "no"}]}, "lnInvoiceCreate")]
)
def test_an_invoice_that_can_not_be_read_is_not_given_out(node: Blink, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(node.create_invoice(PRICE, description="", expires_in=TEN_MINUTES), ACCOUNT, reply)


@pytest.mark.parametrize(("amount", "digest"), [(Amount.sats(22), PAYMENT_HASH), (PRICE, NOBODYS_HASH)])
def test_another_invoice_than_was_asked_for_is_not_given_out(
    node: Blink, invoice: Invoice, amount: Amount, digest: bytes
) -> None:
    made = {"invoice": {"paymentRequest": invoice.text, "paymentHash": digest.hex()}, "errors": []}
    with pytest.raises(NodeUnavailable):
        tell(
            node.create_invoice(amount, description="", expires_in=TEN_MINUTES), ACCOUNT, data(made, "lnInvoiceCreate")
        )


@pytest.mark.parametrize("amount", [Amount.msats(1_500), NOTHING])
def test_what_is_no_whole_satoshi_is_refused_before_asking(node: Blink, amount: Amount) -> None:
    with pytest.raises(WalletError):
        next(node.create_invoice(amount, description="", expires_in=TEN_MINUTES))


# --- the stream -------------------------------------------------------------------------------------------------------


def row(payment_hash: bytes | None = PAYMENT_HASH, at: object = 1_000, **changes: Any) -> dict[str, Any]:
    via = {} if payment_hash is None else {"paymentHash": payment_hash.hex()}
    told = {"createdAt": at, "direction": "RECEIVE", "status": "SUCCESS", "settlementAmount": 21}
    return {"node": {**told, "initiationVia": via, **changes}}


def page(*edges: object, after: str | None = None) -> HttpReply:
    told = {"edges": list(edges), "pageInfo": {"hasNextPage": after is not None, "endCursor": after}}
    return data(told, "me", "defaultAccount", "walletById", "transactions")


@pytest.mark.parametrize(
    "edge",
    [
        row(None),
        row(status="PENDING"),
        row(status="FAILURE"),
        row(direction="SEND"),
        row(settlementAmount=-21),
        row(settlementAmount="21"),
        row(at=939),
        row(initiationVia=None),
    ],
)
def test_a_transaction_that_is_no_payment_to_us_is_passed_over(node: Blink, edge: object) -> None:
    told, _ = tell(node.settlements("1000", wait=NO_WAIT), ACCOUNT, page(edge))
    assert () == told.settled


def test_what_comes_back_of_a_payment_of_ours_is_no_settlement(node: Blink) -> None:
    told, _ = tell(node.settlements("1000", wait=NO_WAIT), ACCOUNT, page(row(), row(direction="SEND")))
    assert () == told.settled


def test_pages_are_read_until_one_is_older_than_a_minute_before_the_cursor(node: Blink) -> None:
    other = hashlib.sha256(b"other").digest()
    pages = page(row(at=1_005), after="a"), page(row(other, at=941), row(NOBODYS_HASH, at=939), after="b")
    told, calls = tell(node.settlements("1000", wait=NO_WAIT), ACCOUNT, *pages)
    assert {PAYMENT_HASH, other} == {each.payment_hash for each in told.settled}
    assert "1005" == told.cursor
    assert [None, "a"] == [json.loads(call.body)["variables"]["after"] for call in calls[1:]]


def test_a_page_that_leads_to_itself_is_the_last(node: Blink) -> None:
    told, _ = tell(node.settlements("5", wait=NO_WAIT), ACCOUNT, page(row(), after="a"), page(row(), after="a"))
    assert (Settlement(payment_hash=PAYMENT_HASH, received=PRICE),) == told.settled


@pytest.mark.parametrize(
    "reply", [*NONSENSE, NO_CONNECTION, UNAUTHORIZED, page(7), page(row(at=None)), page(row(at="1000"))]
)
def test_a_list_that_can_not_be_had_is_no_empty_one(node: Blink, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(node.settlements("5", wait=NO_WAIT), ACCOUNT, reply)
    with pytest.raises(NodeUnavailable):
        tell(node.settlements("5", wait=NO_WAIT), page(row(), after="a"), reply)


@pytest.mark.parametrize("cursor", ["", "-5", "x", "5" * 5_000, "٣"])
def test_a_cursor_that_can_not_be_read_begins_at_the_beginning(node: Blink, cursor: str) -> None:
    told, _ = tell(node.settlements(cursor, wait=NO_WAIT), ACCOUNT, page(row(at=1)))
    assert len(told.settled) == 1


def test_a_cursor_at_an_instant_is_that_instant_in_seconds(node: Blink) -> None:
    assert ("1767323045", []) == tell(node.cursor_at(datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)))
    assert ("0", []) == tell(node.cursor_at(datetime(1960, 1, 1, tzinfo=UTC)))


# --- keys, balances and URLs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [*NONSENSE, NO_CONNECTION, data({"scopes": "WRITE"}, "authorization")])
def test_whether_a_key_can_spend_is_not_guessed_at(node: Blink, reply: HttpReply) -> None:
    assert tell(node.spends(), reply)[0] is None


@pytest.mark.parametrize("reply", [UNAUTHORIZED, NOT_AUTHORIZED])
def test_a_refused_key_is_told_in_one_line_without_it(node: Blink, reply: HttpReply) -> None:
    for conversation in (node.balance(), node.lookup_payment(PAYMENT_HASH)):
        with pytest.raises(WalletError, match="Blink refuses the key") as caught:
            tell(conversation, reply)
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_the_balance_is_that_of_the_wallet_in_bitcoin(node: Blink) -> None:
    assert Amount.sats(7) == tell(node.balance(), ACCOUNT)[0]


@pytest.mark.parametrize("balance", [b"-7", b'"7"', b"null", b"true", b"1" + b"0" * 30])
def test_a_balance_that_can_not_be_read_is_none(node: Blink, balance: bytes) -> None:
    reply = HttpReply(status=200, body=ACCOUNT.body.replace(b'"balance": 7', b'"balance": ' + balance))
    with pytest.raises(WalletError):
        tell(node.balance(), reply)


def test_neither_name_nor_call_shows_the_key(node: Blink) -> None:
    assert node.name == "blink at blink.test"
    for shown in (repr(next(node.balance())), repr(vars(node))):
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "blink+https://api.blink.sv",
        "blink+https://api.blink.sv?key=",
        "blink+https://api.blink.sv?key=hunter2&currency=BTC",
        "blink+https://:hunter2@api.blink.sv?key=hunter2",
        "blink+https://api.blink.sv?key=hunter2%0D%0Ax:y",
        "blink+http://api.blink.sv?key=hunter2",
        "blink+https://?key=hunter2",
    ],
)
@pytest.mark.parametrize("opened", [Blink.open_receiver, Blink.open_wallet])
def test_a_url_that_is_no_wallet_is_refused_without_showing_it(opened: Callable[[str], Blink], url: str) -> None:
    with pytest.raises(WalletError, match=r"blink\+https://api\.blink\.sv\?key=KEY") as caught:
        opened(url)
    assert "hunter2" not in str(caught.value)
