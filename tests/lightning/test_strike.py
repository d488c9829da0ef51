from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

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
from farebox.lightning.sandbox import Sandbox
from farebox.lightning.strike import Strike
from farebox.testing.backend_faults import ReceiverFaultSuite, WalletFaultSuite
from farebox.testing.backends import (
    FEE_LIMIT,
    NOBODYS_HASH,
    PRICE,
    TEN_MINUTES,
    ReceiverSuite,
    ReceiverWorld,
    WalletSuite,
    WalletWorld,
)
from farebox.testing.fake_strike import FakeStrike, Key
from farebox.testing.faked_world import FakedWorld
from farebox.testing.scripted import NO_CONNECTION, NO_REPLY, said, tell

T = TypeVar("T")

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
RECEIVING = frozenset({"partner.receive-request.create", "partner.receive-request.read"})


class StrikeWorld(FakedWorld):
    """The adapter against Strike's API in front of the sandbox, without a socket."""

    def __init__(self, sandbox: Sandbox, clock: Any) -> None:
        self.strike = FakeStrike({"sellers": Key(sandbox.seller, RECEIVING), "buyers": Key(sandbox.buyer)}, clock)
        super().__init__(
            sandbox,
            clock.forward,
            self.strike,
            receiver=Strike.open_receiver("strike+https://strike.test?key=sellers"),
            wallet=Strike.open_wallet("strike+https://strike.test?key=buyers"),
        )


class _Conformance:
    @pytest.fixture
    def world(self, sandbox: Sandbox, clock: Any) -> StrikeWorld:
        return StrikeWorld(sandbox, clock)


class TestReceiverFaults(_Conformance, ReceiverFaultSuite):
    pass


class TestWalletFaults(_Conformance, WalletFaultSuite):
    pass


class TestReceiver(_Conformance, ReceiverSuite):
    def test_an_expired_invoice_can_no_longer_be_paid(self, world: ReceiverWorld) -> None:
        """Strike does not say that its time is over; nor that it was paid."""
        made = world.receiver.create_invoice(PRICE, description="a test", expires_in=world.short)
        invoice = world.ask(made)
        world.pass_time(world.short)
        world.pay(invoice)
        found = world.ask(world.receiver.lookup_invoice(invoice.payment_hash))
        assert InvoiceStatus(state=InvoiceState.OPEN) == found

    def test_an_invoice_needs_no_description(self, world: StrikeWorld) -> None:
        made = world.ask(world.receiver.create_invoice(PRICE, description="", expires_in=TEN_MINUTES))
        assert PRICE == made.amount

    def test_a_description_is_cut_to_what_fits_into_an_invoice_too(self, world: StrikeWorld) -> None:
        made = world.ask(world.receiver.create_invoice(PRICE, description="屋" * 300, expires_in=TEN_MINUTES))
        assert "屋" * 213 == made.description


