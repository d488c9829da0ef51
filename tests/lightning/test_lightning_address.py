from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import MOST_DESCRIPTION_BYTES, Invoice, Network, sign
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import (
    Conversation,
    HttpCall,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    SpendProbe,
)
from farebox.lightning.backend import open_receiver, open_wallet
from farebox.lightning.lightning_address import LightningAddress
from farebox.lightning.sandbox import Sandbox
from farebox.testing.backends import NOBODYS_HASH, PRICE, TEN_MINUTES, ReceiverSuite
from farebox.testing.sandbox_world import SandboxWorld
from farebox.testing.scripted import NO_CONNECTION, NO_REPLY, said, tell

T = TypeVar("T")

PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
METADATA = '[["text/plain","the shop"]]'
HOME = "https://pay.test"
OFFER_URL = f"{HOME}/.well-known/lnurlp/shop"
CALLBACK = "https://api.pay.test/cb?user=7"
VERIFY = "https://api.pay.test/verify/" + PAYMENT_HASH.hex()
NONSENSE = [
    HttpReply(status=200),
    HttpReply(status=200, body=b"<html>"),
    HttpReply(status=200, body=b"\xff\xfe"),
    HttpReply(status=200, body=b"[" * 100_000),
    HttpReply(status=200, body=b"[]"),
    HttpReply(status=200, body=b"{}"),
    HttpReply(status=200, body=b'{"status": 7}'),
    HttpReply(status=302),
    HttpReply(status=404, body=b"<html>nginx"),
    HttpReply(status=500, body=b'{"status": "ERROR"}'),
    HttpReply(status=200, body=b'{"status": "ERROR", "reason": "try again\\nlater"}'),
    NO_CONNECTION,
    NO_REPLY,
]


