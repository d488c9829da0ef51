from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, sign
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import (
    Capability,
    Conversation,
    Failed,
    HttpCall,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    Line,
    Paid,
    PayOutcome,
    SpendProbe,
    Unresolved,
)
from farebox.core.settlement import Settlement, Settlements
from farebox.lightning.cln import Cln
from farebox.lightning.sandbox import Sandbox
from farebox.testing.backend_faults import ReceiverFaultSuite, WalletFaultSuite
from farebox.testing.backends import FEE_LIMIT, NOBODYS_HASH, PRICE, TEN_MINUTES, ReceiverSuite, WalletSuite
from farebox.testing.fake_cln import FakeCln, Rune
from farebox.testing.faked_world import FakedWorld
from farebox.testing.scripted import NO_REPLY, tell
from farebox.testing.settlement_streams import StreamSuite

T = TypeVar("T")

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
SHOPS_RUNE, BUYERS_RUNE, SMALL_RUNE, NO_RUNE = "shop" * 12, "buyer" * 10 + "==", "small" * 12, "none" * 12
TO_BE_PAID = frozenset({"invoice", "listinvoices", "waitanyinvoice"})
NO_CONNECTION = HttpReply(status=0, sent=False, reason="connection refused")
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
HTML = HttpReply(status=502, body=b"<html>bad gateway</html>")


def carry(conversation: Conversation[T], answer: Callable[[HttpCall], HttpReply]) -> T:
    """The outcome of a conversation whose calls are answered so."""
    try:
        call = next(conversation)
        while True:
            call = conversation.send(answer(call))
    except StopIteration as end:
        outcome: T = end.value
        return outcome


def url_of(rune: str) -> str:
    return f"cln+https://cln.test:3010?rune={rune}"


def fake_of(sandbox: Sandbox, *, nested: bool = False) -> FakeCln:
    return FakeCln(
        sandbox,
        nested=nested,
        runes={
            SHOPS_RUNE: Rune(node=sandbox.seller, methods=TO_BE_PAID),
            BUYERS_RUNE: Rune(node=sandbox.buyer),
            SMALL_RUNE: Rune(node=sandbox.buyer, methods=frozenset({"xpay", "listpays"}), below=Amount.sats(100)),
        },
        sockets={"/seller/lightning-rpc": sandbox.seller, "/buyer/lightning-rpc": sandbox.buyer},
    )


class ClnWorld(FakedWorld):
    """The adapter against Core Lightning's methods in front of the sandbox, without a socket."""

    def __init__(self, sandbox: Sandbox, forward: Callable[[timedelta], None], *, over: str = "rest") -> None:
        unix = over == "unix"
        self.fake = fake_of(sandbox)
        super().__init__(
            sandbox,
            forward,
            self.fake,
            receiver=Cln.open_receiver("cln+unix:///seller/lightning-rpc" if unix else url_of(SHOPS_RUNE)),
            wallet=Cln.open_wallet("cln+unix:///buyer/lightning-rpc" if unix else url_of(BUYERS_RUNE)),
        )


class _Conformance:
    @pytest.fixture(params=["rest", pytest.param("unix", marks=pytest.mark.full)])
    def world(self, request: pytest.FixtureRequest, sandbox: Sandbox, clock: Any) -> ClnWorld:
        return ClnWorld(sandbox, clock.forward, over=request.param)


class TestStream(_Conformance, StreamSuite):
    pass


class TestReceiverFaults(_Conformance, ReceiverFaultSuite):
    pass


class TestWalletFaults(_Conformance, WalletFaultSuite):
    pass


class TestReceiver(_Conformance, ReceiverSuite):
    def test_a_description_may_hold_anything(self, world: ClnWorld) -> None:
        made = world.receiver.create_invoice(PRICE, description='a"b\\c\x00\x1b\n\u2028\ud800é', expires_in=TEN_MINUTES)
        assert world.ask(made).description == 'a"b\\c   \u2028é'


