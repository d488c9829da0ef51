from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qs

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import (
    Capability,
    Failed,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    Paid,
    SpendProbe,
    Unresolved,
)
from farebox.lightning.eclair import Eclair
from farebox.lightning.sandbox import Sandbox
from farebox.testing.backend_faults import ReceiverFaultSuite, WalletFaultSuite
from farebox.testing.backends import FEE_LIMIT, NOBODYS_HASH, PRICE, TEN_MINUTES, ReceiverSuite, WalletSuite
from farebox.testing.fake_eclair import FakeEclair
from farebox.testing.faked_world import FakedWorld
from farebox.testing.scripted import NO_CONNECTION, NO_REPLY, said, tell

T = TypeVar("T")

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
GETINFO = HttpReply(status=200, body=b'{"nodeId":"02","network":"regtest","version":"0.14.0"}')
EMPTY = HttpReply(status=200, body=b"[]")


class EclairWorld(FakedWorld):
    """The adapter against eclair's API in front of the sandbox, without a socket."""

    def __init__(self, sandbox: Sandbox, clock: Any) -> None:
        self.eclair = FakeEclair({"seller's": sandbox.seller, "buyer's": sandbox.buyer}, clock)
        super().__init__(
            sandbox,
            clock.forward,
            self.eclair,
            receiver=Eclair.from_url("eclair+http://:seller's@eclair.test:8080"),
            wallet=Eclair.from_url("eclair+http://:buyer's@eclair.test:8080"),
        )


class _Conformance:
    @pytest.fixture
    def world(self, sandbox: Sandbox, clock: Any) -> EclairWorld:
        return EclairWorld(sandbox, clock)


class TestReceiverFaults(_Conformance, ReceiverFaultSuite):
    pass


class TestWalletFaults(_Conformance, WalletFaultSuite):
    pass


class TestReceiver(_Conformance, ReceiverSuite):
    def test_a_node_that_breaks_off_is_unavailable(self, world: EclairWorld) -> None:
        with world.sandbox.seller.out_of_reach(), pytest.raises(NodeUnavailable):
            world.ask(world.receiver.lookup_invoice(NOBODYS_HASH))

    def test_an_invoice_may_ask_for_a_fraction_of_a_satoshi(self, world: EclairWorld) -> None:
        amount = Amount.msats(1_500)
        made = world.ask(world.receiver.create_invoice(amount, description="", expires_in=TEN_MINUTES))
        assert amount == made.amount


class TestWallet(_Conformance, WalletSuite):
    def test_what_is_paid_or_in_flight_is_not_even_asked_for_again(self, world: EclairWorld) -> None:
        for prepare in (lambda: None, world.hold_next):
            prepare()
            invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
            world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
            world.eclair.calls.clear()
            world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
            assert world.eclair.calls == ["getsentinfo"]

    def test_a_fraction_of_a_satoshi_is_left_out_of_the_fee_limit(self, world: EclairWorld) -> None:
        world.set_fee(Amount.msats(2_500))
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        outcome = world.ask(world.wallet.pay_invoice(invoice, fee_limit=Amount.msats(2_900)))
        assert isinstance(outcome, Failed)
        outcome = world.ask(world.wallet.pay_invoice(invoice, fee_limit=Amount.msats(3_000)))
        assert isinstance(outcome, Paid)
        assert outcome.fee == Amount.msats(2_500)


@pytest.mark.parametrize(("password", "spends"), [("seller's", True), ("nobody's", False)])
def test_a_password_that_is_good_spends(sandbox: Sandbox, clock: Any, password: str, spends: bool) -> None:
    before = sandbox.seller.funds()
    node = Eclair.from_url(f"eclair+http://:{password}@eclair.test:8080")
    assert isinstance(node, SpendProbe)
    assert spends is EclairWorld(sandbox, clock).ask(node.spends())
    assert before == sandbox.seller.funds()


# --- scripted replies -------------------------------------------------------------------------------------------------