class Service:
    """What stands behind an address, in front of the sandbox's seller: LUD-16, LUD-06 and LUD-21.

    Its invoices last ten minutes, and the hash of its metadata is their description. opaque: look-ups are at a number.
    """

    def __init__(self, sandbox: Sandbox, *, opaque: bool = False) -> None:
        self.node = sandbox.seller
        self.opaque = opaque
        self.comments: list[str] = []
        self.asked: list[str] = []
        self._made: list[Invoice] = []

    def __call__(self, call: HttpCall) -> HttpReply:
        parts = urlsplit(call.url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.asked.append(parts.path)
        match parts.path.split("/")[1:]:
            case [".well-known", "lnurlp", "shop"]:
                return said(
                    tag="payRequest",
                    callback=CALLBACK,
                    minSendable=1,
                    maxSendable=10**12,
                    metadata=METADATA,
                    commentAllowed=20,
                )
            case [".well-known", "lnurlp", _]:
                return said(status="ERROR", reason="no such user")
            case ["cb"]:
                return self._make(int(query["amount"]), query.get("comment", ""))
            case ["verify", named]:
                return self._tell(named)
        return HttpReply(status=404, body=b"Not Found")

    def _make(self, msat: int, comment: str) -> HttpReply:
        self.comments.append(comment)
        invoice = self.node.issue(Amount.msats(msat), description=METADATA, expires_in=TEN_MINUTES)
        self._made.append(invoice)
        named = str(len(self._made) - 1) if self.opaque else invoice.payment_hash.hex()
        return said(pr=invoice.text, routes=[], verify=f"https://api.pay.test/verify/{named}")

    def _tell(self, named: str) -> HttpReply:
        invoice = self._made[int(named)] if self.opaque else self.node.find_invoice(bytes.fromhex(named))
        if invoice is None:
            return said(status="ERROR", reason="Not found")
        paid = self.node.invoice_status(invoice.payment_hash).state is InvoiceState.PAID
        receipt = self.node.find_receipt(invoice.payment_hash)
        shown = receipt.preimage.reveal().hex() if paid and receipt is not None and receipt.preimage else None
        return said(status="OK", settled=paid, preimage=shown, pr=invoice.text)


class AddressWorld(SandboxWorld):
    """The adapter against such a service, without a socket."""

    def __init__(self, sandbox: Sandbox, forward: Callable[[timedelta], None]) -> None:
        super().__init__(sandbox, forward)
        self.receiver = LightningAddress.open_receiver("shop@pay.test")
        self.service: Callable[[HttpCall], HttpReply] = Service(sandbox)

    def ask(self, conversation: Conversation[T]) -> T:
        try:
            call = next(conversation)
            while True:
                call = conversation.send(self.service(call))
        except StopIteration as end:
            outcome: T = end.value
            return outcome

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        reached, self.service = self.service, lambda call: NO_CONNECTION
        yield
        self.service = reached


class TestReceiver(ReceiverSuite):
    @pytest.fixture
    def world(self, sandbox: Sandbox, clock: Any) -> AddressWorld:
        return AddressWorld(sandbox, clock.forward)

    def test_an_invoice_carries_its_description(self, world: AddressWorld) -> None:  # type: ignore[override]
        """The service describes its invoices itself; our description is the comment, cut to what it takes."""
        made = world.receiver.create_invoice(PRICE, description="POST /api/summarise/long", expires_in=TEN_MINUTES)
        assert METADATA == world.ask(made).description
        assert isinstance(world.service, Service)
        assert ["POST /api/summarise/"] == world.service.comments

    def test_a_description_without_end_is_cut_and_not_refused(self, world: AddressWorld) -> None:  # type: ignore[override]
        """As a comment."""
        description = "häuser 🏠" * MOST_DESCRIPTION_BYTES + "\ud800"
        world.ask(world.receiver.create_invoice(PRICE, description=description, expires_in=TEN_MINUTES))
        assert isinstance(world.service, Service)
        assert [description[:20]] == world.service.comments

    def test_an_invoice_expires_when_it_was_asked_to(self, world: AddressWorld) -> None:  # type: ignore[override]
        """The service says how long."""
        made = world.receiver.create_invoice(PRICE, description="", expires_in=timedelta(seconds=5))
        assert world.ask(made).expires_in == TEN_MINUTES

    def test_an_expired_invoice_can_no_longer_be_paid(self, world: AddressWorld) -> None:  # type: ignore[override]
        """LUD-21 has no word for it: it is not paid, and that is all."""
        invoice = world.ask(world.receiver.create_invoice(PRICE, description="", expires_in=TEN_MINUTES))
        world.pass_time(TEN_MINUTES)
        world.pay(invoice)
        assert InvoiceStatus(state=InvoiceState.OPEN) == world.ask(world.receiver.lookup_invoice(invoice.payment_hash))


@pytest.fixture
def world(sandbox: Sandbox, clock: Any) -> AddressWorld:
    return AddressWorld(sandbox, clock.forward)


def asked(world: AddressWorld) -> list[str]:
    assert isinstance(world.service, Service)
    return world.service.asked


def make(world: AddressWorld) -> Invoice:
    return world.ask(world.receiver.create_invoice(PRICE, description="", expires_in=TEN_MINUTES))


def test_what_the_address_offers_is_asked_for_once(world: AddressWorld) -> None:
    make(world)
    make(world)
    assert ["/.well-known/lnurlp/shop", "/cb", "/cb"] == asked(world)


def test_after_trouble_it_is_asked_again_what_the_address_offers(world: AddressWorld) -> None:
    make(world)
    with world.out_of_reach(), pytest.raises(NodeUnavailable):
        make(world)
    make(world)
    assert ["/.well-known/lnurlp/shop", "/cb"] * 2 == asked(world)


def test_an_invoice_of_another_process_is_looked_up_where_one_of_ours_would_be(world: AddressWorld) -> None:
    invoice = make(world)
    world.pay(invoice)
    world.receiver = LightningAddress.open_receiver("shop@pay.test")
    del asked(world)[:]
    for _ in range(2):
        status = world.ask(world.receiver.lookup_invoice(invoice.payment_hash))
        assert InvoiceStatus(state=InvoiceState.PAID, received=PRICE) == status
    verify = f"/verify/{invoice.payment_hash.hex()}"
    assert ["/.well-known/lnurlp/shop", "/cb", verify, verify] == asked(world)


def test_where_look_ups_do_not_name_the_hash_only_our_own_invoices_are_found(
    sandbox: Sandbox, world: AddressWorld
) -> None:
    world.service = Service(sandbox, opaque=True)
    invoice = make(world)
    assert InvoiceStatus(state=InvoiceState.OPEN) == world.ask(world.receiver.lookup_invoice(invoice.payment_hash))
    world.receiver = LightningAddress.open_receiver("shop@pay.test")
    for _ in range(3):
        with pytest.raises(NodeUnavailable, match="this process"):
            world.ask(world.receiver.lookup_invoice(invoice.payment_hash))
    assert 2 == asked(world).count("/cb")


def test_a_user_that_the_service_does_not_know_is_told_with_its_reason(world: AddressWorld) -> None:
    world.receiver = LightningAddress.open_receiver("nobody@pay.test")
    with pytest.raises(NodeUnavailable, match=r"nobody@pay\.test: no such user"):
        make(world)


# --- scripted replies -------------------------------------------------------------------------------------------------


@pytest.fixture
def address() -> LightningAddress:
    return LightningAddress.open_receiver("shop@pay.test")


@pytest.fixture
def invoice(sandbox: Sandbox) -> Invoice:
    """An invoice whose preimage this file knows."""
    return sandbox.seller.issue_held(PRICE, payment_hash=PAYMENT_HASH, description="a test", expires_in=TEN_MINUTES)


def offer(**changes: Any) -> HttpReply:
    members = {"tag": "payRequest", "callback": CALLBACK, "minSendable": 1_000, "maxSendable": 100_000}
    return said(**{**members, "metadata": METADATA, **changes})


def asking(address: LightningAddress, amount: Amount = PRICE) -> Conversation[Invoice]:
    return address.create_invoice(amount, description="a test", expires_in=TEN_MINUTES)


def made(invoice: Invoice, **changes: Any) -> HttpReply:
    return said(**{"pr": invoice.text, "routes": [], "verify": VERIFY, **changes})


def test_an_invoice_is_asked_for_in_millisatoshis_behind_what_the_callback_has(
    address: LightningAddress, invoice: Invoice
) -> None:
    given, calls = tell(asking(address), offer(), made(invoice))
    assert invoice == given
    assert address.network is Network.REGTEST
    assert [OFFER_URL, f"{CALLBACK}&amount=21000"] == [call.url for call in calls]
    assert ["GET", "GET"] == [call.method for call in calls]


def test_a_comment_is_sent_only_where_one_is_taken(address: LightningAddress, invoice: Invoice) -> None:
    reply = offer(commentAllowed=3, callback=f"{HOME}/cb#part")
    _, calls = tell(asking(address), reply, made(invoice))
    assert f"{HOME}/cb?amount=21000&comment=a+t" == calls[1].url


@pytest.mark.parametrize("reply", [*NONSENSE, said(status="OK")])
def test_an_address_that_offers_nothing_sensible_is_unavailable(address: LightningAddress, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable) as caught:
        tell(asking(address), reply)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"tag": "withdrawRequest"},
        {"tag": None},
        {"callback": None},
        {"callback": 7},
        {"minSendable": None},
        {"minSendable": -1},
        {"minSendable": 10**30},
        {"maxSendable": None},
        {"maxSendable": "100000"},
        {"maxSendable": True},
        {"minSendable": 21_001},
        {"maxSendable": 20_999},
        {"status": "ERROR"},
        {"status": "error", "reason": 7},
    ],
)
def test_an_offer_that_is_none_or_does_not_fit_asks_for_no_invoice(
    address: LightningAddress, changes: dict[str, Any]
) -> None:
    with pytest.raises(NodeUnavailable):
        tell(asking(address), offer(**changes))