class TestWallet(_Conformance, WalletSuite):
    def test_a_rune_of_the_shop_does_not_pay(self, world: ClnWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        outcome = world.ask(Cln.from_url(url_of(SHOPS_RUNE)).pay_invoice(invoice, fee_limit=NOTHING))
        assert Failed(reason="cln: the rune does not allow listpays") == outcome

    def test_a_rune_for_small_amounts_pays_those_only(self, world: ClnWorld) -> None:
        node = Cln.from_url(url_of(SMALL_RUNE))
        large, small = (world.invoice(Amount.sats(each), expires_in=TEN_MINUTES) for each in (100, 99))
        refused = Failed(reason="cln: the rune does not allow xpay")
        assert refused == world.ask(node.pay_invoice(large, fee_limit=NOTHING))
        assert isinstance(world.ask(node.pay_invoice(small, fee_limit=NOTHING)), Paid)

    def test_what_is_in_flight_or_paid_is_asked_to_be_paid_once(self, world: ClnWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.hold_next()
        for _ in range(2):
            world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
        world.release(invoice)
        world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
        assert ["xpay"] == [method for method, _ in world.fake.calls if method == "xpay"]


@pytest.mark.parametrize(
    ("rune", "spends"), [(SHOPS_RUNE, False), (BUYERS_RUNE, True), (NO_RUNE, False), (SMALL_RUNE, None)]
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_rune_is_known_to_spend_or_not_without_moving_anything(
    sandbox: Sandbox, rune: str, spends: bool | None, nested: bool
) -> None:
    before = sandbox.buyer.funds(), sandbox.seller.funds()
    node, fake = Cln.from_url(url_of(rune)), fake_of(sandbox, nested=nested)
    assert isinstance(node, SpendProbe)
    bodies = []

    def answer(call: HttpCall) -> HttpReply:
        bodies.append(call.body)
        return fake(call)

    assert spends is carry(node.spends(), answer)
    assert {b"{}"} == set(bodies)
    assert before == (sandbox.buyer.funds(), sandbox.seller.funds())


def test_how_a_rune_is_made_that_can_only_be_paid_is_told_as_it_is_typed(node: Cln) -> None:
    restrictions = json.loads(node.narrow.split("'")[1])
    assert [sorted(f"method={each}" for each in TO_BE_PAID)] == restrictions


def test_whoever_may_open_the_socket_can_pay() -> None:
    assert (True, []) == tell(Cln.from_url("cln+unix:///run/lightning-rpc").spends())


# --- scripted replies -------------------------------------------------------------------------------------------------


def said(status: int = 201, /, **members: Any) -> HttpReply:
    return HttpReply(status=status, body=json.dumps(members).encode())


def refused(code: int, message: str = "no", status: int = 500) -> HttpReply:
    return said(status, code=code, message=message)


NOTHING_LISTED = said(pays=[])
NOT_PERMITTED = refused(1502, "Not permitted: method is not equal to invoice", 401)


@pytest.fixture
def node() -> Cln:
    return Cln.from_url(url_of(BUYERS_RUNE))


@pytest.fixture(scope="module")
def invoice() -> Invoice:
    """An invoice whose preimage this file knows."""
    return sign(
        secret_key=b"\x01" * 32,
        network=Network.REGTEST,
        amount=PRICE,
        payment_hash=PAYMENT_HASH,
        payment_secret=bytes(32),
        description="a test",
        created_at=datetime(2030, 1, 1, tzinfo=UTC),
        expires_in=TEN_MINUTES,
    )


def xpaid(**changes: Any) -> HttpReply:
    members = {"payment_preimage": PREIMAGE.hex(), "amount_msat": 21_000, "amount_sent_msat": 21_007}
    return said(**{**members, "failed_parts": 0, "successful_parts": 1, **changes})


def row(status: Any, **changes: Any) -> dict[str, Any]:
    return {"payment_hash": PAYMENT_HASH.hex(), "status": status, "created_at": 1, **changes}


def proven(**changes: Any) -> dict[str, Any]:
    return row("complete", preimage=PREIMAGE.hex(), amount_msat=21_000, amount_sent_msat=21_004, **changes)


def pay(node: Cln, invoice: Invoice, *replies: HttpReply) -> PayOutcome:
    return tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), *replies)[0]


def test_a_payment_is_looked_up_and_then_asked_for_with_its_limits(node: Cln, invoice: Invoice) -> None:
    outcome, calls = tell(node.pay_invoice(invoice, fee_limit=FEE_LIMIT), NOTHING_LISTED, xpaid())
    assert isinstance(outcome, Paid)
    assert (PREIMAGE, Amount.msats(7)) == (outcome.preimage.reveal(), outcome.fee)
    assert [("POST", f"https://cln.test:3010/v1/{method}") for method in ("listpays", "xpay")] == [
        (call.method, call.url) for call in calls
    ]
    assert {"payment_hash": PAYMENT_HASH.hex()} == json.loads(calls[0].body)
    assert {"invstring": invoice.text, "maxfee": 10_000, "retry_for": 30} == json.loads(calls[1].body)
    assert timedelta(seconds=30) < (calls[1].timeout or timedelta(0))
    assert calls[0].headers is not None
    assert f"rune: {BUYERS_RUNE}" in calls[0].headers.reveal().splitlines()


def test_a_socket_is_asked_over_its_line_without_a_rune(invoice: Invoice) -> None:
    node = Cln.from_url("cln+unix:///home/a%20b/lightning-rpc")
    _, calls = tell(node.lookup_payment(PAYMENT_HASH), NOTHING_LISTED)
    assert "unix:///rpc/listpays" == calls[0].url
    assert Line(socket="/home/a b/lightning-rpc") == calls[0].line
    assert calls[0].headers is None


# what proves a payment


@pytest.mark.parametrize(
    "preimage", ["", "00" * 32, PREIMAGE.hex()[:-2], "zz" * 32, PAYMENT_HASH.hex(), None, 7, [PREIMAGE.hex()]]
)
def test_anything_but_the_preimage_of_the_hash_is_unresolved(node: Cln, invoice: Invoice, preimage: object) -> None:
    assert isinstance(pay(node, invoice, NOTHING_LISTED, xpaid(payment_preimage=preimage)), Unresolved)


@pytest.mark.parametrize(
    "reply",
    [
        NO_REPLY,
        HTML,
        said(503),
        said(429, message="slow down"),
        HttpReply(status=201, body=b""),
        HttpReply(status=200, body=b"<html>"),
        HttpReply(status=200, body=b"[]"),
        HttpReply(status=200, body=b"\xff\xfe"),
        HttpReply(status=200, body=b"[" * 100_000),
        HttpReply(status=302),
        said(500, code="205", message="no route"),
        said(500, code=True),
        said(500, error="205"),
    ],
)
def test_what_is_not_clear_is_unresolved_and_not_asked_further(node: Cln, invoice: Invoice, reply: HttpReply) -> None:
    assert isinstance(pay(node, invoice, NOTHING_LISTED, reply), Unresolved)


def test_a_connection_that_was_refused_is_failed(node: Cln, invoice: Invoice) -> None:
    assert Failed(reason="cln did not answer (connection refused)") == pay(node, invoice, NO_CONNECTION)
    assert isinstance(pay(node, invoice, NOTHING_LISTED, NO_CONNECTION), Failed)


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (NOT_PERMITTED, Failed),
        (said(403), Failed),
        (NO_REPLY, Unresolved),
        (HTML, Unresolved),
        (said(), Unresolved),
        (said(pays=[row("pending")]), Unresolved),
        (said(pays=[proven()]), Paid),
        (said(pays=[row("complete", preimage="00" * 32)]), Unresolved),
    ],
)
def test_what_can_not_be_looked_up_or_is_known_is_not_asked_to_be_paid(
    node: Cln, invoice: Invoice, first: HttpReply, kind: type
) -> None:
    assert isinstance(pay(node, invoice, first), kind)