def paid(**changes: Any) -> HttpReply:
    members = {"type": "payment-sent", "paymentHash": PAYMENT_HASH.hex(), "fees": 4}
    return said(**{**members, "paymentPreimage": PREIMAGE.hex(), **changes})


def failed(**changes: Any) -> HttpReply:
    return said(**{"type": "payment-failed", "paymentHash": PAYMENT_HASH.hex(), "failures": [], **changes})


def sent(preimage: object = PREIMAGE.hex(), fee: object = 3) -> dict[str, Any]:
    return {"type": "sent", "paymentPreimage": preimage, "feesPaid": fee}


FAILED = {"type": "failed", "failures": []}
PENDING = {"type": "pending"}


def attempts(*statuses: object, payment_hash: bytes = PAYMENT_HASH) -> HttpReply:
    rows = [{"paymentHash": payment_hash.hex(), "status": status} for status in statuses]
    return HttpReply(status=200, body=json.dumps(rows).encode())


def incoming(status: object, payment_hash: bytes = PAYMENT_HASH) -> HttpReply:
    return said(invoice={"paymentHash": payment_hash.hex()}, paymentPreimage=PREIMAGE.hex(), status=status)


UNCLEAR = [
    NO_REPLY,
    said(500, error="API call failed: check logs for more details"),
    said(408, error="request timed out"),
    said(404),
    HttpReply(status=200),
    HttpReply(status=200, body=b"<html>"),
    HttpReply(status=200, body=b"[" * 100_000),
    HttpReply(status=200, body=b"\xff\xfe"),
    HttpReply(status=302),
    HttpReply(status=200, body=b'"487da196-a4dc-4b1e-92b4-3e5e905e9f3f"'),
    said(),
    paid(type="payment-sent-or-so"),
    paid(paymentHash=NOBODYS_HASH.hex()),
    failed(paymentHash=NOBODYS_HASH.hex()),
]


@pytest.fixture
def node() -> Eclair:
    return Eclair.from_url("eclair+http://:hunter2@127.0.0.1:8080")


@pytest.fixture
def invoice(sandbox: Sandbox) -> Invoice:
    """An invoice whose preimage this file knows."""
    return sandbox.seller.issue_held(PRICE, payment_hash=PAYMENT_HASH, description="a test", expires_in=TEN_MINUTES)


def test_the_node_is_asked_with_a_form_and_an_empty_user(node: Eclair, invoice: Invoice) -> None:
    _, calls = tell(node.pay_invoice(invoice, fee_limit=Amount.msats(9_999)), GETINFO, EMPTY, paid())
    assert [f"http://127.0.0.1:8080/{each}" for each in ("getinfo", "getsentinfo", "payinvoice")] == [
        call.url for call in calls
    ]
    assert parse_qs(calls[2].body.decode()) == {
        "invoice": [invoice.text],
        "blocking": ["true"],
        "maxFeeFlatSat": ["9"],
        "maxFeePct": ["0"],
        "timeoutSeconds": ["60"],
    }
    headers = calls[2].headers
    assert headers is not None
    assert f"authorization: Basic {base64.b64encode(b':hunter2').decode()}" in headers.reveal().splitlines()


# what proves a payment, and what does not


@pytest.mark.parametrize(
    ("reply", "fee"),
    [
        (paid(), 4),
        (paid(fees=None, parts=[{"fees": 1}, {"fees": 2}]), 3),
        (paid(fees=None, parts=[{"feesPaid": 1}, {"feesPaid": 4}, 7]), 5),
        (paid(fees="many", parts="two"), 0),
        (paid(fees=10**30), 0),
    ],
)
def test_a_preimage_of_the_hash_is_paid_with_the_fee(
    node: Eclair, invoice: Invoice, reply: HttpReply, fee: int
) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), GETINFO, EMPTY, reply)
    assert isinstance(outcome, Paid)
    assert outcome.preimage.reveal() == PREIMAGE
    assert outcome.fee == Amount.msats(fee)


