from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qs

import httpx
import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.conversation import WakeCall
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import (
    Conversation,
    Failed,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    Paid,
    SpendProbe,
    Unresolved,
)
from farebox.core.settlement import Settlement, Settlements
from farebox.http.converse import aconverse
from farebox.lightning.phoenixd import Phoenixd
from farebox.lightning.phoenixd_api import phoenixd_api
from farebox.lightning.sandbox import Sandbox
from farebox.testing.backends import NOBODYS_HASH, PRICE, TEN_MINUTES, ReceiverSuite, WalletSuite
from farebox.testing.sandbox_world import SandboxWorld
from farebox.testing.scripted import NO_CONNECTION, NO_REPLY, said, tell
from farebox.testing.settlement_streams import StreamSuite

T = TypeVar("T")

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
GETINFO = HttpReply(status=200, body=b'{"nodeId":"02","channels":[],"chain":"regtest","version":"0.6"}')
NOT_FOUND = HttpReply(status=404, body=b"Not found")


class PhoenixdWorld(SandboxWorld):
    """The adapter against phoenixd's API in front of the sandbox, without a socket."""

    def __init__(self, sandbox: Sandbox, forward: Callable[[timedelta], None]) -> None:
        super().__init__(sandbox, forward)
        self.receiver = Phoenixd.from_url("phoenixd+http://:seller's@phoenixd.test:9740")
        self.wallet = Phoenixd.from_url("phoenixd+http://:buyer's@phoenixd.test:9740")
        app = phoenixd_api(sandbox, {"seller's": "seller", "buyer's": "buyer"})
        self._transport: httpx.AsyncBaseTransport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def ask(self, conversation: Conversation[T]) -> T:
        async def asked() -> T:
            async with httpx.AsyncClient(transport=self._transport) as client:
                return await aconverse(conversation, client)

        return asyncio.run(asked())

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        def refuse(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused", request=request)

        reached, self._transport = self._transport, httpx.MockTransport(refuse)
        yield
        self._transport = reached


@pytest.mark.parametrize(("password", "spends"), [("seller's", False), ("buyer's", True), ("nobody's", False)])
def test_a_password_is_known_to_spend_or_not_without_moving_anything(
    sandbox: Sandbox, clock: Any, password: str, spends: bool
) -> None:
    before = sandbox.buyer.funds(), sandbox.seller.funds()
    node = Phoenixd.from_url(f"phoenixd+http://:{password}@phoenixd.test:9740")
    assert isinstance(node, SpendProbe)
    assert spends is PhoenixdWorld(sandbox, clock.forward).ask(node.spends())
    assert before == (sandbox.buyer.funds(), sandbox.seller.funds())


@pytest.mark.parametrize("reply", [NO_CONNECTION, NO_REPLY, NOT_FOUND, HttpReply(status=200), HttpReply(status=500)])
def test_a_node_that_does_not_say_whether_we_can_spend_is_not_guessed_at(reply: HttpReply) -> None:
    asked = Phoenixd.from_url("phoenixd+http://:p@phoenixd.test").spends()
    assert next(asked).body == b""
    with pytest.raises(StopIteration) as told:
        asked.send(reply)
    assert told.value.value is None


class _Conformance:
    @pytest.fixture
    def world(self, sandbox: Sandbox, clock: Any) -> PhoenixdWorld:
        return PhoenixdWorld(sandbox, clock.forward)


class TestStream(_Conformance, StreamSuite):
    pass


class TestReceiver(_Conformance, ReceiverSuite):
    def test_a_node_that_breaks_off_is_unavailable(self, world: PhoenixdWorld) -> None:
        with world.sandbox.seller.out_of_reach(), pytest.raises(NodeUnavailable):
            world.ask(world.receiver.lookup_invoice(NOBODYS_HASH))


class TestWallet(_Conformance, WalletSuite):
    def test_the_password_of_the_seller_does_not_pay(self, world: PhoenixdWorld) -> None:
        invoice = world.invoice(PRICE, expires_in=TEN_MINUTES)
        outcome = world.ask(world.receiver.pay_invoice(invoice, fee_limit=NOTHING))
        assert isinstance(outcome, Failed)
        assert "http-password" in outcome.reason


# --- scripted replies -------------------------------------------------------------------------------------------------


@pytest.fixture
def node() -> Phoenixd:
    return Phoenixd.from_url("phoenixd+http://:hunter2@127.0.0.1:9740")


@pytest.fixture
def invoice(sandbox: Sandbox) -> Invoice:
    """An invoice whose preimage this file knows."""
    return sandbox.seller.issue_held(PRICE, payment_hash=PAYMENT_HASH, description="a test", expires_in=TEN_MINUTES)


def paid(**changes: Any) -> HttpReply:
    members = {"recipientAmountSat": 21, "routingFeeSat": 4, "paymentHash": PAYMENT_HASH.hex()}
    return said(**{**members, "paymentPreimage": PREIMAGE.hex(), **changes})


def outgoing(**changes: Any) -> HttpReply:
    members = {"paymentHash": PAYMENT_HASH.hex(), "isPaid": False, "sent": 21, "fees": 0, "createdAt": 1}
    return said(**{**members, **changes})


def incoming(**changes: Any) -> HttpReply:
    members = {"paymentHash": PAYMENT_HASH.hex(), "preimage": PREIMAGE.hex(), "isPaid": False, "receivedSat": 0}
    return said(**{**members, **changes})


def received(sats: int) -> InvoiceStatus:
    return InvoiceStatus(state=InvoiceState.PAID, received=Amount.sats(sats))


def test_the_node_is_asked_with_a_form_and_an_empty_user(node: Phoenixd, invoice: Invoice) -> None:
    _, calls = tell(node.pay_invoice(invoice, fee_limit=NOTHING), GETINFO, paid())
    assert [(call.method, call.url) for call in calls] == [
        ("GET", "http://127.0.0.1:9740/getinfo"),
        ("POST", "http://127.0.0.1:9740/payinvoice"),
    ]
    assert {"invoice": [invoice.text]} == parse_qs(calls[1].body.decode())
    assert calls[1].headers is not None
    lines = calls[1].headers.reveal().splitlines()
    assert f"authorization: Basic {base64.b64encode(b':hunter2').decode()}" in lines
    assert "content-type: application/x-www-form-urlencoded" in lines


def test_the_chain_is_asked_for_once(node: Phoenixd, invoice: Invoice) -> None:
    assert node.network is None
    tell(node.pay_invoice(invoice, fee_limit=NOTHING), GETINFO, paid())
    _, calls = tell(node.pay_invoice(invoice, fee_limit=NOTHING), paid())
    assert node.network is Network.REGTEST
    assert len(calls) == 1


@pytest.mark.parametrize("chain", ["mainnet", "testnet", "testnet3", "testnet4", "signet"])
def test_an_invoice_of_another_chain_is_not_even_sent(node: Phoenixd, invoice: Invoice, chain: str) -> None:
    outcome, calls = tell(node.pay_invoice(invoice, fee_limit=NOTHING), said(chain=chain))
    assert isinstance(outcome, Failed)
    assert len(calls) == 1


# what proves a payment


def test_a_preimage_of_the_hash_is_paid_with_the_routing_fee(node: Phoenixd, invoice: Invoice) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), GETINFO, paid())
    assert isinstance(outcome, Paid)
    assert outcome.preimage.reveal() == PREIMAGE
    assert outcome.fee == Amount.sats(4)


