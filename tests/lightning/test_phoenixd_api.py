from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any

import httpx
import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.ports import InvoiceState
from farebox.core.secret import Secret
from farebox.lightning.phoenixd_api import ReplyLost, phoenixd_api
from farebox.lightning.sandbox import Sandbox, Trouble
from farebox.testing.backends import NOBODYS_HASH, PRICE, TEN_MINUTES

PASSWORDS = {"seller's": "seller", "buyer's": "buyer", "full": "refunds"}
SELLER, BUYER, FULL = ("", "seller's"), ("", "buyer's"), ("", "full")


class Asked:
    """phoenixd's API, asked as curl would."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._transport = httpx.ASGITransport(phoenixd_api(sandbox, PASSWORDS))

    def __call__(self, method: str, path: str, *, auth: Any = BUYER, **form: str) -> httpx.Response:
        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://phoenixd.test") as client:
                return await client.request(method, path, auth=auth, data=form or None)

        return asyncio.run(asked())


@pytest.fixture
def ask(sandbox: Sandbox) -> Asked:
    return Asked(sandbox)


def issue(sandbox: Sandbox) -> Invoice:
    return sandbox.seller.issue(PRICE, description="a test", expires_in=TEN_MINUTES)


@pytest.mark.parametrize("auth", [None, ("", ""), ("buyer's", ""), ("", "buyer"), ("", "buyer's ")])
def test_a_wrong_password_is_401(ask: Asked, auth: Any) -> None:
    reply = ask("GET", "/getbalance", auth=auth)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"].startswith("Basic ")
    assert reply.text == "Invalid authentication (use basic auth with the http password set in phoenix.conf)"


def test_any_user_name_will_do(ask: Asked) -> None:
    assert ask("GET", "/getbalance", auth=("whoever", "buyer's")).status_code == 200


def test_an_authorization_that_is_no_base64_is_401(sandbox: Sandbox) -> None:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(phoenixd_api(sandbox, {"p": "buyer"}))
        async with httpx.AsyncClient(transport=transport, base_url="http://phoenixd.test") as client:
            return await client.get("/getinfo", headers={"authorization": "Basic ???"})

    assert asyncio.run(asked()).status_code == 401


def test_the_password_says_whose_balance_is_told(ask: Asked) -> None:
    assert ask("GET", "/getbalance", auth=BUYER).json() == {"balanceSat": 1_000_000, "feeCreditSat": 0}
    assert ask("GET", "/getbalance", auth=SELLER).json() == {"balanceSat": 0, "feeCreditSat": 0}


def test_info_tells_the_chain_and_the_node(ask: Asked, sandbox: Sandbox) -> None:
    told = ask("GET", "/getinfo", auth=SELLER).json()
    assert {"nodeId", "channels", "chain", "blockHeight", "version"} == set(told)
    assert told["chain"] == "regtest"
    assert sandbox.seller.public_key.hex() == told["nodeId"]


def test_an_invoice_has_the_members_of_phoenixd(ask: Asked) -> None:
    told = ask(
        "POST", "/createinvoice", auth=SELLER, amountSat="21", description="tea", expirySeconds="600", externalId="7"
    ).json()
    invoice = decode(told["serialized"])
    assert {"amountSat": 21, "paymentHash": invoice.payment_hash.hex(), "serialized": invoice.text} == told
    assert (Amount.sats(21), "tea", TEN_MINUTES) == (invoice.amount, invoice.description, invoice.expires_in)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"amountSat": "21"}, "Must provide either a description or descriptionHash"),
        ({"description": "tea"}, "Request parameter amountSat is missing"),
        ({"description": "tea", "amountSat": "x"}, "couldn't be parsed/converted to integer"),
        ({"description": "tea", "amountSat": "-1"}, "couldn't be parsed/converted to integer"),
        ({"description": "tea", "amountSat": "0"}, "make no invoice"),
        ({"description": "tea", "amountSat": "9" * 18}, "make no invoice"),
        ({"description": "tea", "amountSat": "1", "expirySeconds": "9" * 18}, "make no invoice"),
        ({"description": "t" * 129, "amountSat": "21"}, "description is too long (max 128 characters)"),
    ],
)
def test_a_form_that_makes_no_invoice_is_400_with_a_reason(ask: Asked, form: dict[str, str], text: str) -> None:
    reply = ask("POST", "/createinvoice", auth=SELLER, **form)
    assert reply.status_code == 400
    assert text in reply.text


def test_a_payment_has_the_members_of_phoenixd(ask: Asked, sandbox: Sandbox) -> None:
    sandbox.buyer.fee = Amount.msats(4_084)
    invoice = issue(sandbox)
    told = ask("POST", "/payinvoice", invoice=invoice.text).json()
    preimage = bytes.fromhex(told.pop("paymentPreimage"))
    assert invoice.payment_hash == hashlib.sha256(preimage).digest()
    assert len(told.pop("paymentId")) == 36
    assert {"recipientAmountSat": 21, "routingFeeSat": 4, "paymentHash": invoice.payment_hash.hex()} == told


def test_a_second_payment_is_refused_with_a_reason_as_phoenixd_does(ask: Asked, sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    ask("POST", "/payinvoice", invoice=invoice.text)
    reply = ask("POST", "/payinvoice", invoice=invoice.text)
    assert reply.status_code == 200
    assert {"paymentHash": invoice.payment_hash.hex(), "reason": "this invoice has already been paid"} == reply.json()


def test_a_failed_payment_is_200_with_a_reason(ask: Asked, sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    sandbox.script(None, Trouble.FAIL)
    reply = ask("POST", "/payinvoice", invoice=invoice.text)
    assert reply.status_code == 200
    assert set(reply.json()) == {"paymentHash", "reason"}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({}, "Request parameter invoice is missing"),
        ({"invoice": "lnbc1nonsense"}, "Request parameter invoice couldn't be parsed/converted to bolt11invoice"),
    ],
)
def test_what_is_no_invoice_is_400(ask: Asked, form: dict[str, str], text: str) -> None:
    reply = ask("POST", "/payinvoice", **form)
    assert (400, text) == (reply.status_code, reply.text)


def test_the_seller_can_not_pay(ask: Asked, sandbox: Sandbox) -> None:
    invoice = sandbox.buyer.issue(PRICE, description="a test", expires_in=TEN_MINUTES)
    assert ask("POST", "/payinvoice", auth=SELLER, invoice=invoice.text).status_code == 401


SPENDING = (
    "payinvoice",
    "payoffer",
    "paylnaddress",
    "lnurlpay",
    "lnurlauth",
    "sendtoaddress",
    "bumpfee",
    "closechannel",
)


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
@pytest.mark.parametrize("name", SPENDING)
def test_the_seller_is_refused_all_that_could_move_money(ask: Asked, sandbox: Sandbox, name: str, method: str) -> None:
    invoice = sandbox.buyer.issue(PRICE, description="a test", expires_in=TEN_MINUTES)
    terms = {"invoice": invoice.text, "offer": "lno1", "address": "a@b", "lnurl": "lnurl1", "amountSat": "1"}
    for spelling in (
        f"/{name}",
        f"/{name}/",
        f"http://phoenixd.test//{name}",
        f"/%{ord(name[0]):02x}{name[1:]}",
        f"/{name}?full=1",
    ):
        assert ask(method, spelling, auth=SELLER, **terms).status_code == 401
    assert ask(method, f"/{name.upper()}", auth=SELLER, **terms).status_code == 404
    assert ask(method, f"/payments/{name}", auth=SELLER, **terms).status_code in (401, 404)
    assert sandbox.buyer.invoice_status(invoice.payment_hash).state is InvoiceState.OPEN


def test_an_unpaid_invoice_shows_its_preimage_and_is_not_paid(ask: Asked, sandbox: Sandbox, clock: Any) -> None:
    invoice = issue(sandbox)
    told = ask("GET", f"/payments/incoming/{invoice.payment_hash.hex()}", auth=SELLER).json()
    assert invoice.payment_hash == hashlib.sha256(bytes.fromhex(told.pop("preimage"))).digest()
    created_at_ms = int(clock().timestamp()) * 1000  # ms
    assert told == {
        "type": "incoming_payment",
        "subType": "lightning",
        "paymentHash": invoice.payment_hash.hex(),
        "description": "a test",
        "invoice": invoice.text,
        "isPaid": False,
        "isExpired": False,
        "requestedSat": 21,
        "receivedSat": 0,
        "fees": 0,
        "expiresAt": created_at_ms + 600_000,
        "createdAt": created_at_ms,
    }


def test_a_paid_invoice_says_when_and_how_much(ask: Asked, sandbox: Sandbox, clock: Any) -> None:
    invoice = issue(sandbox)
    ask("POST", "/payinvoice", invoice=invoice.text)
    told = ask("GET", f"/payments/incoming/{invoice.payment_hash.hex()}", auth=SELLER).json()
    assert (True, 21, int(clock().timestamp()) * 1000) == (told["isPaid"], told["receivedSat"], told["completedAt"])


def test_a_hold_invoice_shows_no_preimage_before_it_is_settled(ask: Asked, sandbox: Sandbox) -> None:
    preimage = Secret(b"\x07" * 32)
    payment_hash = hashlib.sha256(preimage.reveal()).digest()
    sandbox.seller.issue_held(PRICE, payment_hash=payment_hash, description="", expires_in=TEN_MINUTES)
    told = ask("GET", f"/payments/incoming/{payment_hash.hex()}", auth=SELLER).json()
    assert (False, "00" * 32) == (told["isPaid"], told["preimage"])


@pytest.mark.parametrize(("taken", "told"), [(True, "paymentPreimage"), (False, "reason")])
def test_a_payment_that_is_held_is_answered_when_that_has_ended(
    ask: Asked, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, taken: bool, told: str
) -> None:
    preimage = Secret(b"\x07" * 32)
    payment_hash = hashlib.sha256(preimage.reveal()).digest()
    invoice = sandbox.seller.issue_held(PRICE, payment_hash=payment_hash, description="", expires_in=TEN_MINUTES)
    looked = sandbox.buyer.find_transfer

    def look(asked_for: bytes) -> Any:
        found = looked(asked_for)
        if found is not None:  # it is held: its payee ends it at the first look
            sandbox.seller.settle(preimage) if taken else sandbox.seller.cancel(payment_hash)
        return found

    monkeypatch.setattr(sandbox.buyer, "find_transfer", look)
    assert told in ask("POST", "/payinvoice", invoice=invoice.text).json()


def test_an_outgoing_payment_has_the_members_of_phoenixd(ask: Asked, sandbox: Sandbox, clock: Any) -> None:
    sandbox.buyer.fee = Amount.msats(4_084)
    invoice = issue(sandbox)
    paid = ask("POST", "/payinvoice", invoice=invoice.text).json()
    at_ms = int(clock().timestamp()) * 1000  # ms
    assert ask("GET", f"/payments/outgoingbyhash/{invoice.payment_hash.hex()}").json() == {
        "type": "outgoing_payment",
        "subType": "lightning",
        "paymentId": paid["paymentId"],
        "paymentHash": invoice.payment_hash.hex(),
        "preimage": paid["paymentPreimage"],
        "isPaid": True,
        "sent": 25,
        "fees": 4_084,
        "invoice": invoice.text,
        "completedAt": at_ms,
        "createdAt": at_ms,
    }


def test_a_payment_in_flight_is_neither_paid_nor_completed(ask: Asked, sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    sandbox.script(None, Trouble.STAY_IN_FLIGHT)
    with pytest.raises(ReplyLost):
        ask("POST", "/payinvoice", invoice=invoice.text)
    told = ask("GET", f"/payments/outgoingbyhash/{invoice.payment_hash.hex()}").json()
    assert told["isPaid"] is False
    assert not {"preimage", "completedAt"} & set(told)
    again = ask("POST", "/payinvoice", invoice=invoice.text).json()
    assert again["reason"] == "another payment is in progress for that invoice"


def test_a_failed_payment_is_completed_and_not_paid(ask: Asked, sandbox: Sandbox) -> None:
    invoice = issue(sandbox)
    sandbox.script(None, Trouble.FAIL)
    ask("POST", "/payinvoice", invoice=invoice.text)
    told = ask("GET", f"/payments/outgoingbyhash/{invoice.payment_hash.hex()}").json()
    assert told["isPaid"] is False
    assert "completedAt" in told
    assert "preimage" not in told


def test_a_scripted_loss_breaks_off_after_the_payment_was_made(ask: Asked, sandbox: Sandbox) -> None:
    sandbox.script(None, Trouble.LOSE_REPLY)
    with pytest.raises(ReplyLost):
        ask("POST", "/payinvoice", invoice=issue(sandbox).text)
    assert sandbox.seller.funds() == PRICE


@pytest.mark.parametrize("direction", ["incoming", "outgoingbyhash"])
def test_a_hash_of_nobody_is_404_and_one_that_is_none_is_400(ask: Asked, direction: str) -> None:
    unknown = ask("GET", f"/payments/{direction}/{NOBODYS_HASH.hex()}")
    assert (404, "Not found") == (unknown.status_code, unknown.text)
    assert ask("GET", f"/payments/{direction}/nonsense").status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/payments/sideways/00", 404),
        ("GET", "/payinvoice", 405),
        ("POST", "/getinfo", 405),
    ],
)
def test_what_is_not_there_is_404_and_the_wrong_method_405(ask: Asked, method: str, path: str, status: int) -> None:
    assert ask(method, path).status_code == status


def test_an_invoice_is_decoded_in_millisatoshis(ask: Asked, sandbox: Sandbox) -> None:
    invoice = sandbox.seller.issue(Amount.msats(1_500), description="a test", expires_in=TEN_MINUTES)
    told = ask("POST", "/decodeinvoice", invoice=invoice.text).json()
    assert ("regtest", 1_500, "a test", 600) == (
        told["chain"],
        told["amount"],
        told["description"],
        told["expirySeconds"],
    )


def test_a_form_without_end_is_refused(ask: Asked) -> None:
    assert ask("POST", "/payinvoice", invoice="l" * 100_000).status_code == 413


def test_the_sellers_second_password_pays_and_is_the_sellers(ask: Asked, sandbox: Sandbox) -> None:
    ask("POST", "/payinvoice", invoice=issue(sandbox).text)
    back = sandbox.buyer.issue(Amount.sats(20), description="a refund", expires_in=TEN_MINUTES)
    assert ask("POST", "/payinvoice", auth=SELLER, invoice=back.text).status_code == 401
    assert ask("POST", "/payinvoice", auth=FULL, invoice=back.text).json()["recipientAmountSat"] == 20
    assert ask("GET", "/getbalance", auth=SELLER).json()["balanceSat"] == 1


def test_what_was_paid_is_listed_the_newest_first_within_its_bounds(ask: Asked, sandbox: Sandbox, clock: Any) -> None:
    hashes, times = [], []
    for _ in range(4):
        invoice = issue(sandbox)
        ask("POST", "/payinvoice", invoice=invoice.text)
        hashes.append(invoice.payment_hash.hex())
        times.append(str(int(clock.now.timestamp() * 1000)))
        clock.forward(TEN_MINUTES / 10)
    issue(sandbox)  # is not paid, so it is not there

    def listed(query: str, auth: Any = SELLER) -> list[str]:
        return [each["paymentHash"] for each in ask("GET", f"/payments/incoming?{query}", auth=auth).json()]

    assert hashes[::-1] == listed("")
    assert hashes[2:0:-1] == listed(f"from={times[1]}&to={times[2]}")
    assert hashes[2:0:-1] == listed("limit=2&offset=1")
    assert [] == listed("externalId=7")
    assert [] == listed("", auth=BUYER)
    one = ask("GET", f"/payments/incoming/{hashes[0]}", auth=SELLER).json()
    assert one == ask("GET", f"/payments/incoming?to={times[0]}", auth=SELLER).json()[0]
    assert ask("GET", "/payments/incoming?limit=x", auth=SELLER).status_code == 400


def test_twenty_are_listed_unless_more_are_asked_for(ask: Asked, sandbox: Sandbox) -> None:
    for _ in range(21):
        sandbox.buyer.pay(issue(sandbox), fee_limit=None)
    assert len(ask("GET", "/payments/incoming", auth=SELLER).json()) == 20
    assert len(ask("GET", "/payments/incoming?limit=30", auth=SELLER).json()) == 21


def test_a_caller_who_left_in_the_middle_of_asking_is_no_error() -> None:
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    async def story() -> None:
        sandbox = Sandbox.open(None)
        token = base64.b64encode(b":seller's")
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/createinvoice",
            "query_string": b"",
            "headers": [(b"authorization", b"Basic " + token)],
        }
        await phoenixd_api(sandbox, PASSWORDS)(scope, receive, send)
        sandbox.close()

    asyncio.run(story())
    assert [] == sent