def test_what_has_failed_before_may_be_tried_again(node: Cln, invoice: Invoice) -> None:
    assert isinstance(pay(node, invoice, said(pays=[row("failed")]), xpaid()), Paid)


# when a refusal is believed


@pytest.mark.parametrize("code", [-32602, -32601, 203, 205, 206, 207, 209, 210, 1501, 1502, 1503])
@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (NOTHING_LISTED, Failed),
        (said(pays=[row("failed"), row("failed")]), Failed),
        (said(pays=[row("failed"), row("pending")]), Unresolved),
        (said(pays=[row("pending"), proven()]), Paid),
        (NO_REPLY, Unresolved),
        (NO_CONNECTION, Unresolved),
        (HTML, Unresolved),
    ],
)
def test_a_refusal_is_failed_only_when_the_look_up_agrees(
    node: Cln, invoice: Invoice, code: int, second: HttpReply, kind: type
) -> None:
    assert isinstance(pay(node, invoice, NOTHING_LISTED, refused(code), second), kind)


@pytest.mark.parametrize("code", [-1, -4, -32603, 200, 201, 219, 7, 10**30])
def test_what_may_mean_anything_is_not_failed_when_nothing_is_listed(node: Cln, invoice: Invoice, code: int) -> None:
    assert isinstance(pay(node, invoice, NOTHING_LISTED, refused(code), NOTHING_LISTED), Unresolved)
    failed = said(pays=[row("failed")])
    assert isinstance(pay(node, invoice, NOTHING_LISTED, refused(code), failed), Failed)