class TestWallet(_Conformance, WalletSuite):
    """Strike finds no payment by its hash: where the suite looks one up, it stays unresolved, and is not paid again."""

    def test_a_wallet_that_can_not_look_up_says_so(self, world: StrikeWorld) -> None:
        assert Capability.LOOKUP not in world.wallet.capabilities
        assert Capability.LOOKUP in world.receiver.capabilities

    def test_paying_twice_is_one_debit_and_the_same_proof(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        assert isinstance(_pay(world, invoice), Paid)
        before = world.ask(world.wallet.balance())
        _assert_unresolved(_pay(world, invoice))
        assert before == world.ask(world.wallet.balance())
        assert world.received(invoice) == PRICE

    def test_a_payment_is_found_again_with_its_proof_and_fee(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        _pay(world, invoice)
        _assert_unresolved(world.ask(world.wallet.lookup_payment(invoice.payment_hash)))

    def test_a_payment_that_was_never_made_is_unknown_and_not_failed(self, world: WalletWorld) -> None:
        _assert_unresolved(world.ask(world.wallet.lookup_payment(NOBODYS_HASH)))

    def test_a_failed_payment_is_found_as_failed(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.fail_next()
        assert isinstance(_pay(world, invoice), Failed)
        _assert_unresolved(world.ask(world.wallet.lookup_payment(invoice.payment_hash)))

    def test_a_lost_reply_is_unresolved_and_the_payment_is_found_afterwards(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        before = world.ask(world.wallet.balance())
        world.lose_next_reply()
        for outcome in (_pay(world, invoice), _pay(world, invoice)):
            _assert_unresolved(outcome)
        _assert_unresolved(world.ask(world.wallet.lookup_payment(invoice.payment_hash)))
        assert before - PRICE == world.ask(world.wallet.balance())

    def test_a_payment_in_flight_is_unresolved_and_known_until_it_arrives(self, world: WalletWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        world.hold_next()
        _assert_unresolved(_pay(world, invoice))
        assert world.received(invoice) == NOTHING
        world.release(invoice)
        _assert_unresolved(world.ask(world.wallet.lookup_payment(invoice.payment_hash)))
        assert world.received(invoice) == PRICE

    def test_a_fee_over_the_limit_is_known_before_anything_is_executed(self, world: StrikeWorld) -> None:
        world.set_fee(FEE_LIMIT + Amount.msats(1))
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        outcome = world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))
        assert isinstance(outcome, Failed)
        assert "10001 msat is over the limit of 10 sat" in outcome.reason
        assert world.strike.executed == 0


def _pay(world: WalletWorld, invoice: Invoice) -> object:
    return world.ask(world.wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT))


def _assert_unresolved(outcome: object) -> None:
    assert isinstance(outcome, Unresolved)
    assert outcome.known
    assert "look at the history of the account" in outcome.reason


@pytest.mark.parametrize(("key", "spends"), [("sellers", False), ("buyers", True), ("nobodys", False)])
def test_a_key_is_known_to_spend_or_not_without_moving_anything(
    sandbox: Sandbox, clock: Any, key: str, spends: bool
) -> None:
    world = StrikeWorld(sandbox, clock)
    node = Strike.open_receiver(f"strike+https://strike.test?key={key}")
    assert isinstance(node, SpendProbe)
    assert spends is world.ask(node.spends())
    assert world.strike.executed == 0


def test_the_key_of_a_shop_does_not_pay(sandbox: Sandbox, clock: Any) -> None:
    world = StrikeWorld(sandbox, clock)
    world.wallet = Strike.open_wallet("strike+https://strike.test?key=sellers")
    outcome = _pay(world, world.invoice(PRICE, expires_in=TEN_MINUTES))
    assert Failed(reason="the key lacks a scope at Strike for this") == outcome


# --- scripted replies -------------------------------------------------------------------------------------------------


def refused(code: str, status: int = 422) -> HttpReply:
    return said(status, data={"status": status, "code": code, "message": "hunter2"})


def btc(amount: str, currency: str = "BTC") -> dict[str, str]:
    return {"amount": amount, "currency": currency}


def quoted(**changes: Any) -> HttpReply:
    return said(**{"paymentQuoteId": "q-1", "totalAmount": btc("0.00000024"), **changes})


def executed(**changes: Any) -> HttpReply:
    lightning = {"preImage": PREIMAGE.hex(), "networkFee": btc("0.00000001")}
    return said(**{"paymentId": "p-1", "state": "COMPLETED", "lightning": lightning, **changes})


def items(*rows: object) -> HttpReply:
    return said(items=list(rows), count=len(rows))


def receive(**changes: Any) -> dict[str, Any]:
    return {
        "state": "COMPLETED",
        "amountReceived": btc("0.00000021"),
        "lightning": {"paymentHash": PAYMENT_HASH.hex(), "preimage": PREIMAGE.hex()},
        **changes,
    }


REQUEST = {"receiveRequestId": "r-1", "bolt11": {"paymentHash": PAYMENT_HASH.hex(), "invoice": "lnbc1"}}
NONSENSE = [
    HttpReply(status=200),
    HttpReply(status=200, body=b"<html>"),
    HttpReply(status=200, body=b"[]"),
    HttpReply(status=200, body=b"[" * 100_000),
    HttpReply(status=200, body=b"\xff\xfe"),
    HttpReply(status=302),
    said(500),
    refused("INTERNAL_SERVER_ERROR", 500),
    NO_REPLY,
]


@pytest.fixture
def shop() -> Strike:
    return Strike.open_receiver("strike+https://strike.test?key=hunter2")


@pytest.fixture
def wallet() -> Strike:
    return Strike.open_wallet("strike+https://strike.test?key=hunter2")


@pytest.fixture
def invoice(sandbox: Sandbox) -> Invoice:
    """An invoice whose preimage this file knows."""
    return sandbox.seller.issue_held(PRICE, payment_hash=PAYMENT_HASH, description="a test", expires_in=TEN_MINUTES)


def test_a_quote_is_made_and_then_executed(wallet: Strike, invoice: Invoice) -> None:
    outcome, calls = tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(), executed())
    assert isinstance(outcome, Paid)
    assert outcome.preimage.reveal() == PREIMAGE
    assert outcome.fee == Amount.sats(3)
    assert [(call.method, call.url) for call in calls] == [
        ("POST", "https://strike.test/v1/payment-quotes/lightning"),
        ("PATCH", "https://strike.test/v1/payment-quotes/q-1/execute"),
    ]
    assert json.loads(calls[0].body) == {"lnInvoice": invoice.text, "sourceCurrency": "BTC"}
    assert calls[0].headers is not None
    assert "authorization: Bearer hunter2" in calls[0].headers.reveal().splitlines()


def test_what_was_really_taken_is_the_fee(wallet: Strike, invoice: Invoice) -> None:
    reply = executed(totalAmount=btc("0.000000215"))
    outcome, _ = tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(), reply)
    assert isinstance(outcome, Paid)
    assert outcome.fee == Amount.msats(500)