@pytest.mark.parametrize(
    "preimage", ["", "00" * 32, PREIMAGE.hex()[:-2], "zz" * 32, PAYMENT_HASH.hex(), None, 7, [PREIMAGE.hex()]]
)
def test_anything_but_the_preimage_of_the_hash_is_unresolved(
    node: Phoenixd, invoice: Invoice, preimage: object
) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), GETINFO, paid(paymentPreimage=preimage))
    assert isinstance(outcome, Unresolved)


@pytest.mark.parametrize(
    "reply",
    [
        NO_REPLY,
        said(500, paymentHash=PAYMENT_HASH.hex(), reason="no"),
        said(429, reason="slow down"),
        said(403),
        HttpReply(status=200, body=b""),
        HttpReply(status=200, body=b"<html>"),
        HttpReply(status=200, body=b"[]"),
        HttpReply(status=200, body=b"\xff\xfe"),
        HttpReply(status=200, body=b"[" * 100_000),
        HttpReply(status=302),
        said(),
        said(reason=""),
        said(reason=7),
    ],
)
def test_what_is_not_clear_is_unresolved(node: Phoenixd, invoice: Invoice, reply: HttpReply) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), GETINFO, reply)
    assert isinstance(outcome, Unresolved)


def test_a_connection_that_was_refused_is_failed(node: Phoenixd, invoice: Invoice) -> None:
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), GETINFO, NO_CONNECTION)
    assert isinstance(outcome, Failed)