def test_paid_before_and_forgotten_is_known(node: Cln, invoice: Invoice) -> None:
    outcome = pay(node, invoice, NOTHING_LISTED, refused(219, "Already paid"), NOTHING_LISTED)
    assert Unresolved(reason="cln says that it paid before, and has forgotten the proof") == outcome


@pytest.mark.parametrize(
    "error",
    [
        refused(205, "Failed:\n  no  route"),
        said(500, error={"code": 205, "message": "Failed: no route"}),
        said(400, code=205, message="Failed: no route", data={}),
    ],
)
def test_a_failed_payment_carries_the_reason_of_the_node_in_one_line(
    node: Cln, invoice: Invoice, error: HttpReply
) -> None:
    assert Failed(reason="cln: Failed: no route") == pay(node, invoice, NOTHING_LISTED, error, NOTHING_LISTED)


def test_what_the_node_quotes_is_not_shown(node: Cln, invoice: Invoice) -> None:
    error = refused(-32602, f"rune: should be a rune: invalid token '{BUYERS_RUNE}'")
    outcome = pay(node, invoice, NOTHING_LISTED, error, NOTHING_LISTED)
    assert Failed(reason="cln: rune: should be a rune: invalid token") == outcome


# looking up a payment


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (NOTHING_LISTED, Unresolved(reason="cln has never heard of this payment", known=False)),
        (said(pays=[row("pending")]), Unresolved(reason="the payment is in flight")),
        (said(pays=[row("failed"), row("pending")]), Unresolved(reason="the payment is in flight")),
        (said(pays=[row("failed"), row(7)]), Unresolved(reason="the payment is in flight")),
        (said(pays=[row("failed")]), Failed(reason="cln says that the payment failed")),
        (
            said(pays=[row("failed"), row("complete", preimage="00" * 32)]),
            Unresolved(reason="cln says that it paid and does not prove it"),
        ),
        (NO_CONNECTION, Unresolved(reason="cln did not answer (connection refused)")),
        (said(503), Unresolved(reason="cln answered 503")),
        (refused(-1, "busy"), Unresolved(reason="cln: busy")),
        (said(pays=[1]), Unresolved(reason="cln answered with something that can't be read")),
        (
            said(pays=[row("failed"), row("failed", payment_hash=NOBODYS_HASH.hex())]),
            Unresolved(reason="cln tells something else than it was asked"),
        ),
    ],
)
def test_a_look_up_says_what_became_of_a_payment(node: Cln, reply: HttpReply, expected: object) -> None:
    outcome, _ = tell(node.lookup_payment(PAYMENT_HASH), reply)
    assert expected == outcome


@pytest.mark.parametrize(
    ("sent", "fee"),
    [(21_004, 4), ("21004msat", 4), (21_000, 0), (20_000, 0), (None, 0), (True, 0), (-1, 0), (10**30, 0), ("x", 0)],
)
def test_the_fee_is_what_was_sent_beyond_what_arrived(node: Cln, sent: object, fee: int) -> None:
    outcome, _ = tell(node.lookup_payment(PAYMENT_HASH), said(pays=[{**proven(), "amount_sent_msat": sent}]))
    assert isinstance(outcome, Paid)
    assert Amount.msats(fee) == outcome.fee