@pytest.mark.parametrize("preimage", ["", "00" * 32, PREIMAGE.hex()[:-2], PAYMENT_HASH.hex(), None, 7, [1]])
def test_anything_but_the_preimage_of_the_hash_is_unresolved(node: Eclair, invoice: Invoice, preimage: object) -> None:
    reply = paid(paymentPreimage=preimage)
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), GETINFO, EMPTY, reply)
    assert isinstance(outcome, Unresolved)
    outcome, _ = tell(node.lookup_payment(PAYMENT_HASH), attempts(FAILED, sent(preimage)))
    assert isinstance(outcome, Unresolved)
    assert outcome.known


@pytest.mark.parametrize("reply", UNCLEAR)
def test_what_is_not_clear_is_unresolved(node: Eclair, invoice: Invoice, reply: HttpReply) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), GETINFO, EMPTY, reply)
    assert isinstance(outcome, Unresolved)
    assert outcome.known


def test_a_connection_that_was_refused_is_failed(node: Eclair, invoice: Invoice) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), GETINFO, EMPTY, NO_CONNECTION)
    assert isinstance(outcome, Failed)


@pytest.mark.parametrize("reply", [NO_CONNECTION, NO_REPLY, said(500), said(401), said(network="moon"), said()])
def test_a_node_that_does_not_tell_its_chain_was_not_asked_to_pay(
    node: Eclair, invoice: Invoice, reply: HttpReply
) -> None:
    outcome, calls = tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), reply)
    assert isinstance(outcome, Failed)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (said(500), Failed),
        (NO_REPLY, Failed),
        (HttpReply(status=200, body=b"{}"), Unresolved),
        (attempts(PENDING), Unresolved),
        (attempts(FAILED, sent()), Paid),
        (attempts(FAILED, sent("00" * 32)), Unresolved),
        (attempts(FAILED, payment_hash=NOBODYS_HASH), Unresolved),
    ],
)
def test_a_node_that_does_not_say_that_it_never_paid_is_not_told_to_pay(
    node: Eclair, invoice: Invoice, reply: HttpReply, kind: type
) -> None:
    outcome, calls = tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), GETINFO, reply)
    assert isinstance(outcome, kind)
    assert all("payinvoice" not in call.url for call in calls)


@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (EMPTY, Failed),
        (attempts(FAILED, FAILED), Failed),
        (attempts(FAILED, PENDING), Unresolved),
        (attempts(FAILED, sent()), Paid),
        (attempts(sent(None)), Unresolved),
        (NO_REPLY, Unresolved),
        (NO_CONNECTION, Unresolved),
        (said(500), Unresolved),
        (said(401), Unresolved),
    ],
)
@pytest.mark.parametrize("first", [failed(), said(400, error="API call failed: check logs for more details")])
def test_a_failure_is_believed_only_when_the_look_up_agrees(
    node: Eclair, invoice: Invoice, first: HttpReply, second: HttpReply, kind: type
) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), GETINFO, EMPTY, first, second)
    assert isinstance(outcome, kind)


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        ([{"t": "first"}, {"t": "balance is\n\ud800 too low"}], "eclair: balance is ? too low"),
        ([], "eclair says that the payment failed"),
        ([7], "eclair says that the payment failed"),
        ("no", "eclair says that the payment failed"),
    ],
)
def test_a_failed_payment_carries_the_last_reason(
    node: Eclair, invoice: Invoice, failures: object, reason: str
) -> None:
    replies = GETINFO, EMPTY, failed(failures=failures), attempts(FAILED)
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), *replies)
    assert outcome == Failed(reason=reason)


# looking up a payment