@pytest.mark.parametrize("reply", [NO_CONNECTION, NO_REPLY, said(500), said(chain="moon"), said()])
def test_a_node_that_does_not_tell_its_chain_was_not_asked_to_pay(
    node: Phoenixd, invoice: Invoice, reply: HttpReply
) -> None:
    outcome, calls = tell(node.pay_invoice(invoice, fee_limit=NOTHING), reply)
    assert isinstance(outcome, Failed)
    assert len(calls) == 1


# when a reason is believed


@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (NOT_FOUND, Failed),
        (outgoing(completedAt=2), Failed),
        (outgoing(), Unresolved),
        (NO_REPLY, Unresolved),
        (NO_CONNECTION, Unresolved),
        (said(500), Unresolved),
        (outgoing(isPaid=True, completedAt=2), Unresolved),
        (outgoing(isPaid=True, completedAt=2, preimage=PREIMAGE.hex()), Paid),
    ],
)
def test_a_reason_is_failed_only_when_the_look_up_agrees(
    node: Phoenixd, invoice: Invoice, second: HttpReply, kind: type
) -> None:
    first = said(paymentHash=PAYMENT_HASH.hex(), reason="this invoice has already been paid")
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), GETINFO, first, second)
    assert isinstance(outcome, kind)


def test_a_failed_payment_carries_the_reason_of_the_node(node: Phoenixd, invoice: Invoice) -> None:
    first = said(paymentHash=PAYMENT_HASH.hex(), reason="not enough funds in wallet to afford payment")
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), GETINFO, first, NOT_FOUND)
    assert outcome == Failed(reason="not enough funds in wallet to afford payment")


@pytest.mark.parametrize(("second", "kind"), [(NOT_FOUND, Failed), (outgoing(), Unresolved)])
def test_a_request_that_the_node_could_not_read_is_looked_up_too(
    node: Phoenixd, invoice: Invoice, second: HttpReply, kind: type
) -> None:
    first = HttpReply(status=400, body=b"Request parameter invoice couldn't be parsed")
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), GETINFO, first, second)
    assert isinstance(outcome, kind)


# looking up a payment


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (NOT_FOUND, Unresolved(reason="phoenixd has never heard of this payment", known=False)),
        (outgoing(), Unresolved(reason="the payment is in flight")),
        (outgoing(completedAt=2), Failed(reason="phoenixd says that the payment failed")),
        (
            outgoing(isPaid=True, completedAt=2, preimage="00" * 32),
            Unresolved(reason="phoenixd says that it paid and does not prove it"),
        ),
        (NO_CONNECTION, Unresolved(reason="phoenixd did not answer (ConnectError)")),
        (
            outgoing(paymentHash=NOBODYS_HASH.hex(), completedAt=2),
            Unresolved(reason="phoenixd answered with something that can't be read"),
        ),
    ],
)
def test_a_look_up_says_what_became_of_a_payment(node: Phoenixd, reply: HttpReply, expected: object) -> None:
    outcome, _ = tell(node.lookup_payment(PAYMENT_HASH), reply)
    assert expected == outcome