def test_a_look_up_that_the_rune_does_not_allow_is_an_error_of_the_wallet(node: Cln) -> None:
    with pytest.raises(WalletError, match="the rune does not allow listpays") as caught:
        tell(node.lookup_payment(PAYMENT_HASH), NOT_PERMITTED)
    assert BUYERS_RUNE not in str(caught.value)


# being paid


def listed(**changes: Any) -> HttpReply:
    return said(invoices=[{"payment_hash": PAYMENT_HASH.hex(), "payment_preimage": PREIMAGE.hex(), **changes}])


@pytest.mark.parametrize(
    ("reply", "state", "sats"),
    [
        (listed(status="unpaid"), InvoiceState.OPEN, 0),
        (listed(status="unpaid", amount_received_msat=21_000), InvoiceState.OPEN, 0),
        (listed(status="expired"), InvoiceState.CANCELLED, 0),
        (listed(status="paid", amount_received_msat=21_000), InvoiceState.PAID, 21),
        (listed(status="paid", amount_received_msat="21000msat"), InvoiceState.PAID, 21),
        (said(invoices=[]), InvoiceState.UNKNOWN, 0),
    ],
)
def test_only_the_status_counts(node: Cln, reply: HttpReply, state: InvoiceState, sats: int) -> None:
    status, _ = tell(node.lookup_invoice(PAYMENT_HASH), reply)
    assert InvoiceStatus(state=state, received=Amount.sats(sats)) == status


@pytest.mark.parametrize(
    "reply",
    [
        NO_CONNECTION,
        NO_REPLY,
        HTML,
        NOT_PERMITTED,
        said(),
        said(invoices={}),
        HttpReply(status=200, body=b"OK"),
        listed(status="settled"),
        listed(status=True),
        listed(status="paid"),
        listed(status="paid", amount_received_msat=-21),
        listed(status="paid", amount_received_msat=10**30),
        listed(status="paid", amount_received_msat=True),
        listed(status="paid", amount_received_msat=21_000, payment_hash=NOBODYS_HASH.hex()),
        said(invoices=[row("unpaid"), row("unpaid")]),
    ],
)
def test_a_node_that_answers_nonsense_is_unavailable(node: Cln, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(node.lookup_invoice(PAYMENT_HASH), reply)


def test_an_invoice_is_asked_for_in_millisatoshis_and_seconds_under_a_label_of_its_own(
    node: Cln, invoice: Invoice
) -> None:
    reply = said(bolt11=invoice.text, payment_hash=PAYMENT_HASH.hex(), warning_capacity="little")
    labels = set()
    for _ in range(2):
        made, calls = tell(node.create_invoice(PRICE, description="é", expires_in=TEN_MINUTES), reply)
        asked = json.loads(calls[0].body)
        labels.add(asked.pop("label"))
        assert invoice == made
        assert {"amount_msat": 21_000, "description": "é", "expiry": 600} == asked
        assert b"\\u" not in calls[0].body
    assert 2 == len(labels)
    assert Network.REGTEST is node.network


@pytest.mark.parametrize("case", range(7))
def test_an_invoice_that_is_not_what_was_asked_for_is_not_given_out(node: Cln, invoice: Invoice, case: int) -> None:
    good = {"bolt11": invoice.text, "payment_hash": PAYMENT_HASH.hex()}
    reply = [
        said(**{**good, "payment_hash": NOBODYS_HASH.hex()}),
        said(**{**good, "bolt11": invoice.text[:-1]}),
        said(payment_hash=PAYMENT_HASH.hex()),
        NO_REPLY,
        refused(900, "Duplicate label"),
        NOT_PERMITTED,
        said(500, **good),
    ][case]
    with pytest.raises(NodeUnavailable):
        tell(node.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES), reply)


def test_an_invoice_for_another_amount_is_not_given_out(node: Cln, invoice: Invoice) -> None:
    reply = said(bolt11=invoice.text, payment_hash=PAYMENT_HASH.hex())
    with pytest.raises(NodeUnavailable):
        tell(node.create_invoice(Amount.msats(21_001), description="", expires_in=TEN_MINUTES), reply)