# nothing is executed that is not cheap enough, or not understood


@pytest.mark.parametrize(
    "total",
    [
        btc("0.00000032"),
        btc("0.00000031001"),
        btc("0.0000002"),
        btc("0.01", "USD"),
        btc("-0.00000022"),
        btc("2.4e-7"),
        btc("NaN"),
        btc("0.0000002400000001"),
        btc("99999999"),
        "0.00000024",
        None,
    ],
)
def test_a_quote_that_costs_too_much_or_does_not_tell_is_not_executed(
    wallet: Strike, invoice: Invoice, total: object
) -> None:
    outcome, calls = tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(totalAmount=total))
    assert isinstance(outcome, Failed)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "reply", [*NONSENSE, NO_CONNECTION, refused("BALANCE_TOO_LOW"), said(401), quoted(paymentQuoteId=None)]
)
def test_without_a_quote_nothing_was_paid(wallet: Strike, invoice: Invoice, reply: HttpReply) -> None:
    outcome, _ = tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), reply)
    assert isinstance(outcome, Failed)
    assert "hunter2" not in outcome.reason


@pytest.mark.parametrize(
    "code",
    [
        "DUPLICATE_PAYMENT_QUOTE",
        "LN_INVOICE_PROCESSED",
        "PAYMENT_PROCESSED",
        "PROCESSING_PAYMENT",
        "PROCESSING_CONFLICT",
        "INVALID_STATE_FOR_INVOICE_PAID",
    ],
)
def test_what_was_begun_before_is_unresolved(wallet: Strike, invoice: Invoice, code: str) -> None:
    _assert_unresolved(tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), refused(code))[0])
    _assert_unresolved(tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(), refused(code))[0])


def test_an_invoice_without_an_amount_or_for_another_chain_is_not_even_quoted(invoice: Invoice) -> None:
    wallet = Strike.open_wallet("strike+https://api.strike.me?key=hunter2")
    assert wallet.network is Network.MAINNET
    for refused_one in (invoice, replace(invoice, network=Network.MAINNET, amount=None)):
        outcome, calls = tell(wallet.pay_invoice(refused_one, fee_limit=FEE_LIMIT))
        assert isinstance(outcome, Failed)
        assert calls == []


# what executing says


@pytest.mark.parametrize("reply", [*NONSENSE, refused("RATE_LIMIT_EXCEEDED", 429), refused("NOT_KNOWN"), said(404)])
def test_what_is_not_clear_is_unresolved(wallet: Strike, invoice: Invoice, reply: HttpReply) -> None:
    _assert_unresolved(tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(), reply)[0])


@pytest.mark.parametrize(
    "reply",
    [
        NO_CONNECTION,
        refused("BALANCE_TOO_LOW"),
        refused("LN_ROUTE_NOT_FOUND"),
        refused("PAYMENT_QUOTE_EXPIRED"),
        refused("FORBIDDEN", 403),
        said(401),
        executed(state="FAILED", lightning=None),
    ],
)
def test_what_strike_says_for_good_is_failed(wallet: Strike, invoice: Invoice, reply: HttpReply) -> None:
    outcome, _ = tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(), reply)
    assert isinstance(outcome, Failed)
    assert "hunter2" not in outcome.reason


def test_a_refusal_with_the_status_of_an_outage_is_not_believed(wallet: Strike, invoice: Invoice) -> None:
    reply = refused("LN_ROUTE_NOT_FOUND", 503)
    _assert_unresolved(tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(), reply)[0])


