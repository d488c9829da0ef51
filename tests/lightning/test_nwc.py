from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import (
    Capability,
    Conversation,
    Failed,
    HoldReceiver,
    HttpReply,
    Inspected,
    InvoiceState,
    InvoiceStatus,
    NodeFacts,
    Paid,
    SpendProbe,
    Unresolved,
)
from farebox.core.secret import Secret
from farebox.core.settlement import Settlement, SettlementNotices, SettlementStream
from farebox.lightning.nwc import NostrWalletConnect
from farebox.lightning.sandbox import Sandbox
from farebox.nostr import Event, ListenCall, RelayCall, nip04, nip44, read_event, sign_event
from farebox.nostr.keys import public_key, shared_x
from farebox.testing.backends import NOBODYS_HASH, PRICE, TEN_MINUTES, ReceiverSuite, WalletSuite
from farebox.testing.fake_nwc import EVERYTHING, RECEIVES, FakeNwc
from farebox.testing.sandbox_world import SandboxWorld
from farebox.testing.scripted import tell
from farebox.testing.settlement_streams import NoticeSuite

T = TypeVar("T")

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
NO_CONNECTION = HttpReply(status=0, sent=False, reason="connection refused")
NO_REPLY = HttpReply(status=0, sent=True, reason="Timeout")
NO_INFO = HttpReply(status=404)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
WALLET_KEY, CLIENT_KEY = b"\x11" * 32, b"\x22" * 32
WALLET, CLIENT = public_key(WALLET_KEY), public_key(CLIENT_KEY)
SHARED_X = shared_x(WALLET_KEY, CLIENT)
URI = f"nostr+walletconnect://{WALLET.hex()}?relay=wss%3A%2F%2Frelay.test%2Fv1&secret={CLIENT_KEY.hex()}"


class NwcWorld(SandboxWorld):
    """The adapter against the wallet service in front of the sandbox, without a relay."""

    def __init__(self, sandbox: Sandbox, clock: Any, **how: Any) -> None:
        super().__init__(sandbox, clock.forward)
        services = [FakeNwc(node, clock, **how) for node in (sandbox.seller, sandbox.buyer)]
        self.services = {service.public_key.hex(): service for service in services}
        self.events: list[Event] = []
        self.receiver, self.wallet = (NostrWalletConnect.from_url(each.uri, clock=clock) for each in services)

    def pretend(self, payment_hash: bytes) -> None:
        next(iter(self.services.values())).pretend(payment_hash)

    def ask(self, conversation: Conversation[T]) -> T:
        try:
            call = cast("RelayCall | ListenCall", next(conversation))
            while True:
                event = read_event(call.event) if isinstance(call, RelayCall) and call.event else None
                self.events += [] if event is None else [event]
                reply = self.services[call.author].reply(call) if call.author in self.services else NO_CONNECTION
                call = cast("RelayCall | ListenCall", conversation.send(reply))
        except StopIteration as end:
            return cast("T", end.value)


@pytest.fixture(
    params=[
        "modern",
        "as LNbits",
        pytest.param("no info", marks=pytest.mark.full),
        pytest.param("whole satoshis", marks=pytest.mark.full),
    ]
)
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {
        "modern": {},
        "as LNbits": {"encryption": None, "stateless": True, "whole_sats": True},
        "no info": {"informs": False, "encryption": "nip44_v2 nip04"},
        "whole satoshis": {"encryption": "nip44_v2", "whole_sats": True},
    }[request.param]


class _Conformance:
    @pytest.fixture
    def world(self, sandbox: Sandbox, clock: Any, how: dict[str, Any]) -> NwcWorld:
        return NwcWorld(sandbox, clock, **how)


class TestReceiver(_Conformance, ReceiverSuite):
    def test_what_is_held_is_settled_or_given_back(self, world: NwcWorld) -> None:
        node = world.receiver
        assert isinstance(node, HoldReceiver)
        for take, state in ((True, InvoiceState.PAID), (False, InvoiceState.CANCELLED)):
            preimage = bytes([take]) * 32
            payment_hash = hashlib.sha256(preimage).digest()
            invoice = world.ask(
                node.create_hold_invoice(PRICE, payment_hash=payment_hash, description="", expires_in=TEN_MINUTES)
            )
            world.pay(invoice)
            if not world.services[next(iter(world.services))].stateless:  # without states a hold can't be told
                assert InvoiceState.HELD is world.ask(node.lookup_invoice(payment_hash)).state
            asked = node.settle_invoice(Secret(preimage)) if take else node.cancel_invoice(payment_hash)
            if take or not world.services[next(iter(world.services))].stateless:
                assert state is world.ask(asked).state

    def test_a_fraction_that_a_wallet_leaves_out_is_noticed_and_then_not_asked_for_again(
        self, world: NwcWorld, how: dict[str, Any]
    ) -> None:
        amount = Amount.msats(21_500)
        made = world.receiver.create_invoice(amount, description="", expires_in=TEN_MINUTES)
        if not how.get("whole_sats"):
            assert amount == world.ask(made).amount
            return
        with pytest.raises(NodeUnavailable, match=r"21500 msat.* 21 sat"):
            world.ask(made)
        with pytest.raises(WalletError, match="whole satoshis"):
            next(world.receiver.create_invoice(amount, description="", expires_in=TEN_MINUTES))
        assert PRICE == world.ask(world.receiver.create_invoice(PRICE, description="", expires_in=TEN_MINUTES)).amount