def test_nothing_is_refused_before_asking(node: Cln) -> None:
    with pytest.raises(WalletError):
        next(node.create_invoice(NOTHING, description="", expires_in=TEN_MINUTES))


# whether it can spend


@pytest.mark.parametrize(
    "reply",
    [
        NO_CONNECTION,
        NO_REPLY,
        HTML,
        said(),
        refused(-1),
        refused(-32602, "rune: should be a rune"),
        refused(1502, "Not permitted: time is greater than 7", 401),
        said(403),
    ],
)
def test_a_node_that_does_not_say_whether_we_can_spend_is_not_guessed_at(node: Cln, reply: HttpReply) -> None:
    assert None is tell(node.spends(), *[reply] * 5)[0]


def test_one_method_that_pays_is_enough_to_spend(node: Cln) -> None:
    missing = refused(-32602, "missing required parameter: bolt11")
    assert tell(node.spends(), NOT_PERMITTED, missing)[0] is True


def test_a_method_that_is_not_there_spends_nothing(node: Cln) -> None:
    no_xpay = refused(-32601, "Unknown command 'xpay'", 404)
    assert tell(node.spends(), no_xpay, *[NOT_PERMITTED] * 4)[0] is False
    assert tell(node.spends(), *[no_xpay] * 5)[0] is None


# --- the stream -------------------------------------------------------------------------------------------------------

HASHES = [hashlib.sha256(bytes([number])).digest() for number in range(3)]
TIMED_OUT = refused(904, "Timed out")


def came(index: Any, payment_hash: bytes = PAYMENT_HASH, **changes: Any) -> HttpReply:
    members = {"payment_hash": payment_hash.hex(), "status": "paid", "pay_index": index, "paid_at": 1_000}
    return said(**{**members, "amount_received_msat": 21_000, **changes})


def settled(*hashes: bytes) -> tuple[Settlement, ...]:
    return tuple(Settlement(payment_hash=each, received=PRICE) for each in hashes)


def test_settlements_are_asked_for_one_by_one_and_only_the_first_is_waited_for(node: Cln) -> None:
    replies = [came(6, HASHES[0]), came(9, HASHES[1]), TIMED_OUT]
    told, calls = tell(node.settlements("5", wait=timedelta(seconds=20)), *replies)
    assert Settlements(settled=settled(*HASHES[:2]), cursor="9") == told
    asked = [json.loads(call.body) for call in calls]
    assert [(5, 20), (6, 0), (9, 0)] == [(each["lastpay_index"], each["timeout"]) for each in asked]
    assert [30, 10, 10] == [call.timeout.total_seconds() for call in calls if call.timeout is not None]


def test_a_node_that_was_not_paid_is_quiet(node: Cln) -> None:
    for quiet in (TIMED_OUT, said(500, error={"code": 904, "message": "Timed out"})):
        assert Settlements(settled=(), cursor="5") == tell(node.settlements("5", wait=timedelta(0)), quiet)[0]


def test_what_was_told_before_the_node_failed_is_told(node: Cln) -> None:
    too_often = refused(1502, "Not permitted: Rate of 60 per minute exceeded", 401)
    told, _ = tell(node.settlements("5", wait=timedelta(0)), came(6), too_often)
    assert Settlements(settled=settled(PAYMENT_HASH), cursor="6", more=True) == told


def test_a_cursor_that_can_not_be_read_begins_at_the_beginning(node: Cln) -> None:
    _, calls = tell(node.settlements("seller:7", wait=timedelta(0)), TIMED_OUT)
    assert 0 == json.loads(calls[0].body)["lastpay_index"]