def test_an_address_may_take_more_than_there_is(address: LightningAddress, invoice: Invoice) -> None:
    assert invoice == tell(asking(address), offer(maxSendable=10**30), made(invoice))[0]


@pytest.mark.parametrize("reply", [*NONSENSE, said(pr="lnbc1"), said(pr=7)])
def test_an_invoice_that_was_not_made_is_told(address: LightningAddress, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(asking(address), offer(), reply)


def test_an_invoice_for_another_amount_is_not_given_out(address: LightningAddress, invoice: Invoice) -> None:
    with pytest.raises(NodeUnavailable, match="another invoice"):
        tell(asking(address, Amount.sats(20)), offer(), made(invoice))


@pytest.mark.parametrize("verify", [None, "", 7, ["https://pay.test"]])
def test_an_address_whose_invoices_can_not_be_looked_up_is_refused(
    address: LightningAddress, invoice: Invoice, verify: object
) -> None:
    with pytest.raises(NodeUnavailable, match="LUD-21"):
        tell(asking(address), offer(), made(invoice, verify=verify))


@pytest.mark.parametrize("amount", [Amount.msats(1_500), NOTHING])
def test_what_is_no_whole_satoshi_is_refused_before_asking(address: LightningAddress, amount: Amount) -> None:
    with pytest.raises(WalletError):
        next(asking(address, amount))


# where the service may send us


ELSEWHERE = [
    "http://other.example/x",
    "http://pay.test/x",
    "https://127.0.0.1/x",
    "https://127.1/x",
    "https://2130706433/x",
    "https://0x7f.0.0.1/x",
    "https://0x7f000001/x",
    "https://10.0.0.8/x",
    "https://169.254.169.254/latest/meta-data",
    "https://8.8.8.8/x",
    "https://[::1]/x",
    "https://[fd00::1]/x",
    "https://localhost/x",
    "https://a.localhost/x",
    "https://printer.local/x",
    "https://metadata.google.internal/x",
    "https://router.lan/x",
    "https://intranet/x",
    "https://other.example./x",
    "https://user:password@other.example/x",
    "https://pay.test@127.0.0.1/x",
    "https://other.example\\@127.0.0.1/x",
    "https://other.example:0/x",
    "https://other.example:99999/x",
    "https://other.example/a b",
    "https://other.example/\nhost",
    "https://other.example/{payment_hash}",
    "https://\u24d4xample.com/x",
    "https://",
    "//other.example/x",
    "/x",
    "file:///etc/passwd",
    "gopher://other.example/x",
    "https://other.example/" + "x" * 3_000,
    "https://[::1",
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_nobody_is_sent_into_a_private_network(address: LightningAddress, invoice: Invoice, url: str) -> None:
    with pytest.raises(NodeUnavailable, match="sends us to where nobody"):
        tell(asking(address), offer(callback=url))
    with pytest.raises(NodeUnavailable, match="sends us to where nobody"):
        tell(asking(address), offer(), made(invoice, verify=url))


@pytest.mark.parametrize(
    "url", ["https://other.example/x", "https://OTHER.example:8443/x?y=z", "https://xn--bcher-kva.example/x"]
)
def test_another_public_name_is_asked_over_https(address: LightningAddress, invoice: Invoice, url: str) -> None:
    _, calls = tell(asking(address), offer(callback=url), made(invoice, verify=url))
    assert calls[1].url.startswith(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000/cb", "https://other.example/cb"])
def test_an_address_on_loopback_may_send_us_to_itself(invoice: Invoice, url: str) -> None:
    address = LightningAddress.open_receiver("shop@127.0.0.1:5000")
    assert invoice == tell(asking(address), offer(callback=url), made(invoice, verify=url))[0]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:5001/cb", "http://127.0.0.1/cb", "http://localhost:5000/cb", "https://127.0.0.1:5000/cb"]
)
def test_an_address_on_loopback_sends_nobody_to_its_neighbours(url: str) -> None:
    with pytest.raises(NodeUnavailable, match="sends us to where nobody"):
        tell(asking(LightningAddress.open_receiver("shop@127.0.0.1:5000")), offer(callback=url))


# looking up


@pytest.fixture
def asked_before(address: LightningAddress, invoice: Invoice) -> LightningAddress:
    """An address that has made the invoice."""
    tell(asking(address), offer(), made(invoice))
    return address


def told(invoice: Invoice, **changes: Any) -> HttpReply:
    return said(**{"status": "OK", "settled": False, "preimage": None, "pr": invoice.text, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, InvoiceStatus(state=InvoiceState.OPEN)),
        ({"preimage": PREIMAGE.hex()}, InvoiceStatus(state=InvoiceState.OPEN)),
        ({"settled": True, "preimage": PREIMAGE.hex()}, InvoiceStatus(state=InvoiceState.PAID, received=PRICE)),
        ({"settled": True}, InvoiceStatus(state=InvoiceState.PAID, received=PRICE)),
        ({"settled": True, "preimage": ""}, InvoiceStatus(state=InvoiceState.PAID, received=PRICE)),
        ({"status": "ERROR", "reason": "Not found"}, InvoiceStatus(state=InvoiceState.UNKNOWN)),
        (
            {"status": "ERROR", "reason": "payment not found.", "settled": True},
            InvoiceStatus(state=InvoiceState.UNKNOWN),
        ),
    ],
)
def test_only_settled_is_paid(
    asked_before: LightningAddress, invoice: Invoice, changes: dict[str, Any], expected: InvoiceStatus
) -> None:
    status, calls = tell(asked_before.lookup_invoice(PAYMENT_HASH), told(invoice, **changes))
    assert expected == status
    assert [VERIFY] == [call.url for call in calls]


def test_an_invoice_that_is_not_found_with_404_is_unknown(asked_before: LightningAddress) -> None:
    reply = said(404, status="ERROR", reason="Not found")
    assert InvoiceStatus(state=InvoiceState.UNKNOWN) == tell(asked_before.lookup_invoice(PAYMENT_HASH), reply)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"settled": "true"},
        {"settled": 1},
        {"settled": None},
        {"settled": True, "preimage": "00" * 32},
        {"settled": True, "preimage": PAYMENT_HASH.hex()},
        {"settled": True, "preimage": "zz"},
        {"settled": True, "pr": None},
        {"settled": True, "pr": ""},
        {"settled": True, "pr": "lnbc1"},
        {"status": "ERROR", "reason": "too many requests"},
        {"status": "ERROR", "settled": True},
    ],
)
def test_a_look_up_that_is_not_clear_is_unavailable(
    asked_before: LightningAddress, invoice: Invoice, changes: dict[str, Any]
) -> None:
    with pytest.raises(NodeUnavailable):
        tell(asked_before.lookup_invoice(PAYMENT_HASH), told(invoice, **changes))