def test_a_look_up_tells_the_fee_to_the_millisatoshi(node: Phoenixd) -> None:
    reply = outgoing(isPaid=True, completedAt=2, preimage=PREIMAGE.hex(), fees=4_084)
    outcome, calls = tell(node.lookup_payment(PAYMENT_HASH), reply)
    assert isinstance(outcome, Paid)
    assert outcome.fee == Amount.msats(4_084)
    assert calls[0].url == f"http://127.0.0.1:9740/payments/outgoingbyhash/{PAYMENT_HASH.hex()}"


# being paid


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (incoming(), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(receivedSat=21), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(isPaid="true", receivedSat=21), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(isExpired=True), InvoiceStatus(state=InvoiceState.CANCELLED)),
        (incoming(isPaid=True, receivedSat=21), received(21)),
        (incoming(isPaid=True, isExpired=True, receivedSat=9), received(9)),
        (NOT_FOUND, InvoiceStatus(state=InvoiceState.UNKNOWN)),
    ],
)
def test_only_is_paid_and_received_count(node: Phoenixd, reply: HttpReply, expected: InvoiceStatus) -> None:
    status, _ = tell(node.lookup_invoice(PAYMENT_HASH), reply)
    assert expected == status


@pytest.mark.parametrize(
    "reply",
    [
        NO_CONNECTION,
        NO_REPLY,
        said(500),
        said(401),
        HttpReply(status=200, body=b"OK"),
        incoming(paymentHash=NOBODYS_HASH.hex(), isPaid=True, receivedSat=21),
        incoming(isPaid=True, receivedSat=-21),
        incoming(isPaid=True, receivedSat=10**30),
        incoming(isPaid=True, receivedSat=True),
    ],
)
def test_a_node_that_answers_nonsense_is_unavailable(node: Phoenixd, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(node.lookup_invoice(PAYMENT_HASH), reply)


def test_an_invoice_is_asked_for_in_satoshis_and_seconds(node: Phoenixd, invoice: Invoice) -> None:
    reply = said(amountSat=21, paymentHash=PAYMENT_HASH.hex(), serialized=invoice.text)
    made, calls = tell(node.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES), GETINFO, reply)
    assert invoice == made
    assert parse_qs(calls[1].body.decode()) == {
        "description": ["a test"],
        "amountSat": ["21"],
        "expirySeconds": ["600"],
    }


def replies_to_create(invoice: Invoice) -> Sequence[tuple[HttpReply, ...]]:
    good = {"amountSat": 21, "paymentHash": PAYMENT_HASH.hex(), "serialized": invoice.text}
    return [
        (said(chain="mainnet"), said(**good)),
        (GETINFO, said(**{**good, "paymentHash": NOBODYS_HASH.hex()})),
        (GETINFO, said(**{**good, "serialized": invoice.text[:-1]})),
        (GETINFO, said(amountSat=21)),
        (GETINFO, NO_REPLY),
        (GETINFO, said(400)),
        (said(401),),
    ]


@pytest.mark.parametrize("case", range(7))
def test_an_invoice_that_is_not_what_was_asked_for_is_not_given_out(
    node: Phoenixd, invoice: Invoice, case: int
) -> None:
    with pytest.raises(NodeUnavailable):
        tell(
            node.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES), *replies_to_create(invoice)[case]
        )


def test_an_invoice_for_another_amount_is_not_given_out(node: Phoenixd, invoice: Invoice) -> None:
    reply = said(amountSat=21, paymentHash=PAYMENT_HASH.hex(), serialized=invoice.text)
    with pytest.raises(NodeUnavailable):
        tell(node.create_invoice(Amount.sats(22), description="", expires_in=TEN_MINUTES), GETINFO, reply)


@pytest.mark.parametrize("amount", [Amount.msats(1_500), NOTHING])
def test_what_is_no_whole_satoshi_is_refused_before_asking(node: Phoenixd, amount: Amount) -> None:
    with pytest.raises(WalletError):
        next(node.create_invoice(amount, description="", expires_in=TEN_MINUTES))


