"""lnd's replies, one by one: what counts as paid, what as failed, and what nobody can tell."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Network, sign
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import (
    Capability,
    Failed,
    HoldReceiver,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    Paid,
    PayOutcome,
    SpendProbe,
    Unresolved,
)
from farebox.core.secret import Secret
from farebox.core.settlement import Settlement, Settlements, SettlementStream
from farebox.lightning.lnd import Lnd
from farebox.testing.scripted import NO_REPLY, said, tell

T = TypeVar("T")

PRICE = Amount.sats(21)
PREIMAGE = b"\x05" * 32
PAYMENT_HASH = hashlib.sha256(PREIMAGE).digest()
R_HASH = base64.b64encode(PAYMENT_HASH).decode()
NO_CONNECTION = HttpReply(status=0, sent=False, reason="connection refused")
FORBIDDEN = HttpReply(status=500, body=b'{"code":2, "message":"permission denied", "details":[]}')
FOREIGN = HttpReply(status=500, body=b'{"code":2, "message":"verification failed: signature mismatch", "details":[]}')
UNTRUSTED = HttpReply(status=0, sent=False, reason="its certificate: self-signed certificate")
UNKNOWN_PAYMENT = HttpReply(status=404, body=b'{"error":{"code":5,"message":"payment isn\'t initiated"}}')
MACAROON = "02" + "ab" * 40
NODE = Lnd.from_url(f"lnd+https://lnd.test?macaroon={MACAROON}")
INVOICE = sign(
    secret_key=b"\x01" * 32,
    network=Network.REGTEST,
    amount=PRICE,
    payment_hash=PAYMENT_HASH,
    payment_secret=bytes(32),
    description="a test",
    created_at=datetime(2030, 1, 1, tzinfo=UTC),
    expires_in=timedelta(minutes=10),
)


def streamed(*results: dict[str, Any]) -> HttpReply:
    return HttpReply(status=200, body=b"".join(json.dumps({"result": each}).encode() + b"\n" for each in results))


def payment(status: str, **members: Any) -> HttpReply:
    told = {"payment_hash": PAYMENT_HASH.hex(), "payment_preimage": PREIMAGE.hex(), "fee_msat": "1500", **members}
    return streamed({**told, "status": status})


def told(**members: Any) -> dict[str, Any]:
    return {"r_hash": R_HASH, "state": "SETTLED", "amt_paid_msat": "21000", "settle_index": "7", **members}


def pay(*replies: HttpReply) -> PayOutcome:
    return tell(NODE.pay_invoice(INVOICE, fee_limit=Amount.sats(2)), *replies)[0]


def test_lnd_can_do_all_there_is() -> None:
    assert frozenset(Capability) == NODE.capabilities
    assert isinstance(NODE, HoldReceiver)
    assert isinstance(NODE, SettlementStream)
    assert isinstance(NODE, SpendProbe)


# --- the URL ----------------------------------------------------------------------------------------------------------


def test_a_macaroon_and_a_certificate_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "invoice.macaroon").write_bytes(bytes.fromhex(MACAROON))
    (tmp_path / "tls.cert").write_text("-----BEGIN CERTIFICATE-----")
    url = f"lnd+https://[::1]:8081/lnd?macaroon={tmp_path}/invoice.macaroon&cert={tmp_path}/tls.cert"
    call = next(Lnd.from_url(url).lookup_invoice(PAYMENT_HASH))
    assert f"https://[::1]:8081/lnd/v1/invoice/{PAYMENT_HASH.hex()}" == call.url
    assert call.headers is not None
    assert f"grpc-metadata-macaroon: {MACAROON}" in call.headers.reveal().splitlines()
    assert call.line is not None
    assert "-----BEGIN CERTIFICATE-----" == call.line.certificate


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("lnd+https://lnd.test", "it has no macaroon"),
        ("lnd+https://lnd.test?macaroon=", "it has no macaroon"),
        ("lnd+https://?macaroon=02", "it is written as"),
        ("lnd+https://lnd.test:99999?macaroon=02", "it is written as"),
        ("lnd+https://hunter2@lnd.test?macaroon=02", "it is written as"),
        ("lnd+https://lnd.test?macaroon=02#hunter2", "it is written as"),
        (f"lnd+https://lnd.test?macaroon={MACAROON}&hunter=hunter2", "hunter is not known"),
        ("lnd+https://lnd.test?macaroon=/nowhere/hunter", "can't be read from /nowhere/hunter: No such file"),
        ("lnd+https://lnd.test?macaroon=" + "00" * 40, "the macaroon is none"),
        (f"lnd+https://lnd.test?macaroon={MACAROON}&cert=/nowhere/tls.cert", "the certificate can't be read"),
        (f"lnd+https://lnd.test?macaroon={MACAROON}&cert=/dev/null", "is no certificate"),
    ],
)
def test_a_url_that_is_none_says_in_a_line_what_is_wrong_and_nothing_secret(url: str, words: str) -> None:
    with pytest.raises(WalletError) as caught:
        Lnd.open_wallet(url)
    assert words in str(caught.value)
    assert not {"hunter2", MACAROON, "\n"} & {*str(caught.value).split(), *str(caught.value)}


# --- being paid -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (FORBIDDEN, "the macaroon does not allow it"),
        (FOREIGN, "it is not a macaroon of this node"),
        (said(500, code=2, message="cannot get macaroon: invalid ID"), "it is not a macaroon of this node"),
        (UNTRUSTED, "self-signed certificate); name the node's own with cert=PATH/tls.cert"),
    ],
)
def test_what_keeps_lnd_from_answering_is_told_with_what_to_do(reply: HttpReply, words: str) -> None:
    with pytest.raises(NodeUnavailable, match=re.escape(words)):
        tell(NODE.lookup_invoice(PAYMENT_HASH), reply)


def test_an_expired_certificate_is_not_told_to_be_named() -> None:
    with pytest.raises(NodeUnavailable) as caught:
        tell(NODE.lookup_invoice(PAYMENT_HASH), HttpReply(status=0, reason="its certificate: certificate has expired"))
    assert "cert=" not in str(caught.value)


def test_the_macaroon_of_another_node_is_not_known_to_spend_or_not() -> None:
    assert tell(NODE.spends(), FOREIGN)[0] is None


def test_an_invoice_is_asked_for_in_millisatoshis() -> None:
    made = NODE.create_invoice(PRICE, description="x" * 2000, expires_in=timedelta(minutes=10))
    invoice, (call,) = tell(made, said(payment_request=INVOICE.text, r_hash=R_HASH))
    asked = json.loads(call.body)
    assert ("POST", "https://lnd.test:8080/v1/invoices") == (call.method, call.url)
    assert ("21000", "600", 639) == (asked["value_msat"], asked["expiry"], len(asked["memo"]))
    assert INVOICE == invoice
    assert Network.REGTEST is NODE.network


@pytest.mark.parametrize(
    "reply",
    [
        NO_CONNECTION,
        NO_REPLY,
        FORBIDDEN,
        said(),
        said(payment_request="lnbcrt1"),
        HttpReply(status=200, body=b"<html>"),
    ],
)
def test_whatever_is_no_invoice_makes_the_node_unavailable(reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(NODE.create_invoice(PRICE, description="", expires_in=timedelta(minutes=10)), reply)


def test_an_invoice_for_another_amount_is_refused() -> None:
    with pytest.raises(NodeUnavailable, match="another invoice"):
        tell(
            NODE.create_invoice(Amount.sats(22), description="", expires_in=timedelta(minutes=10)),
            said(payment_request=INVOICE.text),
        )


def test_a_hold_invoice_has_the_hash_that_was_asked_for() -> None:
    asked = NODE.create_hold_invoice(PRICE, payment_hash=PAYMENT_HASH, description="", expires_in=timedelta(minutes=10))
    invoice, (call,) = tell(asked, said(payment_request=INVOICE.text))
    assert (R_HASH, INVOICE) == (json.loads(call.body)["hash"], invoice)
    with pytest.raises(NodeUnavailable, match="another invoice"):
        tell(
            NODE.create_hold_invoice(PRICE, payment_hash=bytes(32), description="", expires_in=timedelta(minutes=10)),
            said(payment_request=INVOICE.text),
        )


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("OPEN", InvoiceStatus(state=InvoiceState.OPEN)),
        ("ACCEPTED", InvoiceStatus(state=InvoiceState.HELD)),
        ("CANCELED", InvoiceStatus(state=InvoiceState.CANCELLED)),
        ("SETTLED", InvoiceStatus(state=InvoiceState.PAID, received=PRICE)),
    ],
)
def test_only_a_settled_invoice_has_received_anything_whatever_preimage_is_shown(
    state: str, status: InvoiceStatus
) -> None:
    shown = told(state=state, r_preimage=base64.b64encode(PREIMAGE).decode())
    assert status == tell(NODE.lookup_invoice(PAYMENT_HASH), said(**shown))[0]
    assert status == tell(NODE.settle_invoice(Secret(PREIMAGE)), said(), said(**shown))[0]
    assert status == tell(NODE.cancel_invoice(PAYMENT_HASH), FORBIDDEN, said(**shown))[0]


@pytest.mark.parametrize("body", [b"", b"404 page not found", b"<html>", b"{}", b'{"message": "not found"}'])
def test_that_it_is_not_found_is_believed_of_lnd_alone(body: bytes) -> None:
    with pytest.raises(NodeUnavailable):
        tell(NODE.lookup_invoice(PAYMENT_HASH), HttpReply(status=404, body=body))


def test_an_invoice_that_lnd_does_not_know_is_unknown() -> None:
    status, _ = tell(NODE.lookup_invoice(PAYMENT_HASH), said(404, code=5, message="unable to locate invoice"))
    assert InvoiceStatus(state=InvoiceState.UNKNOWN) == status


@pytest.mark.parametrize(
    "reply",
    [
        NO_REPLY,
        FORBIDDEN,
        said(**told(state="PAID")),
        said(**told(amt_paid_msat=21000)),
        said(**told(amt_paid_msat="9" * 5000)),
        said(**told(r_hash=base64.b64encode(bytes(32)).decode())),
        HttpReply(status=200, body=b"[" * 100_000),
    ],
)
def test_what_is_no_answer_says_nothing_of_an_invoice(reply: HttpReply) -> None:
    with pytest.raises(NodeUnavailable):
        tell(NODE.lookup_invoice(PAYMENT_HASH), reply)


@pytest.mark.parametrize(
    ("reply", "spends"),
    [
        (FORBIDDEN, False),
        (said(400, error={"code": 3, "message": "invalid payment request"}), True),
        (NO_CONNECTION, None),
        (said(404, code=5, message="Not Found"), None),
        (said(500, code=2, message="wallet locked, unlock it to enable full RPC access"), None),
        (said(500, code=2, message="wallet not created, create one to enable full RPC access"), None),
        (said(501, code=12, message="unknown service routerrpc.Router"), None),
        (said(503, code=14, message="the RPC server is in the process of starting up"), None),
        (HttpReply(status=502, body=b"<html>"), None),
    ],
)
def test_a_macaroon_is_known_to_spend_or_not_without_paying_anything(reply: HttpReply, spends: bool | None) -> None:
    found, (call,) = tell(NODE.spends(), reply)
    assert (spends, b"{}") == (found, call.body)


# --- settlements ------------------------------------------------------------------------------------------------------


def test_settlements_are_read_on_from_the_index() -> None:
    other = hashlib.sha256(b"other").digest()
    lines = streamed(told(), told(r_hash=base64.b64encode(other).decode(), settle_index="9", amt_paid_msat="1"))
    read, (call,) = tell(NODE.settlements("6", wait=timedelta(seconds=30)), lines)
    assert call.url.endswith("/v1/invoices/subscribe?settle_index=6")
    assert timedelta(seconds=30) == call.timeout
    assert (
        Settlements(
            settled=(
                Settlement(payment_hash=PAYMENT_HASH, received=PRICE),
                Settlement(payment_hash=other, received=Amount.msats(1)),
            ),
            cursor="9",
        )
        == read
    )


def test_a_stream_also_tells_of_what_is_not_settled_and_that_moves_nothing() -> None:
    read, _ = tell(NODE.settlements("6", wait=timedelta(seconds=1)), streamed(told(state="OPEN", settle_index="0")))
    assert Settlements(settled=(), cursor="6") == read


def test_a_stream_that_is_quiet_is_told_from_a_node_that_is_away() -> None:
    quiet, _ = tell(NODE.settlements("6", wait=timedelta(seconds=1)), NO_REPLY, said(invoices=[]))
    assert Settlements(settled=(), cursor="6") == quiet
    for replies in ([NO_REPLY, NO_REPLY], [NO_CONNECTION], [FORBIDDEN], [HttpReply(status=200, body=b'{"x":1}')]):
        with pytest.raises(NodeUnavailable):
            tell(NODE.settlements("6", wait=timedelta(seconds=1)), *replies)


def test_from_the_beginning_on_all_invoices_are_gone_through() -> None:
    pages = [
        said(invoices=[told(), told(state="OPEN", settle_index="0")], last_index_offset="300"),
        said(invoices=[], last_index_offset="300"),
    ]
    read, calls = tell(NODE.settlements("0", wait=timedelta(seconds=1)), *pages)
    assert ("7", True, 1) == (read.cursor, read.more, len(read.settled))
    assert "index_offset=300" in calls[1].url


def test_a_cursor_is_the_last_index_before_the_instant() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    before, after = str(int(at.timestamp()) - 1), str(int(at.timestamp()))
    pages = [
        said(invoices=[told(settle_date=after, settle_index="12")], first_index_offset="300"),
        said(
            invoices=[
                told(settle_date=before, settle_index="10"),
                told(settle_date=before, settle_index="11"),
                told(settle_date="0", settle_index="0"),
            ],
            first_index_offset="1",
        ),
    ]
    assert "11" == tell(NODE.cursor_at(at), *pages)[0]
    assert "0" == tell(NODE.cursor_at(at), said(invoices=[], first_index_offset="0"))[0]


# --- paying -----------------------------------------------------------------------------------------------------------


def test_the_fee_limit_is_told_and_the_fee_is_read() -> None:
    outcome, (call,) = tell(NODE.pay_invoice(INVOICE, fee_limit=Amount.msats(1500)), payment("SUCCEEDED"))
    assert Paid(preimage=Secret(PREIMAGE), fee=Amount.msats(1500)) == outcome
    assert "1500" == json.loads(call.body)["fee_limit_msat"]


@pytest.mark.parametrize("preimage", ["00" * 32, "", "x", PAYMENT_HASH.hex()])
def test_a_success_that_proves_nothing_is_unresolved(preimage: str) -> None:
    assert isinstance(pay(payment("SUCCEEDED", payment_preimage=preimage)), Unresolved)


def test_a_payment_that_lnd_calls_failed_is_failed() -> None:
    assert Failed(reason="lnd: timeout") == pay(payment("FAILED", failure_reason="FAILURE_REASON_TIMEOUT"))


def test_a_payment_without_a_route_says_what_helps() -> None:
    outcome = pay(payment("FAILED", failure_reason="FAILURE_REASON_NO_ROUTE"))
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("lnd: no route (within the fee limit; open a channel")


@pytest.mark.parametrize(
    "reply",
    [
        NO_REPLY,
        HttpReply(status=502, body=b"<html>bad gateway</html>"),
        HttpReply(status=200),
        payment("IN_FLIGHT"),
        payment("INITIATED"),
        payment("SOMETHING_NEW"),
        payment("SUCCEEDED", payment_hash="00" * 32),
    ],
)
def test_whatever_is_not_said_for_good_is_unresolved(reply: HttpReply) -> None:
    outcome = pay(reply)
    assert isinstance(outcome, Unresolved)
    assert outcome.known


def test_what_was_certainly_not_sent_has_failed() -> None:
    assert Failed(reason="lnd did not answer (connection refused)") == pay(NO_CONNECTION)


def test_a_macaroon_that_may_not_pay_has_paid_nothing() -> None:
    outcome = pay(FORBIDDEN)
    assert isinstance(outcome, Failed)
    assert "offchain:write" in outcome.reason


@pytest.mark.parametrize("code", [2, 3, 6])
def test_a_refusal_is_failed_only_if_no_payment_is_known(code: int) -> None:
    refused = said(409, error={"code": code, "message": "invoice is already paid"})
    assert isinstance(pay(refused, payment("SUCCEEDED")), Paid)
    assert isinstance(pay(refused, payment("IN_FLIGHT")), Unresolved)
    assert isinstance(pay(refused, NO_REPLY), Unresolved)
    unknown = pay(refused, UNKNOWN_PAYMENT)
    assert isinstance(unknown, Unresolved if code == 6 else Failed)


def test_a_payment_that_lnd_has_never_heard_of_is_unknown_and_not_failed() -> None:
    outcome, _ = tell(NODE.lookup_payment(PAYMENT_HASH), UNKNOWN_PAYMENT)
    assert Unresolved(reason="lnd has never heard of this payment", known=False) == outcome


def test_who_may_not_ask_about_payments_is_told_so() -> None:
    with pytest.raises(WalletError, match="offchain:read"):
        tell(NODE.lookup_payment(PAYMENT_HASH), FORBIDDEN)


def test_the_balance_is_what_the_channels_hold_for_us() -> None:
    assert Amount.msats(2_000_001) == tell(NODE.balance(), said(local_balance={"sat": "2000", "msat": "2000001"}))[0]
    for reply in (NO_REPLY, FORBIDDEN, said(), said(local_balance=[]), said(local_balance={"msat": -1})):
        with pytest.raises(WalletError):
            tell(NODE.balance(), reply)