@pytest.mark.parametrize("reply", NONSENSE)
def test_a_look_up_of_nonsense_is_unavailable(asked_before: LightningAddress, reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(asked_before.lookup_invoice(PAYMENT_HASH), reply)


def test_another_invoice_that_is_settled_is_not_ours(
    asked_before: LightningAddress, sandbox: Sandbox, invoice: Invoice
) -> None:
    same_hash = sign(
        secret_key=NOBODYS_HASH,
        network=Network.REGTEST,
        amount=Amount.sats(1_000),
        payment_hash=PAYMENT_HASH,
        payment_secret=NOBODYS_HASH,
        description="dearer",
        created_at=invoice.created_at,
        expires_in=TEN_MINUTES,
    )
    other_hash = sandbox.seller.issue(PRICE, description="another", expires_in=TEN_MINUTES)
    for other in (same_hash, other_hash):
        with pytest.raises(NodeUnavailable, match="something else"):
            tell(asked_before.lookup_invoice(PAYMENT_HASH), told(other, settled=True))


def test_an_unknown_hash_is_looked_up_where_an_invoice_for_the_least_would_be(
    address: LightningAddress, sandbox: Sandbox
) -> None:
    least = sandbox.seller.issue(Amount.sats(2), description="", expires_in=TEN_MINUTES)
    verify = f"{HOME}/v?hash={least.payment_hash.hex().upper()}&x=1"
    status, calls = tell(
        address.lookup_invoice(NOBODYS_HASH),
        offer(minSendable=1_001),
        made(least, verify=verify),
        said(status="ERROR", reason="Not found"),
    )
    assert InvoiceStatus(state=InvoiceState.UNKNOWN) == status
    assert [OFFER_URL, f"{CALLBACK}&amount=2000", f"{HOME}/v?hash={NOBODYS_HASH.hex()}&x=1"] == [
        call.url for call in calls
    ]


# the address itself


def test_an_address_can_not_pay_and_needs_no_key(address: LightningAddress) -> None:
    with pytest.raises(WalletError, match="can't pay"):
        LightningAddress.open_wallet("shop@pay.test")
    assert isinstance(address, SpendProbe)
    assert (False, []) == tell(address.spends())
    assert address.name == "lightning address shop@pay.test"
    assert address.network is None


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("shop@example.com", "https://example.com/.well-known/lnurlp/shop"),
        ("Shop@Example.COM", "https://example.com/.well-known/lnurlp/shop"),
        ("shop+api.v1_x-y@example.com", "https://example.com/.well-known/lnurlp/shop+api.v1_x-y"),
        ("shop@example.com:8080", "https://example.com:8080/.well-known/lnurlp/shop"),
        ("shop@node.lan:8080", "http://node.lan:8080/.well-known/lnurlp/shop"),
        ("shop@127.0.0.1", "http://127.0.0.1/.well-known/lnurlp/shop"),
        ("shop@127.0.0.1:5000", "http://127.0.0.1:5000/.well-known/lnurlp/shop"),
        ("shop@localhost", "http://localhost/.well-known/lnurlp/shop"),
        ("shop@127.0.0.1.example.com", "https://127.0.0.1.example.com/.well-known/lnurlp/shop"),
        ("shop@localhost.example.com", "https://localhost.example.com/.well-known/lnurlp/shop"),
    ],
)
def test_an_address_is_asked_over_https_unless_nobody_else_can_reach_it(address: str, url: str) -> None:
    assert next(asking(LightningAddress.open_receiver(address))).url == url


@pytest.mark.parametrize(
    "address",
    [
        *("", "shop", "@example.com", "shop@", "shop@example.com:0", "shop@example.com:65536", "shop@example.com/x"),
        *("a/b@example.com", "a@b@example.com", "shop@[::1]", "shop@exam ple.com", "sh\u00f6p@example.com", "shop@x?y"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(WalletError, match="name@domain"):
        LightningAddress.open_receiver(address)


def test_an_address_is_opened_without_a_scheme() -> None:
    assert isinstance(open_receiver("shop@pay.test"), LightningAddress)
    with pytest.raises(WalletError, match="can't pay"):
        open_wallet("shop@pay.test")