# passwords and URLs


def test_the_sandbox_says_that_it_can_be_paid(sandbox: Sandbox, clock: Any) -> None:
    facts = PhoenixdWorld(sandbox, clock.forward)
    inbound = facts.ask(facts.receiver.facts()).inbound
    assert inbound is not None
    assert inbound > NOTHING


def test_a_refused_password_does_not_send_a_seller_to_the_one_that_pays(node: Phoenixd) -> None:
    with pytest.raises(NodeUnavailable, match="`http-password-limited-access` for a shop"):
        tell(node.lookup_invoice(bytes(32)), said(401))


def test_a_refused_password_pays_nothing_for_certain(node: Phoenixd, invoice: Invoice) -> None:
    refused = HttpReply(status=401, body=b"Invalid authentication")
    outcome, _ = tell(node.pay_invoice(invoice, fee_limit=NOTHING), refused)
    assert isinstance(outcome, Failed)
    assert "refuses the password" in outcome.reason


@pytest.mark.parametrize("ask", ["balance", "lookup_payment"])
def test_a_refused_password_is_told_in_one_line_without_it(node: Phoenixd, ask: str) -> None:
    conversations = {
        "balance": lambda: node.balance(),
        "lookup_payment": lambda: node.lookup_payment(PAYMENT_HASH),
    }
    with pytest.raises(WalletError, match="refuses the password") as caught:
        tell(conversations[ask](), HttpReply(status=401, body=b"Invalid authentication"))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_balance_leaves_out_fee_credit(node: Phoenixd) -> None:
    balance, _ = tell(node.balance(), said(balanceSat=100, feeCreditSat=50))
    assert balance == Amount.sats(100)


def test_neither_name_nor_call_shows_the_password(node: Phoenixd) -> None:
    call = next(node.balance())
    assert node.name == "phoenixd at 127.0.0.1:9740"
    for shown in (repr(call), repr(vars(node)), node.name):
        assert "hunter2" not in shown
        assert base64.b64encode(b":hunter2").decode() not in shown


@pytest.mark.parametrize(
    ("url", "base_url"),
    [
        ("phoenixd+http://:p@127.0.0.1:9740", "http://127.0.0.1:9740"),
        ("phoenixd+https://phoenixd:p@node.example", "https://node.example"),
        ("phoenixd+http://:p@[::1]:9740/", "http://[::1]:9740"),
        ("phoenixd+https://:p@node.example/phoenixd/", "https://node.example/phoenixd"),
    ],
)
def test_a_url_says_where_the_node_is(url: str, base_url: str) -> None:
    assert next(Phoenixd.from_url(url).balance()).url == f"{base_url}/getbalance"


def test_a_password_may_be_percent_encoded() -> None:
    headers = next(Phoenixd.from_url("phoenixd+http://:a%40b%3Ac@h").balance()).headers
    assert headers is not None
    assert base64.b64encode(b":a@b:c").decode() in headers.reveal()


@pytest.mark.parametrize(
    "url",
    [
        "phoenixd+http://127.0.0.1:9740",
        "phoenixd+http://hunter2@127.0.0.1:9740",
        "phoenixd+http://:hunter2@",
        "phoenixd+http://:hunter2@h:port",
        "phoenixd+http://:hunter2@[::1",
        "phoenixd+http://:hunter2@h?x=1",
        "http://:hunter2@127.0.0.1:9740",
    ],
)
def test_a_url_that_is_no_node_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(WalletError, match=r"phoenixd\+http://:PASSWORD@HOST:PORT") as caught:
        Phoenixd.from_url(url)
    assert "hunter2" not in str(caught.value)


# --- the stream -------------------------------------------------------------------------------------------------------


def listed(*hashes: bytes, at: int = 1_000_000, **changes: Any) -> HttpReply:
    rows = [
        {"paymentHash": each.hex(), "isPaid": True, "receivedSat": 21, "completedAt": at + number, **changes}
        for number, each in enumerate(hashes)
    ]
    return HttpReply(status=200, body=json.dumps(rows).encode())