PENDING = executed(state="PENDING", lightning=None)
UNPROVEN = executed(lightning=None)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (PENDING, PENDING, Unresolved),
        (PENDING, executed(), Paid),
        (PENDING, executed(state="FAILED"), Failed),
        (PENDING, executed(paymentId="p-2"), Unresolved),
        (PENDING, NO_REPLY, Unresolved),
        (PENDING, NO_CONNECTION, Unresolved),
        (PENDING, said(404), Unresolved),
        (PENDING, HttpReply(status=200, body=b"[]"), Unresolved),
        (UNPROVEN, executed(), Paid),
        (UNPROVEN, UNPROVEN, Unresolved),
        (UNPROVEN, executed(state="FAILED"), Unresolved),
        (executed(state=None), executed(), Paid),
        (executed(state=7), executed(state="LOST"), Unresolved),
    ],
)
def test_a_payment_without_proof_is_looked_at_once_by_its_id(
    wallet: Strike, invoice: Invoice, first: HttpReply, second: HttpReply, kind: type
) -> None:
    outcome, calls = tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(), first, second)
    assert isinstance(outcome, kind)
    assert ("GET", "https://strike.test/v1/payments/p-1") == (calls[2].method, calls[2].url)


@pytest.mark.parametrize("preimage", ["", "00" * 32, PREIMAGE.hex()[:-2], PAYMENT_HASH.hex(), None, 7])
def test_anything_but_the_preimage_of_the_hash_is_unresolved(
    wallet: Strike, invoice: Invoice, preimage: object
) -> None:
    reply = executed(lightning={"preImage": preimage}, paymentId=None)
    _assert_unresolved(tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(), reply)[0])


@pytest.mark.parametrize("name", ["..", "../x?y", "a/b", "\ud800", "a" * 65, "", 7])
def test_an_id_that_is_no_id_is_not_put_into_a_path(wallet: Strike, invoice: Invoice, name: object) -> None:
    outcome, _ = tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(paymentQuoteId=name))
    assert isinstance(outcome, Failed)
    replies = quoted(), executed(state="PENDING", paymentId=name)
    _assert_unresolved(tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), *replies)[0])


# being paid


def received(msats: int) -> InvoiceStatus:
    return InvoiceStatus(state=InvoiceState.PAID, received=Amount.msats(msats))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (receive(), received(21_000)),
        (receive(amountReceived=btc("0.00000021001")), received(21_001)),
        (receive(lightning=None), received(21_000)),
        (receive(amountReceived=btc("0.02", "USD"), amountCredited=btc("0.00000020")), received(20_000)),
    ],
)
def test_what_was_received_is_found_by_the_hash(shop: Strike, row: object, expected: InvoiceStatus) -> None:
    status, calls = tell(shop.lookup_invoice(PAYMENT_HASH), items(row))
    assert expected == status
    assert f"/v1/receive-requests/receives?$paymentHash={PAYMENT_HASH.hex()}&" in calls[0].url


@pytest.mark.parametrize(
    ("receives", "requests", "state"),
    [
        (items(), items(REQUEST), InvoiceState.OPEN),
        (items(receive(state="PENDING")), items(REQUEST), InvoiceState.OPEN),
        (items(receive(state="completed")), items(REQUEST), InvoiceState.OPEN),
        (items(), items(), InvoiceState.UNKNOWN),
    ],
)
def test_only_a_completed_receive_counts(
    shop: Strike, receives: HttpReply, requests: HttpReply, state: InvoiceState
) -> None:
    status, _ = tell(shop.lookup_invoice(PAYMENT_HASH), receives, requests)
    assert InvoiceStatus(state=state) == status


@pytest.mark.parametrize(
    "replies",
    [
        *[(each,) for each in NONSENSE],
        *[(items(), each) for each in NONSENSE],
        (NO_CONNECTION,),
        (said(401),),
        (said(404),),
        (items(7),),
        (said(items="none"),),
        (items(receive(amountReceived=btc("0.02", "USD"))),),
        (items(receive(amountReceived=btc("-0.00000021"))),),
        (items(receive(amountReceived=None)),),
        (items(receive(lightning={"paymentHash": NOBODYS_HASH.hex()})),),
        (items(), items({"bolt11": {"paymentHash": NOBODYS_HASH.hex()}})),
        (items(), items({"onchain": {}})),
    ],
)
def test_an_answer_that_is_nonsense_is_none(shop: Strike, replies: tuple[HttpReply, ...]) -> None:
    with pytest.raises(NodeUnavailable):
        tell(shop.lookup_invoice(PAYMENT_HASH), *replies)