@pytest.mark.parametrize(
    "reply",
    [
        NO_CONNECTION,
        NO_REPLY,
        HTML,
        NOT_PERMITTED,
        refused(-1),
        said(),
        came(5),
        came(True),
        came("6"),
        came(6, status="unpaid"),
        came(6, payment_hash=b""),
        came(6, amount_received_msat=None),
    ],
)
def test_settlements_that_can_not_be_had_are_not_none(node: Cln, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(node.settlements("5", wait=timedelta(0)), reply)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("many", [0, 1, 2, 3, 7, 100])
def test_a_cursor_at_an_instant_is_found_in_few_calls(node: Cln, many: int, gaps: bool) -> None:
    paid = {(3 * index if gaps else index): 1_000 + index for index in range(1, many + 1)}
    for before in range(many + 2):
        asked = []

        def answer(call: HttpCall, asked: list[int] = asked) -> HttpReply:
            asked.append(json.loads(call.body)["lastpay_index"])
            following = min((index for index in paid if index > asked[-1]), default=None)
            return TIMED_OUT if following is None else came(following, paid_at=paid[following])

        expected = max((index for index, at in paid.items() if at < 1_000 + before), default=0)
        assert str(expected) == carry(node.cursor_at(datetime.fromtimestamp(1_000.9 + before, UTC)), answer)
        assert len(asked) <= 20


# --- the balance, names and URLs --------------------------------------------------------------------------------------


def test_the_balance_counts_open_channels_only(node: Cln) -> None:
    states = ["CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE", "CHANNELD_AWAITING_LOCKIN", "ONCHAIN", None]
    channels = [{"state": state, "our_amount_msat": 10**number} for number, state in enumerate(states)]
    channels.append({"state": "CHANNELD_NORMAL", "our_amount_msat": "500msat"})
    assert Amount.msats(511) == tell(node.balance(), said(outputs=[], channels=channels))[0]


@pytest.mark.parametrize(
    "reply",
    [NO_CONNECTION, NOT_PERMITTED, said(), said(channels=[7]), said(channels=[{"state": "CHANNELD_NORMAL"}])],
)
def test_a_balance_that_is_not_told_is_an_error_in_one_line(node: Cln, reply: HttpReply) -> None:
    with pytest.raises(WalletError, match=r": cln at cln\.test:3010: cln") as caught:
        tell(node.balance(), reply)
    assert "\n" not in str(caught.value)
    assert BUYERS_RUNE not in str(caught.value)


def test_what_it_can_do_is_declared(node: Cln) -> None:
    beyond = {Capability.FEE_LIMIT, Capability.LOOKUP, Capability.MSAT, Capability.PAYS_ONCE, Capability.STREAM}
    assert beyond == node.capabilities


def test_neither_name_nor_call_shows_the_rune(node: Cln) -> None:
    for shown in (node.name, repr(next(node.balance())), repr(vars(node))):
        assert BUYERS_RUNE not in shown
    assert "cln at cln.test:3010" == node.name
    assert "cln at /run/lightning-rpc" == Cln.from_url("cln+unix:///run/lightning-rpc").name


def test_a_rune_and_a_certificate_may_stand_in_files(tmp_path: Path) -> None:
    (tmp_path / "rune").write_text(f"{BUYERS_RUNE}\n")
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    node = Cln.from_url(f"cln+https://[::1]?rune={tmp_path}/rune&cert={tmp_path}/ca.pem")
    call = next(node.balance())
    assert "https://[::1]:3010/v1/listfunds" == call.url
    assert Line(certificate=CERTIFICATE) == call.line
    assert call.headers is not None
    assert f"rune: {BUYERS_RUNE}" in call.headers.reveal()


@pytest.mark.parametrize(
    "url",
    [
        "cln+https://h",
        "cln+https://h?rune=hunter2",
        "cln+https://h?rune=" + "é" * 40,
        "cln+https://h?rune=/no/such/file",
        "cln+https://?rune=" + NO_RUNE,
        "cln+https://h?macaroon=hunter2&rune=" + NO_RUNE,
        "cln+https://hunter2@h?rune=" + NO_RUNE,
        "cln+http://h?rune=" + NO_RUNE,
        "cln+unix://h/lightning-rpc",
        "cln+unix:lightning-rpc",
        "cln+unix:///run/lightning-rpc?rune=hunter2",
        "cln+unix:///run/light%00ning-rpc",
        "cln+unix:",
    ],
)
def test_a_url_that_is_no_node_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(WalletError) as caught:
        Cln.from_url(url)
    assert "hunter2" not in str(caught.value)
    assert NO_RUNE not in str(caught.value)