def settled(*hashes: bytes) -> tuple[Settlement, ...]:
    return tuple(Settlement(payment_hash=each, received=Amount.sats(21)) for each in hashes)


HASHES = [hashlib.sha256(bytes([number])).digest() for number in range(3)]


def test_settlements_are_listed_from_a_little_before_the_cursor_until_a_page_is_empty(node: Phoenixd) -> None:
    first, second = listed(HASHES[0], HASHES[1]), listed(HASHES[2], at=900_000)
    told, calls = tell(node.settlements("950000", wait=timedelta(0)), first, second, listed())
    assert Settlements(settled=settled(*HASHES), cursor="1000001") == told
    asked = [f"/payments/incoming?from=940000&limit=300&offset={offset}" for offset in (0, 300, 600)]
    assert asked == [call.url.removeprefix("http://127.0.0.1:9740") for call in calls]


def test_a_cursor_never_goes_back_and_one_that_can_not_be_read_begins_at_the_beginning(node: Phoenixd) -> None:
    told, _ = tell(node.settlements("2000000", wait=timedelta(0)), listed(HASHES[0]), listed())
    assert "2000000" == told.cursor
    _, calls = tell(node.settlements("seller:7", wait=timedelta(0)), listed())
    assert "from=0&" in calls[0].url


@pytest.mark.parametrize(
    "changes",
    [{"isPaid": False}, {"isPaid": 1}, {"paymentHash": "00"}, {"paymentHash": None}, {"receivedSat": None}],
)
def test_a_row_that_is_no_payment_to_us_is_passed_over(node: Phoenixd, changes: dict[str, Any]) -> None:
    told, _ = tell(node.settlements("5", wait=timedelta(0)), listed(HASHES[0], **changes), listed())
    assert Settlements(settled=(), cursor="5") == told