class TestNotices(_Conformance, NoticeSuite):
    def test_a_wallet_that_does_not_tell_is_not_listened_to(self, sandbox: Sandbox, clock: Any) -> None:
        world = NwcWorld(sandbox, clock, notifies=False)
        assert isinstance(world.receiver, SettlementNotices)
        world.ask(world.receiver.notices(wait=world.wait))
        assert Capability.STREAM not in world.receiver.capabilities
        assert () == tell(world.receiver.notices(wait=world.wait))[0]


class TestWallet(_Conformance, WalletSuite):
    def test_a_connection_that_only_receives_is_asked_nothing_else(self, sandbox: Sandbox, clock: Any) -> None:
        world = NwcWorld(sandbox, clock, methods=RECEIVES)
        before = sandbox.buyer.funds()
        outcome = world.ask(world.wallet.pay_invoice(world.invoice(PRICE, expires_in=TEN_MINUTES), fee_limit=NOTHING))
        assert isinstance(outcome, Failed)
        assert "pay_invoice" in outcome.reason
        assert before == sandbox.buyer.funds()


@pytest.mark.parametrize(("methods", "spends"), [(EVERYTHING, True), (RECEIVES, False), (("pay_keysend",), True)])
def test_a_connection_is_known_to_spend_or_not_by_its_methods(
    sandbox: Sandbox, clock: Any, methods: tuple[str, ...], spends: bool
) -> None:
    world = NwcWorld(sandbox, clock, methods=methods)
    assert isinstance(world.receiver, SpendProbe)
    assert spends is world.ask(world.receiver.spends())


@pytest.mark.parametrize(
    ("announced", "modern"), [("nip44_v2 nip04", True), ("nip44_v2", True), ("nip04", False), (None, False)]
)
def test_the_encryption_is_the_one_that_the_wallet_announces(
    sandbox: Sandbox, clock: Any, announced: str | None, modern: bool
) -> None:
    world = NwcWorld(sandbox, clock, encryption=announced)
    world.ask(world.wallet.balance())
    assert len(world.events) == 2  # get_info and get_balance
    for event in world.events:
        assert modern is (event.tagged("encryption") == ("nip44_v2",))
        assert modern is (nip04.MARK not in event.content)


def test_what_is_known_of_the_node_is_its_chain(sandbox: Sandbox, clock: Any) -> None:
    world = NwcWorld(sandbox, clock)
    assert isinstance(world.receiver, Inspected)
    assert NodeFacts(network=Network.REGTEST) == world.ask(world.receiver.facts())
    with world.out_of_reach(), pytest.raises(NodeUnavailable):
        world.ask(NostrWalletConnect.from_url(URI).facts())


# --- scripted replies -------------------------------------------------------------------------------------------------