IN_FLIGHT = Unresolved(reason="the payment is in flight")
UNREADABLE = Unresolved(reason="eclair answered with something that can't be read")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (EMPTY, Unresolved(reason="eclair has never heard of this payment", known=False)),
        (attempts(FAILED), Failed(reason="eclair says that the payment failed")),
        (attempts(FAILED, FAILED), Failed(reason="eclair says that the payment failed")),
        (attempts(PENDING, FAILED), IN_FLIGHT),
        (attempts(FAILED, {"type": "lost"}), IN_FLIGHT),
        (attempts(FAILED, None), IN_FLIGHT),
        (attempts(FAILED, sent("00" * 32)), Unresolved(reason="eclair says that it paid and does not prove it")),
        (attempts(FAILED, payment_hash=NOBODYS_HASH), UNREADABLE),
        (said(), UNREADABLE),
        (HttpReply(status=200, body=b"[1]"), UNREADABLE),
        (NO_CONNECTION, Unresolved(reason="eclair did not answer (ConnectError)")),
        (said(404), Unresolved(reason="eclair answered 404")),
    ],
)
def test_a_look_up_fails_only_if_every_attempt_has(node: Eclair, reply: HttpReply, expected: object) -> None:
    outcome, _ = tell(node.lookup_payment(PAYMENT_HASH), reply)
    assert expected == outcome


def test_a_payment_in_parts_costs_the_fees_of_all_of_them(node: Eclair) -> None:
    reply = attempts(FAILED, sent(fee=1_500), sent(fee=700), PENDING)
    outcome, _ = tell(node.lookup_payment(PAYMENT_HASH), reply)
    assert isinstance(outcome, Paid)
    assert outcome.fee == Amount.msats(2_200)


# being paid


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (incoming({"type": "pending"}), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming({"type": "pending", "amount": 21_000}), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming({"type": "expired"}), InvoiceStatus(state=InvoiceState.CANCELLED)),
        (
            incoming({"type": "received", "amount": 21_001}),
            InvoiceStatus(state=InvoiceState.PAID, received=Amount.msats(21_001)),
        ),
        (said(404, error="Not found"), InvoiceStatus(state=InvoiceState.UNKNOWN)),
    ],
)
def test_only_what_was_received_counts(node: Eclair, reply: HttpReply, expected: InvoiceStatus) -> None:
    status, _ = tell(node.lookup_invoice(PAYMENT_HASH), reply)
    assert expected == status


@pytest.mark.parametrize(
    "reply",
    [
        *UNCLEAR[:2],
        *UNCLEAR[4:11],
        NO_CONNECTION,
        said(401),
        HttpReply(status=404, body=b"<html>no such page</html>"),
        incoming({"type": "received"}),
        incoming({"type": "received", "amount": -1}),
        incoming({"type": "received", "amount": True}),
        incoming({"type": "received", "amount": 10**30}),
        incoming({"type": "received", "amount": 21_000}, NOBODYS_HASH),
        incoming({"type": "lost"}),
        incoming("received"),
    ],
)
def test_a_node_that_answers_nonsense_is_unavailable(node: Eclair, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(node.lookup_invoice(PAYMENT_HASH), reply)


def test_an_invoice_is_asked_for_in_millisatoshis_and_seconds(node: Eclair, invoice: Invoice) -> None:
    reply = said(paymentHash=PAYMENT_HASH.hex(), serialized=invoice.text)
    made, calls = tell(node.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES), GETINFO, reply)
    assert invoice == made
    assert node.network is Network.REGTEST
    assert parse_qs(calls[1].body.decode()) == {
        "amountMsat": ["21000"],
        "description": ["a test"],
        "expireIn": ["600"],
    }


@pytest.mark.parametrize("case", range(7))
def test_an_invoice_that_is_not_what_was_asked_for_is_not_given_out(node: Eclair, invoice: Invoice, case: int) -> None:
    good = {"paymentHash": PAYMENT_HASH.hex(), "serialized": invoice.text}
    replies = [
        (said(network="mainnet"), said(**good)),
        (GETINFO, said(**{**good, "paymentHash": NOBODYS_HASH.hex()})),
        (GETINFO, said(**{**good, "serialized": invoice.text[:-1]})),
        (GETINFO, said()),
        (GETINFO, NO_REPLY),
        (GETINFO, said(500)),
        (said(401),),
    ][case]
    with pytest.raises(NodeUnavailable):
        tell(node.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES), *replies)