@pytest.mark.parametrize(
    "reply",
    [NO_CONNECTION, NO_REPLY, NOT_FOUND, said(500), said(), HttpReply(status=200, body=b"[1]"), HttpReply(status=200)],
)
def test_a_list_that_can_not_be_had_is_no_empty_one(node: Phoenixd, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(node.settlements("5", wait=timedelta(0)), reply)
    with pytest.raises(NodeUnavailable):
        tell(node.settlements("5", wait=timedelta(0)), listed(HASHES[0]), reply)


SOON, LONG = timedelta(seconds=3), timedelta(minutes=5)
WOKEN, QUIET = HttpReply(status=200), HttpReply(status=204)


@pytest.mark.parametrize("woken", [WOKEN, QUIET])
def test_where_nothing_is_new_the_websocket_is_waited_on_and_the_list_read_again(
    node: Phoenixd, woken: HttpReply
) -> None:
    told, calls = tell(node.settlements("5", wait=SOON), listed(), woken, listed(HASHES[0]), listed())
    assert Settlements(settled=settled(HASHES[0]), cursor="1000000") == told
    assert isinstance(calls[1], WakeCall)
    assert ("ws://127.0.0.1:9740/websocket", SOON) == (calls[1].url, calls[1].timeout)
    assert calls[1].headers is not None
    assert f"authorization: Basic {base64.b64encode(b':hunter2').decode()}" == calls[1].headers.reveal()
    assert "hunter2" not in repr(calls[1])


def test_what_was_told_before_does_not_keep_us_from_waiting(node: Phoenixd) -> None:
    before = listed(HASHES[0])
    told, calls = tell(node.settlements("1000000", wait=LONG), before, listed(), WOKEN, before, listed())
    assert Settlements(settled=settled(HASHES[0]), cursor="1000000") == told
    assert isinstance(calls[2], WakeCall)
    assert timedelta(seconds=10) == calls[2].timeout  # for what a websocket fails to tell


def test_what_was_noted_late_is_told_although_the_cursor_does_not_move(node: Phoenixd) -> None:
    late = listed(HASHES[1], at=999_000)
    told, _ = tell(node.settlements("1000000", wait=LONG), listed(), WOKEN, late, listed())
    assert Settlements(settled=settled(HASHES[1]), cursor="1000000") == told


def test_what_is_new_is_told_without_waiting(node: Phoenixd) -> None:
    told, calls = tell(node.settlements("5", wait=LONG), listed(HASHES[0]), listed())
    assert settled(HASHES[0]) == told.settled
    assert not any(isinstance(each, WakeCall) for each in calls)


@pytest.mark.parametrize("refused", [NO_CONNECTION, NO_REPLY, NOT_FOUND, said(401), said(302), said(500)])
def test_a_node_without_a_websocket_answers_at_once_with_what_it_listed(node: Phoenixd, refused: HttpReply) -> None:
    late = listed(HASHES[0], at=3)
    told, _ = tell(node.settlements("5", wait=LONG), late, listed(), refused)
    assert Settlements(settled=settled(HASHES[0]), cursor="5") == told


def test_a_list_that_can_not_be_had_after_waiting_is_no_empty_one(node: Phoenixd) -> None:
    with pytest.raises(NodeUnavailable):
        tell(node.settlements("5", wait=LONG), listed(), WOKEN, said(500))


def test_a_node_behind_tls_has_its_websocket_there() -> None:
    node = Phoenixd.from_url("phoenixd+https://:p@node.example/phoenixd/")
    _, calls = tell(node.settlements("5", wait=LONG), listed(), QUIET, listed())
    assert "wss://node.example/phoenixd/websocket" == calls[1].url


def test_a_cursor_at_an_instant_is_that_instant_in_milliseconds(node: Phoenixd) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
    assert (str(round(at.timestamp() * 1000 - 0.5)), []) == tell(node.cursor_at(at))
    assert ("0", []) == tell(node.cursor_at(datetime(1960, 1, 1, tzinfo=UTC)))


def test_a_webhook_call_is_taken_only_when_phoenixd_has_signed_it() -> None:
    body = b'{"type": "payment_received", "amountSat": 21, "paymentHash": "' + b"ab" * 32 + b'"}'
    signature = hmac.digest(b"a secret", body, "sha256").hex()
    hooked = Phoenixd.from_url("phoenixd+http://:p@127.0.0.1:9740?webhook-secret=a%20secret")
    assert hooked.is_hooked
    assert bytes.fromhex("ab" * 32) == hooked.called_about({"x-phoenix-signature": signature}, body)
    for headers in ({}, {"x-phoenix-signature": ""}, {"x-phoenix-signature": "é"}, {"x-phoenix-signature": "0" * 64}):
        assert hooked.called_about(headers, body) is None
    assert hooked.called_about({"x-phoenix-signature": signature}, body + b" ") is None


def test_a_signed_call_that_is_not_about_a_payment_is_about_nothing() -> None:
    hooked = Phoenixd.from_url("phoenixd+http://:p@127.0.0.1:9740?webhook-secret=s")
    for body in (b"", b"[]", b"{}", b'{"type": "payment_received", "paymentHash": 7}', b'{"type": "payment_sent"}'):
        signature = hmac.digest(b"s", body, "sha256").hex()
        assert hooked.called_about({"x-phoenix-signature": signature}, body) is None


def test_without_a_secret_no_call_is_taken() -> None:
    plain = Phoenixd.from_url("phoenixd+http://:p@127.0.0.1:9740")
    assert not plain.is_hooked
    assert plain.called_about({"x-phoenix-signature": hmac.digest(b"", b"", "sha256").hex()}, b"") is None


@pytest.mark.parametrize("behind", ["?webhook-secret=", "?secret=s", "?webhook-secret=a&webhook-secret=b", "?x"])
def test_what_else_stands_behind_the_url_is_refused(behind: str) -> None:
    with pytest.raises(WalletError):
        Phoenixd.from_url(f"phoenixd+http://:p@127.0.0.1:9740{behind}")