class Script:
    """A wallet that answers as it is told. Its answers are signed when they are wanted, for they name the request."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.calls: list[RelayCall] = []
        self.key = nip04.conversation_key(SHARED_X)
        self.key44 = nip44.conversation_key(SHARED_X)

    def tell(self, conversation: Conversation[T], *replies: Any) -> T:
        """The outcome of a conversation: each reply is an HttpReply, makes one, or is what the wallet says."""
        waiting = list(replies)
        try:
            call = cast("RelayCall", next(conversation))
            while True:
                self.calls.append(call)
                call = cast("RelayCall", conversation.send(self._reply(call, waiting.pop(0))))
        except StopIteration as end:
            assert waiting == []
            return cast("T", end.value)

    def _reply(self, call: RelayCall, wanted: Any) -> HttpReply:
        if isinstance(call, RelayCall) and call.event is not None:
            event = read_event(call.event)
            assert event is not None
            words = (
                nip04.decrypt(self.key, event.content)
                if nip04.MARK in event.content
                else nip44.decrypt(self.key44, event.content)
            )
            asked = json.loads(words or "")
            self.asked.append((asked["method"], asked["params"]))
        if isinstance(wanted, HttpReply):
            return wanted
        if callable(wanted):
            return cast("HttpReply", wanted(call))
        content = nip04.encrypt(self.key, wanted if isinstance(wanted, str) else json.dumps(wanted))
        return event_reply(content, answers=call.answers)


def event_reply(
    content: str, *, answers: str | None, key: bytes = WALLET_KEY, kind: int = 23195, tags: Sequence[list[str]] = ()
) -> HttpReply:
    tags = [*tags, *([] if answers is None else [["e", answers]])]
    return HttpReply(
        status=200, body=sign_event(key, kind=kind, content=content, tags=tags, created_at=NOW).write().encode()
    )


def info(methods: str = " ".join(EVERYTHING), **how: Any) -> HttpReply:
    return event_reply(methods, answers=None, kind=13194, **how)


def said(**result: Any) -> dict[str, Any]:
    return {"error": None, "result": result}


def refused(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "no,\nfor reasons"}}


INFO = said(methods=list(EVERYTHING), network="regtest")
LEARNT = (info(), INFO)


def outgoing(**changes: Any) -> dict[str, Any]:
    return said(**{"type": "outgoing", "payment_hash": PAYMENT_HASH.hex(), "amount": 21_000, "fees_paid": 0, **changes})


def incoming(**changes: Any) -> dict[str, Any]:
    return said(
        **{
            "type": "incoming",
            "payment_hash": PAYMENT_HASH.hex(),
            "preimage": PREIMAGE.hex(),
            "amount": 21_000,
            **changes,
        }
    )


PAID = said(preimage=PREIMAGE.hex(), fees_paid=4_084)
SETTLED = outgoing(state="settled", preimage=PREIMAGE.hex())
IN_FLIGHT = outgoing(state="pending")
LOOKED_FAILED = outgoing(state="failed")
NONSENSE: list[Any] = [
    HttpReply(status=200, body=b"<html>"),
    HttpReply(status=200),
    HttpReply(status=502),
    "",
    "[]",
    "[" * 100_000,
    {"result": [1], "error": None},
    {"result": None, "error": None},
    {},
    {"result_type": "get_budget", "result": {"preimage": PREIMAGE.hex()}},
]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def node() -> NostrWalletConnect:
    return NostrWalletConnect.from_url(URI, clock=lambda: NOW)


@pytest.fixture
def invoice(sandbox: Sandbox) -> Invoice:
    """An invoice whose preimage this file knows."""
    return sandbox.seller.issue_held(PRICE, payment_hash=PAYMENT_HASH, description="a test", expires_in=TEN_MINUTES)


Pay = Callable[..., Any]


@pytest.fixture
def pay(script: Script, node: NostrWalletConnect, invoice: Invoice) -> Pay:
    def paid(*replies: Any) -> Any:
        learnt = () if node.network else LEARNT
        return script.tell(node.pay_invoice(invoice, fee_limit=NOTHING), *learnt, *replies)

    return paid


# what is sent


def test_a_request_to_pay_expires_when_nobody_waits_any_more(pay: Pay, script: Script, invoice: Invoice) -> None:
    pay(PAID)
    event = read_event(script.calls[-1].event or "")
    assert event is not None
    assert [str(int(NOW.timestamp()) + 60)] == list(event.tagged("expiration"))
    assert timedelta(seconds=60) == script.calls[-1].timeout
    assert (WALLET.hex(),) == event.tagged("p")
    assert CLIENT.hex() == event.author
    assert ("pay_invoice", {"invoice": invoice.text}) == script.asked[-1]


def test_what_a_wallet_can_do_is_asked_for_once(pay: Pay, script: Script, node: NostrWalletConnect) -> None:
    assert node.network is None
    assert node.capabilities == frozenset()
    pay(PAID)
    assert node.network is Network.REGTEST
    assert {Capability.LOOKUP, Capability.HOLD, Capability.OWN_PREIMAGE} == node.capabilities
    script.tell(node.balance(), said(balance=7))
    assert ["get_info", "pay_invoice", "get_balance"] == [method for method, _ in script.asked]


def test_without_an_info_event_it_is_the_older_encryption_and_get_info_is_asked(
    script: Script, node: NostrWalletConnect
) -> None:
    assert Amount.msats(7) == script.tell(node.balance(), NO_INFO, INFO, said(balance=7))
    assert Capability.LOOKUP in node.capabilities


@pytest.mark.parametrize("get_info", [refused("NOT_IMPLEMENTED"), refused("RESTRICTED"), said(), said(methods=[])])
def test_without_get_info_the_announced_methods_count(
    script: Script, node: NostrWalletConnect, get_info: dict[str, Any]
) -> None:
    script.tell(node.balance(), info("get_info get_balance lookup_invoice"), get_info, said(balance=7))
    assert {Capability.LOOKUP} == node.capabilities


def test_a_wallet_that_does_not_offer_get_info_is_not_asked_for_it(script: Script, node: NostrWalletConnect) -> None:
    script.tell(node.balance(), info("get_balance"), said(balance=7))
    assert ["get_balance"] == [method for method, _ in script.asked]


def test_an_encryption_that_the_wallet_no_longer_reads_is_asked_for_again(
    script: Script, node: NostrWalletConnect
) -> None:
    with pytest.raises(WalletError, match="UNSUPPORTED_ENCRYPTION"):
        script.tell(node.balance(), *LEARNT, refused("UNSUPPORTED_ENCRYPTION"))
    modern = info(tags=[["encryption", "nip44_v2 nip04"]])
    script.tell(node.balance(), modern, INFO, said(balance=7))
    event = read_event(script.calls[-1].event or "")
    assert event is not None
    assert ("nip44_v2",) == event.tagged("encryption")


@pytest.mark.parametrize(
    "replies", [(NO_CONNECTION,), (NO_REPLY,), (info(), NO_REPLY), (info(), NO_CONNECTION), (NO_INFO, NO_REPLY)]
)
def test_a_wallet_that_was_never_heard_was_not_asked_to_pay(
    script: Script, node: NostrWalletConnect, invoice: Invoice, replies: tuple[HttpReply, ...]
) -> None:
    assert isinstance(script.tell(node.pay_invoice(invoice, fee_limit=NOTHING), *replies), Failed)
    assert "pay_invoice" not in [method for method, _ in script.asked]


def test_an_invoice_of_another_chain_is_not_even_sent(
    script: Script, node: NostrWalletConnect, invoice: Invoice
) -> None:
    mainnet = said(methods=list(EVERYTHING), network="mainnet")
    assert isinstance(script.tell(node.pay_invoice(invoice, fee_limit=NOTHING), info(), mainnet), Failed)


def test_an_expired_invoice_is_looked_up_and_not_sent(script: Script, invoice: Invoice) -> None:
    late = NostrWalletConnect.from_url(URI, clock=lambda: invoice.expires_at)
    for found, kind in (
        (refused("NOT_FOUND"), Failed),
        (SETTLED, Paid),
        (IN_FLIGHT, Unresolved),
        (NO_REPLY, Unresolved),
    ):
        learnt = () if late.network else LEARNT
        assert isinstance(script.tell(late.pay_invoice(invoice, fee_limit=NOTHING), *learnt, found), kind)
    assert "pay_invoice" not in [method for method, _ in script.asked]


# what proves a payment


def test_a_preimage_of_the_hash_is_paid_with_the_fee(pay: Pay) -> None:
    outcome = pay(PAID)
    assert isinstance(outcome, Paid)
    assert outcome.preimage.reveal() == PREIMAGE
    assert outcome.fee == Amount.msats(4_084)


@pytest.mark.parametrize(
    ("second", "fee"),
    [(outgoing(state="settled", preimage=PREIMAGE.hex(), fees_paid=3_000), 3_000), (IN_FLIGHT, 0), (NO_REPLY, 0)],
)
def test_a_fee_that_is_not_told_is_looked_up_and_the_proof_counts(pay: Pay, second: Any, fee: int) -> None:
    outcome = pay(said(preimage=PREIMAGE.hex()), second)
    assert isinstance(outcome, Paid)
    assert PREIMAGE == outcome.preimage.reveal()
    assert Amount.msats(fee) == outcome.fee


@pytest.mark.parametrize(
    ("fees_paid", "fee"), [(None, 0), ("4", 0), (-4_000, 4_000), (10**40, 0), (1.5, 0), (True, 0), ([], 0)]
)
def test_a_fee_that_is_none_is_nothing(pay: Pay, fees_paid: object, fee: int) -> None:
    outcome = pay(said(preimage=PREIMAGE.hex(), fees_paid=fees_paid))
    assert isinstance(outcome, Paid)
    assert outcome.fee == Amount.msats(fee)


@pytest.mark.parametrize(
    "preimage", ["", "00" * 32, PREIMAGE.hex()[:-2], "zz" * 32, PAYMENT_HASH.hex(), None, 7, [PREIMAGE.hex()]]
)
@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (SETTLED, Paid),
        (outgoing(state="settled"), Unresolved),
        (IN_FLIGHT, Unresolved),
        (LOOKED_FAILED, Unresolved),
        (refused("NOT_FOUND"), Unresolved),
        (NO_REPLY, Unresolved),
    ],
)
def test_a_success_without_proof_is_looked_up_and_never_failed(
    pay: Pay, preimage: object, second: Any, kind: type
) -> None:
    assert isinstance(pay(said(preimage=preimage), second), kind)


@pytest.mark.parametrize("reply", [NO_REPLY, *NONSENSE])
def test_what_is_not_clear_is_unresolved(pay: Pay, reply: Any) -> None:
    assert isinstance(pay(reply), Unresolved)


def test_what_no_relay_took_is_failed(pay: Pay) -> None:
    assert isinstance(pay(NO_CONNECTION), Failed)


@pytest.mark.parametrize("key", [CLIENT_KEY, b"\x33" * 32])
def test_an_answer_of_somebody_else_is_none(
    script: Script, node: NostrWalletConnect, invoice: Invoice, key: bytes
) -> None:
    content = nip04.encrypt(script.key, json.dumps(PAID))

    def forged(call: RelayCall) -> HttpReply:
        return event_reply(content, answers=call.answers, key=key)

    assert isinstance(script.tell(node.pay_invoice(invoice, fee_limit=NOTHING), *LEARNT, forged), Unresolved)


def test_an_answer_to_another_request_is_none(script: Script, node: NostrWalletConnect, invoice: Invoice) -> None:
    old = event_reply(nip04.encrypt(script.key, json.dumps(PAID)), answers="00" * 32)
    assert isinstance(script.tell(node.pay_invoice(invoice, fee_limit=NOTHING), *LEARNT, old), Unresolved)


# when a refusal is believed

NOT_BEGUN = [
    *("RATE_LIMITED", "NOT_IMPLEMENTED", "INSUFFICIENT_BALANCE", "QUOTA_EXCEEDED"),
    *("RESTRICTED", "UNAUTHORIZED", "UNSUPPORTED_ENCRYPTION"),
]


@pytest.mark.parametrize("code", NOT_BEGUN[:-1])
@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (refused("NOT_FOUND"), Failed),
        (refused("INTERNAL"), Failed),
        (refused("RESTRICTED"), Failed),
        (LOOKED_FAILED, Failed),
        (IN_FLIGHT, Unresolved),
        (outgoing(preimage=PREIMAGE.hex()), Unresolved),
        (NO_REPLY, Unresolved),
        ("nonsense", Unresolved),
        (SETTLED, Paid),
    ],
)
def test_a_refusal_before_the_beginning_is_failed_unless_a_look_up_knows_better(
    pay: Pay, code: str, second: Any, kind: type
) -> None:
    assert isinstance(pay(refused(code), second), kind)


def test_a_request_to_pay_that_the_wallet_can_not_read_is_looked_up_in_what_it_reads_now(pay: Pay) -> None:
    modern = info(tags=[["encryption", "nip44_v2"]])
    assert isinstance(pay(refused(NOT_BEGUN[-1]), modern, INFO, refused("NOT_FOUND")), Failed)
    assert isinstance(pay(refused(NOT_BEGUN[-1]), NO_CONNECTION), Unresolved)


@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (refused("NOT_FOUND"), Failed),
        (LOOKED_FAILED, Failed),
        (refused("INTERNAL"), Unresolved),
        (refused("RESTRICTED"), Unresolved),
        (IN_FLIGHT, Unresolved),
        (outgoing(), Unresolved),
        (incoming(state="failed"), Unresolved),
        (NO_REPLY, Unresolved),
        (NO_CONNECTION, Unresolved),
        (SETTLED, Paid),
    ],
)
def test_a_failed_payment_is_failed_only_when_the_look_up_agrees(pay: Pay, second: Any, kind: type) -> None:
    assert isinstance(pay(refused("PAYMENT_FAILED"), second), kind)


@pytest.mark.parametrize("code", ["INTERNAL", "OTHER", "SOMETHING_NEW", ""])
@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (refused("NOT_FOUND"), Unresolved),
        (refused("INTERNAL"), Unresolved),
        (IN_FLIGHT, Unresolved),
        (NO_REPLY, Unresolved),
        (LOOKED_FAILED, Failed),
        (SETTLED, Paid),
    ],
)
def test_an_error_that_may_be_anything_is_unresolved(pay: Pay, code: str, second: Any, kind: type) -> None:
    assert isinstance(pay(refused(code), second), kind)


@pytest.mark.parametrize("error", ["no", 7, [], {}, {"code": 5}, {"code": ["RESTRICTED"]}, {"message": {}}])
def test_an_error_without_a_code_may_be_anything(pay: Pay, error: object) -> None:
    assert isinstance(pay({"error": error, "result": None}, refused("NOT_FOUND")), Unresolved)


def test_a_reason_is_one_line(pay: Pay) -> None:
    assert Failed(reason="the wallet refused: no, for reasons (QUOTA_EXCEEDED)") == pay(
        refused("QUOTA_EXCEEDED"), refused("NOT_FOUND")
    )


# looking up a payment


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (refused("NOT_FOUND"), Unresolved(reason="the wallet has never heard of this payment", known=False)),
        (IN_FLIGHT, Unresolved(reason="the payment is in flight")),
        (outgoing(preimage=PREIMAGE.hex()), Unresolved(reason="the payment is in flight")),
        (outgoing(preimage=PREIMAGE.hex(), settled_at=None), Unresolved(reason="the payment is in flight")),
        (outgoing(preimage=PREIMAGE.hex(), settled_at=0), Unresolved(reason="the payment is in flight")),
        (
            outgoing(preimage=PREIMAGE.hex(), state="pending", settled_at=5),
            Unresolved(reason="the payment is in flight"),
        ),
        (outgoing(state="expired"), Unresolved(reason="the payment is in flight")),
        (outgoing(state="whatever"), Unresolved(reason="the payment is in flight")),
        (LOOKED_FAILED, Failed(reason="the wallet says that the payment failed")),
        (
            outgoing(state="settled", preimage="00" * 32),
            Unresolved(reason="the wallet says that it paid, without proof"),
        ),
        (NO_CONNECTION, Unresolved(reason="no relay of the wallet takes anything (connection refused)")),
        (
            outgoing(payment_hash=NOBODYS_HASH.hex()),
            Unresolved(reason="the wallet tells something else than it was asked"),
        ),
        (SETTLED, Paid(preimage=Secret(PREIMAGE), fee=NOTHING)),
        (outgoing(preimage=PREIMAGE.hex(), settled_at=5), Paid(preimage=Secret(PREIMAGE), fee=NOTHING)),
    ],
)
def test_a_look_up_says_what_became_of_a_payment(
    script: Script, node: NostrWalletConnect, reply: Any, expected: object
) -> None:
    assert expected == script.tell(node.lookup_payment(PAYMENT_HASH), *LEARNT, reply)


# being paid


def received(msats: int) -> InvoiceStatus:
    return InvoiceStatus(state=InvoiceState.PAID, received=Amount.msats(msats))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (incoming(), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(settled_at=None, state=None), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(settled_at=0), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(settled_at="5"), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(settled_at=True), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(state="pending", settled_at=5), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(state="pending", expires_at=int(NOW.timestamp())), InvoiceStatus(state=InvoiceState.CANCELLED)),
        (incoming(expires_at=int(NOW.timestamp()) + 1), InvoiceStatus(state=InvoiceState.OPEN)),
        (incoming(state="accepted"), InvoiceStatus(state=InvoiceState.HELD)),
        (incoming(state="expired"), InvoiceStatus(state=InvoiceState.CANCELLED)),
        (incoming(state="failed"), InvoiceStatus(state=InvoiceState.CANCELLED)),
        (incoming(state="settled"), received(21_000)),
        (incoming(settled_at=5, amount=21_500), received(21_500)),
        (refused("NOT_FOUND"), InvoiceStatus(state=InvoiceState.UNKNOWN)),
    ],
)
def test_only_the_state_and_the_time_of_settling_count(
    script: Script, node: NostrWalletConnect, reply: Any, expected: InvoiceStatus
) -> None:
    assert expected == script.tell(node.lookup_invoice(PAYMENT_HASH), *LEARNT, reply)


@pytest.mark.parametrize(
    "reply",
    [
        NO_CONNECTION,
        NO_REPLY,
        refused("INTERNAL"),
        *NONSENSE,
        incoming(payment_hash=NOBODYS_HASH.hex(), state="settled"),
        incoming(type="outgoing", state="settled"),
        *(incoming(state="settled", amount=amount) for amount in (None, -21_000, 10**40, True, "21000", 0, 1.5)),
    ],
)
def test_a_wallet_that_answers_nonsense_is_unavailable(script: Script, node: NostrWalletConnect, reply: Any) -> None:
    with pytest.raises(NodeUnavailable):
        script.tell(node.lookup_invoice(PAYMENT_HASH), *LEARNT, reply)


def test_an_invoice_is_asked_for_in_millisatoshis_and_seconds(
    script: Script, node: NostrWalletConnect, invoice: Invoice
) -> None:
    made = node.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES)
    assert invoice == script.tell(made, *LEARNT, said(invoice=invoice.text, payment_hash=PAYMENT_HASH.hex()))
    assert ("make_invoice", {"amount": 21_000, "description": "a test", "expiry": 600}) == script.asked[-1]


@pytest.mark.parametrize("case", range(5))
def test_an_invoice_that_is_not_what_was_asked_for_is_not_given_out(
    script: Script, node: NostrWalletConnect, invoice: Invoice, case: int
) -> None:
    reply = [
        said(invoice=invoice.text, payment_hash=NOBODYS_HASH.hex()),
        said(invoice=invoice.text[:-1]),
        said(payment_hash=PAYMENT_HASH.hex()),
        NO_REPLY,
        refused("QUOTA_EXCEEDED"),
    ][case]
    with pytest.raises(NodeUnavailable):
        script.tell(node.create_invoice(PRICE, description="", expires_in=TEN_MINUTES), *LEARNT, reply)
    with pytest.raises(NodeUnavailable, match="22 sat"):
        script.tell(
            node.create_invoice(Amount.sats(22), description="", expires_in=TEN_MINUTES), said(invoice=invoice.text)
        )


def test_nothing_is_refused_before_asking(node: NostrWalletConnect) -> None:
    with pytest.raises(WalletError):
        next(node.create_invoice(NOTHING, description="", expires_in=TEN_MINUTES))


@pytest.mark.parametrize(
    ("replies", "spends"),
    [
        ((NO_CONNECTION,), None),
        ((NO_REPLY,), None),
        ((NO_INFO, NO_REPLY), None),
        ((NO_INFO, refused("RESTRICTED")), None),
        ((info("get_info pay_invoice"), NO_REPLY), None),
        ((info("get_info make_invoice"), NO_REPLY), False),
        ((info("get_info pay_invoice"), said(methods=["make_invoice"])), False),
        ((info("get_info pay_invoice"), refused("RESTRICTED")), True),
        ((info("multi_pay_keysend"),), True),
        ((info("make_invoice"),), False),
        ((NO_INFO, said(methods=["pay_invoice"])), True),
    ],
)
def test_whether_we_can_spend_is_not_guessed_at(
    script: Script, node: NostrWalletConnect, replies: tuple[Any, ...], spends: bool | None
) -> None:
    assert spends is script.tell(node.spends(), *replies)


@pytest.mark.parametrize("reply", [NO_REPLY, refused("RESTRICTED"), said(), said(balance=-1), said(balance=True)])
def test_a_balance_that_is_none_is_told_in_one_line_without_the_secret(
    script: Script, node: NostrWalletConnect, reply: Any
) -> None:
    with pytest.raises(WalletError) as caught:
        script.tell(node.balance(), *LEARNT, reply)
    assert "\n" not in str(caught.value)
    assert CLIENT_KEY.hex() not in str(caught.value)


# URIs


# what it tells by itself

TELLS = said(methods=list(EVERYTHING), network="regtest", notifications=["payment_received"])


def notice(
    payment_hash: bytes | None = PAYMENT_HASH,
    *,
    key: bytes = WALLET_KEY,
    kind: int = 23197,
    to: str = CLIENT.hex(),
    what: str = "payment_received",
    words: str | None = None,
) -> Event:
    told = {"type": "incoming"} if payment_hash is None else {"payment_hash": payment_hash.hex(), "preimage": "00" * 32}
    said = json.dumps({"notification_type": what, "notification": told}) if words is None else words
    content = nip04.encrypt(nip04.conversation_key(SHARED_X), said)
    if kind == 23197:
        content = nip44.encrypt(nip44.conversation_key(SHARED_X), said)
    return sign_event(key, kind=kind, content=content, tags=[["p", to]], created_at=NOW)


def told(*events: Event) -> HttpReply:
    return HttpReply(status=200, body=f"[{','.join(each.write() for each in events)}]".encode())


def hear(node: NostrWalletConnect, script: Script, *replies: Any) -> tuple[Settlement, ...]:
    learnt = () if node.network else (info(), TELLS)
    return script.tell(node.notices(wait=timedelta(seconds=30)), *learnt, *replies)


SETTLED_IN = incoming(state="settled")
RECEIVED = (Settlement(payment_hash=PAYMENT_HASH, received=PRICE),)


def test_a_wallet_that_tells_is_listened_to_for_us_alone(node: NostrWalletConnect, script: Script) -> None:
    assert () == hear(node, script, HttpReply(status=204))
    call = cast("Any", script.calls[-1])
    assert ((23197, 23196), WALLET.hex(), CLIENT.hex()) == (call.kinds, call.author, call.addressed)
    assert timedelta(seconds=30) == call.timeout
    assert Capability.STREAM in node.capabilities
    assert not isinstance(node, SettlementStream)  # it has no cursor, so that open invoices are looked up all the same


@pytest.mark.parametrize(
    ("announced", "listed", "tells"),
    [
        ([["notifications", "payment_received payment_sent"]], None, True),
        ([["notifications", "payment_sent", "payment_received"]], None, True),
        ([["notifications", "payment_sent"]], ["payment_received"], True),
        ([["notifications", "payment_sent"]], ["payment_sent"], False),
        ([["encryption", "payment_received"]], None, False),
        ([], "payment_received", False),
        ([], None, False),
    ],
)
def test_whether_a_wallet_tells_is_what_it_says_and_not_found_out(
    node: NostrWalletConnect, script: Script, announced: list[list[str]], listed: object, tells: bool
) -> None:
    said_of_itself = said(methods=list(EVERYTHING), network="regtest", notifications=listed)
    replies = [info(tags=announced), said_of_itself, *([HttpReply(status=204)] if tells else [])]
    assert () == script.tell(node.notices(wait=timedelta(0)), *replies)
    assert tells is (Capability.STREAM in node.capabilities)


@pytest.mark.parametrize("kind", [23196, 23197])
def test_what_is_told_is_looked_up(node: NostrWalletConnect, script: Script, kind: int) -> None:
    assert RECEIVED == hear(node, script, told(notice(kind=kind)), SETTLED_IN)
    assert ("lookup_invoice", {"payment_hash": PAYMENT_HASH.hex()}) == script.asked[-1]


def test_what_is_told_twice_is_looked_up_once(node: NostrWalletConnect, script: Script) -> None:
    assert RECEIVED == hear(node, script, told(notice(), notice(kind=23196)), SETTLED_IN)
    assert () == hear(node, script, told(notice(kind=23196)))


@pytest.mark.parametrize(
    "looked",
    [
        incoming(state="pending"),
        incoming(),  # with its preimage
        incoming(state="expired"),
        incoming(state="accepted"),
        incoming(settled_at=None),
        refused("NOT_FOUND"),
    ],
)
def test_what_a_look_up_does_not_call_paid_is_not_believed(
    node: NostrWalletConnect, script: Script, looked: Any
) -> None:
    assert () == hear(node, script, told(notice()), looked)
    assert RECEIVED == hear(node, script, told(notice()), SETTLED_IN)  # and is looked up again when it is told again


@pytest.mark.parametrize(
    "event",
    [
        notice(key=b"\x33" * 32),
        notice(kind=23195),
        notice(to=WALLET.hex()),
        notice(what="payment_sent"),
        notice(what="hold_invoice_accepted"),
        notice(payment_hash=None),
        notice(payment_hash=b"short"),
        notice(words="[]"),
        notice(words="{}"),
        notice(words='{"notification_type":"payment_received","notification":"paid"}'),
        sign_event(WALLET_KEY, kind=23197, content="not encrypted", tags=[["p", CLIENT.hex()]], created_at=NOW),
        dataclasses.replace(notice(), content=notice(NOBODYS_HASH).content),
    ],
)
def test_what_is_not_told_by_the_wallet_to_us_of_a_payment_has_nothing_looked_up(
    node: NostrWalletConnect, script: Script, event: Event
) -> None:
    assert () == hear(node, script, told(event))


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[1]", b"[{}]", b"[" * 100_000])
def test_what_can_not_be_read_has_nothing_looked_up(node: NostrWalletConnect, script: Script, body: bytes) -> None:
    assert () == hear(node, script, HttpReply(status=200, body=body))


def test_a_wallet_that_nobody_can_listen_to_does_not_say_that_there_is_nothing(
    node: NostrWalletConnect, script: Script
) -> None:
    with pytest.raises(NodeUnavailable):
        hear(node, script, NO_CONNECTION)


def test_what_was_found_is_told_although_the_next_can_not_be_looked_up(
    node: NostrWalletConnect, script: Script
) -> None:
    events = told(notice(), notice(NOBODYS_HASH))
    assert RECEIVED == hear(node, script, events, SETTLED_IN, NO_REPLY)
    with pytest.raises(NodeUnavailable):
        hear(node, script, told(notice(NOBODYS_HASH)), NO_REPLY)
    assert () == hear(node, script, HttpReply(status=204))  # it is not asked about for ever


def test_many_notices_are_looked_up_a_few_at_a_time_without_listening_in_between(
    node: NostrWalletConnect, script: Script
) -> None:
    hashes = [hashlib.sha256(bytes([number])).digest() for number in range(7)]
    open_ones = [incoming(payment_hash=each.hex(), state="pending") for each in hashes]
    assert () == hear(node, script, told(*map(notice, hashes)), *open_ones[:5])
    assert () == hear(node, script, *open_ones[5:])
    assert () == hear(node, script, HttpReply(status=204))


def test_neither_name_nor_call_shows_the_secret(node: NostrWalletConnect) -> None:
    call = next(node.balance())
    assert node.name == f"nwc {WALLET.hex()[:8]} at relay.test"
    for shown in (repr(call), repr(vars(node)), repr(vars(node._connection)), node.name):
        assert CLIENT_KEY.hex() not in shown
        assert repr(CLIENT_KEY) not in shown


@pytest.mark.parametrize(
    "uri",
    [
        URI,
        URI.replace("://", ":"),
        URI.upper().replace("RELAY=WSS%3A%2F%2FRELAY.TEST%2FV1&SECRET", "relay=wss%3A%2F%2Frelay.test%2Fv1&secret"),
        URI.replace(WALLET.hex(), "02" + WALLET.hex()),
        URI.replace("wss%3A%2F%2Frelay.test%2Fv1", "wss://relay.test/v1") + "&lud16=me@wallet.test&name=x",
        f" {URI}\n",
    ],
)
def test_a_uri_says_who_the_wallet_is_and_where_it_listens(uri: str) -> None:
    call = cast("Any", next(NostrWalletConnect.from_url(uri).balance()))
    assert ("wss://relay.test/v1",) == call.relays
    assert WALLET.hex() == call.author


def test_a_wallet_may_listen_at_several_relays_once_each() -> None:
    uri = f"{URI}&relay=ws://127.0.0.1:7777&relay=wss://relay.test/v1"
    call = cast("Any", next(NostrWalletConnect.open_wallet(uri).balance()))
    assert ("wss://relay.test/v1", "ws://127.0.0.1:7777") == call.relays


@pytest.mark.parametrize(
    "uri",
    [
        URI.partition("?")[0],
        URI.partition("&")[0],
        URI.replace("relay=", "r="),
        URI.replace("wss", "https"),
        URI.replace("relay.test%2F", "user:pw@relay.test%2F"),
        URI.replace("relay.test", "relay.test:99999"),
        URI.replace(WALLET.hex(), WALLET.hex()[:-2]),
        URI.replace(WALLET.hex(), "ff" * 32),
        URI.replace(CLIENT_KEY.hex(), CLIENT_KEY.hex()[:-2]),
        URI.replace(CLIENT_KEY.hex(), "00" * 32),
        URI.replace(CLIENT_KEY.hex(), "hunter2"),
        f"{URI}&secret={'44' * 32}",
        URI.replace("nostr+walletconnect", "nostr"),
        "nostr+walletconnect://[::1",
        "nostr+walletconnect:",
    ],
)
def test_a_uri_that_is_no_wallet_is_refused_without_showing_it(uri: str) -> None:
    with pytest.raises(WalletError, match=r"nostr\+walletconnect://WALLET") as caught:
        NostrWalletConnect.from_url(uri)
    assert CLIENT_KEY.hex() not in str(caught.value)
    assert caught.value.__cause__ is None