def test_an_invoice_for_another_amount_is_not_given_out(node: Eclair, invoice: Invoice) -> None:
    reply = said(paymentHash=PAYMENT_HASH.hex(), serialized=invoice.text)
    with pytest.raises(NodeUnavailable):
        tell(node.create_invoice(Amount.sats(22), description="", expires_in=TEN_MINUTES), GETINFO, reply)


def test_nothing_is_refused_before_asking(node: Eclair) -> None:
    with pytest.raises(WalletError):
        next(node.create_invoice(NOTHING, description="", expires_in=TEN_MINUTES))


# passwords, balances and URLs


@pytest.mark.parametrize("reply", [NO_CONNECTION, NO_REPLY, said(404), said(200), said(500)])
def test_a_node_that_does_not_say_whether_we_can_spend_is_not_guessed_at(node: Eclair, reply: HttpReply) -> None:
    told, calls = tell(node.spends(), reply)
    assert told is None
    assert calls[0].body == b""


def test_a_refused_password_pays_nothing_for_certain(node: Eclair, invoice: Invoice) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), GETINFO, EMPTY, said(401))
    assert isinstance(outcome, Failed)
    assert "eclair.api.password" in outcome.reason


@pytest.mark.parametrize("ask", ["balance", "lookup_payment"])
def test_a_refused_password_is_told_in_one_line_without_it(node: Eclair, ask: str) -> None:
    conversation = node.balance() if ask == "balance" else node.lookup_payment(PAYMENT_HASH)
    with pytest.raises(WalletError, match="refuses the password") as caught:
        tell(conversation, said(401, error="hunter2"))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_balance_is_what_the_channels_that_are_up_can_send(node: Eclair) -> None:
    rows = [{"canSend": 5, "isEnabled": True}, {"canSend": 7}, {"canSend": 9, "isEnabled": False}]
    balance, _ = tell(node.balance(), HttpReply(status=200, body=json.dumps(rows).encode()))
    assert balance == Amount.msats(12)


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'[{"canSend":-1}]', b'[{"canSend":"1"}]', b"[{}]"])
def test_a_balance_that_can_not_be_read_is_none(node: Eclair, body: bytes) -> None:
    with pytest.raises(WalletError):
        tell(node.balance(), HttpReply(status=200, body=body))


def test_neither_name_nor_call_shows_the_password(node: Eclair) -> None:
    call = next(node.balance())
    assert node.name == "eclair at 127.0.0.1:8080"
    for shown in (repr(call), repr(vars(node)), node.name):
        assert "hunter2" not in shown
        assert base64.b64encode(b":hunter2").decode() not in shown


def test_the_fee_has_a_limit_and_what_was_paid_is_not_streamed(node: Eclair) -> None:
    assert Capability.FEE_LIMIT in node.capabilities
    assert Capability.STREAM not in node.capabilities
    assert not hasattr(node, "settlements")


@pytest.mark.parametrize(
    "url",
    [
        "eclair+http://127.0.0.1:8080",
        "eclair+http://hunter2@127.0.0.1:8080",
        "eclair+http://:hunter2@",
        "eclair+http://:hunter2@h:port",
        "eclair+http://:hunter2@h?x=1",
        "http://:hunter2@127.0.0.1:8080",
    ],
)
@pytest.mark.parametrize("opened", [Eclair.open_receiver, Eclair.open_wallet])
def test_a_url_that_is_no_node_is_refused_without_showing_it(opened: Callable[[str], Eclair], url: str) -> None:
    with pytest.raises(WalletError, match=r"eclair\+http://:PASSWORD@HOST:8080") as caught:
        opened(url)
    assert "hunter2" not in str(caught.value)


def test_a_url_says_where_the_node_is() -> None:
    call = next(Eclair.from_url("eclair+https://:p@node.example/eclair/").balance())
    assert call.url == "https://node.example/eclair/usablebalances"
    assert call.timeout is not None
    assert call.timeout <= timedelta(seconds=10)