def test_an_invoice_is_asked_for_in_bitcoin_that_stays_bitcoin(shop: Strike, invoice: Invoice) -> None:
    reply = said(201, receiveRequestId="r-1", bolt11={"invoice": invoice.text})
    made, calls = tell(shop.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES), reply)
    assert invoice == made
    assert shop.network is Network.REGTEST
    assert json.loads(calls[0].body) == {
        "bolt11": {
            "amount": {"amount": "0.00000021", "currency": "BTC"},
            "description": "a test",
            "expiryInSeconds": 600,
        },
        "targetCurrency": "BTC",
    }


@pytest.mark.parametrize("reply", [*NONSENSE, NO_CONNECTION, said(), said(bolt11={"invoice": "lnbc1"}), said(bolt11=7)])
def test_an_invoice_that_can_not_be_read_is_not_given_out(shop: Strike, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(shop.create_invoice(PRICE, description="", expires_in=TEN_MINUTES), reply)


def test_another_invoice_than_was_asked_for_is_not_given_out(invoice: Invoice) -> None:
    reply = said(201, bolt11={"invoice": invoice.text})
    for host, amount in (("strike.test", Amount.sats(22)), ("api.strike.me", PRICE)):
        shop = Strike.open_receiver(f"strike+https://{host}?key=k")
        with pytest.raises(NodeUnavailable):
            tell(shop.create_invoice(amount, description="", expires_in=TEN_MINUTES), reply)


@pytest.mark.parametrize("amount", [Amount.msats(1_500), NOTHING])
def test_what_is_no_whole_satoshi_is_refused_before_asking(shop: Strike, amount: Amount) -> None:
    with pytest.raises(WalletError):
        next(shop.create_invoice(amount, description="", expires_in=TEN_MINUTES))


# keys, balances and URLs


@pytest.mark.parametrize(
    "reply", [NO_CONNECTION, NO_REPLY, said(404), said(200), said(500), refused("INVALID_DATA", 400)]
)
def test_whether_a_key_can_spend_is_not_guessed_at(shop: Strike, reply: HttpReply) -> None:
    told, calls = tell(shop.spends(), reply)
    assert told is None
    assert calls[0].body == b""


def test_the_balance_is_what_is_available_in_bitcoin(wallet: Strike) -> None:
    rows = [{"currency": "USD", "available": "5"}, {"currency": "BTC", "available": "1.5", "current": "2"}]
    assert Amount.sats(150_000_000) == tell(wallet.balance(), HttpReply(status=200, body=json.dumps(rows).encode()))[0]
    assert NOTHING == tell(wallet.balance(), HttpReply(status=200, body=b"[]"))[0]


@pytest.mark.parametrize(
    "reply",
    [
        NO_REPLY,
        said(),
        said(401),
        HttpReply(status=200, body=b"[1]"),
        *[
            HttpReply(status=200, body=json.dumps([{"currency": "BTC", "available": each}]).encode())
            for each in (None, 5, "", "-1", "1e8", "1" * 5_000, "22000000", "0." + "1" * 5_000, "٣")
        ],
    ],
)
def test_a_balance_that_can_not_be_read_is_none(wallet: Strike, reply: HttpReply) -> None:
    with pytest.raises(WalletError) as caught:
        tell(wallet.balance(), reply)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_neither_name_nor_call_shows_the_key(wallet: Strike) -> None:
    assert wallet.name == "strike at strike.test"
    for shown in (repr(next(wallet.balance())), repr(vars(wallet))):
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "strike+https://api.strike.me",
        "strike+https://api.strike.me?key=",
        "strike+https://api.strike.me?key=hunter2&currency=BTC",
        "strike+https://:hunter2@api.strike.me?key=hunter2",
        "strike+https://api.strike.me?key=hunter2%0D%0Ax:y",
        "strike+https://api.strike.me?key=hünter2",
        "strike+http://api.strike.me?key=hunter2",
        "strike+https://?key=hunter2",
    ],
)
@pytest.mark.parametrize("opened", [Strike.open_receiver, Strike.open_wallet])
def test_a_url_that_is_no_account_is_refused_without_showing_it(opened: Callable[[str], Strike], url: str) -> None:
    with pytest.raises(WalletError, match=r"strike\+https://api\.strike\.me\?key=KEY") as caught:
        opened(url)
    assert "hunter2" not in str(caught.value)


def test_a_payment_is_waited_for_longer_than_an_answer(wallet: Strike, invoice: Invoice) -> None:
    _, calls = tell(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), quoted(), executed())
    assert [call.timeout for call in calls] == [timedelta(seconds=10), timedelta(seconds=90)]
