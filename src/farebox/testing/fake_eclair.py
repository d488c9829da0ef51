"""eclair's HTTP API in front of the sandbox, for tests: a function from a call to its reply, without a socket.

Rules
1. Forms, members, units and statuses are those of eclair (https://acinq.github.io/eclair, and its source of August
   2026). An unpaid invoice shows a preimage, an unknown invoice is 404, an unknown payment an empty list.
2. A payment goes in two parts where it can, and a failed attempt stays in the list beside the one that was sent.
3. It pays what it was told to pay again; only the list of attempts tells that it was paid before.
4. A reply that the sandbox loses, or one of a node that can't be reached, is no reply to what may have been seen. A
   payment that stays in flight is answered 408 when eclair's patience ends, which here is at once.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.errors import MalformedAmount, MalformedInvoice
from farebox.core.exchange import HASH_BYTES, Json
from farebox.core.ports import Clock, Failed, HttpCall, HttpReply, InvoiceState, Paid, Unresolved
from farebox.core.secret import Secret
from farebox.http.converse import converse
from farebox.lightning.sandbox import SandboxNode
from farebox.lightning.sandbox.transfer import Transfer, TransferState

_NO_REPLY: Final = HttpReply(status=0, sent=True, reason="ReadError")
_DEFAULT_EXPIRY_S: Final = 3600
_DEFAULT_FLAT_SATS: Final = 21
_DEFAULT_PERCENT: Final = 3
Form = Mapping[str, str]


class FakeEclair:
    """Two eclair nodes at one address; the password says which is asked. `calls` are the methods that were called."""

    def __init__(self, passwords: Mapping[str, SandboxNode], clock: Clock) -> None:
        self._clock = clock
        self._opened = {
            f"Basic {base64.b64encode(f':{each}'.encode()).decode()}": node for each, node in passwords.items()
        }
        self._failed_before: set[bytes] = set()
        self._own: dict[bytes, tuple[SandboxNode, Secret[bytes]]] = {}
        self.calls: list[str] = []

    def __call__(self, call: HttpCall) -> HttpReply:
        """The reply to one call."""
        assert call.method == "POST", "eclair is asked by POST only"
        lines = (call.headers.reveal() if call.headers is not None else "").splitlines()
        node = self._opened.get(dict(line.split(": ", 1) for line in lines).get("authorization", ""))
        if node is None:
            return _refused(401, "The supplied authentication is invalid")
        method = urlsplit(call.url).path.strip("/")
        self.calls.append(method)
        form = dict(parse_qsl(call.body.decode(), keep_blank_values=True))
        if not node.reachable:
            return _NO_REPLY
        match method:
            case "getinfo":
                return _said({"version": "0.14.0", "nodeId": node.public_key.hex(), "network": node.network.value})
            case "usablebalances":
                return _said(_channels(node.funds()))
            case "createinvoice":
                return self._create_invoice(node, form)
            case "getreceivedinfo":
                return _received_info(node, form)
            case "payinvoice":
                return self._pay_invoice(node, form)
            case "getsentinfo":
                return self._sent_info(node, form)
        return _refused(404, "The requested resource could not be found.")

    def _pay_invoice(self, node: SandboxNode, form: Form) -> HttpReply:
        if "invoice" not in form:
            return _refused(400, "Request is missing required form field 'invoice'")
        try:
            invoice = decode(form["invoice"])
        except MalformedInvoice:
            return _refused(400, "The form field 'invoice' was malformed")
        if invoice.amount is None:
            return _refused(400, "The form field 'invoice' was malformed")
        if invoice.expires_at <= self._clock():
            return _refused(400, "API call failed: check logs for more details")
        assert form["blocking"] == "true", "without it eclair answers before anything has happened"
        earlier = node.find_transfer(invoice.payment_hash)
        if earlier is not None and earlier.state is TransferState.FAILED:
            self._failed_before.add(invoice.payment_hash)
        outcome = node.pay(invoice, fee_limit=_fee_limit(form, invoice.amount))
        if isinstance(outcome, Unresolved) and invoice.payment_hash in self._own:
            payee, preimage = self._own[invoice.payment_hash]
            payee.settle(preimage)
            outcome = converse(node.lookup_payment(invoice.payment_hash))
        match outcome:
            case Paid(preimage=preimage, fee=fee):
                return _said(_payment_sent(invoice, preimage.reveal(), fee))
            case Failed(reason=reason):
                members: dict[str, Json] = {"failures": [{"amount": invoice.amount.msat, "route": [], "t": reason}]}
                return _said({"type": "payment-failed", "paymentHash": invoice.payment_hash.hex(), **members})
            case Unresolved(reason="the reply was lost"):
                return _NO_REPLY
            case Unresolved():
                return _refused(408, "request timed out")

    def _create_invoice(self, node: SandboxNode, form: Form) -> HttpReply:
        if "description" not in form:
            return _refused(500, "API call failed: check logs for more details")
        try:
            amount = Amount.msats(int(form["amountMsat"]))
            expires_in = timedelta(seconds=int(form.get("expireIn", _DEFAULT_EXPIRY_S)))
            if "paymentPreimage" in form:
                preimage = Secret(bytes.fromhex(form["paymentPreimage"]))
                payment_hash = sha256(preimage.reveal()).digest()
                made = node.create_hold_invoice(
                    amount, payment_hash=payment_hash, description=form["description"], expires_in=expires_in
                )
                invoice = converse(made)
                self._own[payment_hash] = node, preimage
            else:
                invoice = node.issue(amount, description=form["description"], expires_in=expires_in)
        except (MalformedAmount, MalformedInvoice, ValueError, OverflowError):
            return _refused(400, "The form field 'amountMsat' was malformed")
        return _said(_invoice_json(invoice))

    def _sent_info(self, node: SandboxNode, form: Form) -> HttpReply:
        payment_hash = _hash(form)
        if payment_hash is None:
            return _refused(400, "The form field 'paymentHash' was malformed")
        transfer = node.find_transfer(payment_hash)
        if transfer is None:
            return _said([])
        attempts = [_attempt(transfer, status) for status in _statuses(transfer)]
        if payment_hash in self._failed_before:
            attempts.insert(0, _attempt(transfer, {"type": "failed", "failures": []}))
        return _said(attempts)


def _fee_limit(form: Form, amount: Amount) -> Amount:
    """The larger of the two limits; each of them has a default."""
    flat = Amount.sats(int(form.get("maxFeeFlatSat", _DEFAULT_FLAT_SATS)))
    share = Amount.msats(int(amount.msat * float(form.get("maxFeePct", _DEFAULT_PERCENT)) / 100))
    return max(flat, share)


def _received_info(node: SandboxNode, form: Form) -> HttpReply:
    payment_hash = _hash(form)
    if payment_hash is None:
        return _refused(400, "The form field 'paymentHash' was malformed")
    invoice = node.find_invoice(payment_hash)
    if invoice is None:
        return _refused(404, "Not found")
    status = node.invoice_status(payment_hash)
    kinds = {InvoiceState.PAID: "received", InvoiceState.CANCELLED: "expired"}
    told: dict[str, Json] = {"type": kinds.get(status.state, "pending")}
    if status.state is InvoiceState.PAID:
        told["amount"] = status.received.msat
    preimage = node.preimage_of(invoice)
    return _said(
        {
            "invoice": _invoice_json(invoice),
            "paymentPreimage": (bytes(HASH_BYTES) if preimage is None else preimage.reveal()).hex(),
            "paymentType": "Standard",
            "status": told,
        }
    )


def _statuses(transfer: Transfer) -> list[Json]:
    if transfer.preimage is not None:
        half = transfer.fee.msat // 2
        preimage = transfer.preimage.reveal().hex()
        return [
            {"type": "sent", "paymentPreimage": preimage, "feesPaid": fee, "route": []}
            for fee in (half, transfer.fee.msat - half)
        ]
    if transfer.state is TransferState.FAILED:
        return [{"type": "failed", "failures": []}]
    return [{"type": "failed", "failures": []}, {"type": "pending"}]


def _attempt(transfer: Transfer, status: Json) -> Json:
    return {
        "id": str(uuid.uuid4()),
        "parentId": str(uuid.UUID(bytes=transfer.payment_hash[:16])),
        "paymentHash": transfer.payment_hash.hex(),
        "paymentType": "Standard",
        "amount": transfer.sent.msat,
        "recipientAmount": transfer.sent.msat,
        "status": status,
    }


def _payment_sent(invoice: Invoice, preimage: bytes, fee: Amount) -> Json:
    half = fee.msat // 2
    return {
        "type": "payment-sent",
        "id": str(uuid.uuid4()),
        "paymentHash": invoice.payment_hash.hex(),
        "paymentPreimage": preimage.hex(),
        "recipientAmount": (invoice.amount or NOTHING).msat,
        "recipientNodeId": invoice.payee.hex(),
        "parts": [{"id": str(uuid.uuid4()), "fees": each} for each in (half, fee.msat - half)],
        "fees": fee.msat,
    }


def _invoice_json(invoice: Invoice) -> Json:
    return {
        "timestamp": int(invoice.created_at.timestamp()),
        "nodeId": invoice.payee.hex(),
        "serialized": invoice.text,
        "description": invoice.description,
        "paymentHash": invoice.payment_hash.hex(),
        "expiry": invoice.expires_in // timedelta(seconds=1),
        "amount": (invoice.amount or NOTHING).msat,
    }


def _channels(funds: Amount) -> Json:
    half = funds.msat // 2
    amounts = ((half, True), (funds.msat - half, True), (21, False))
    return [{"canSend": each, "canReceive": 0, "isPublic": True, "isEnabled": enabled} for each, enabled in amounts]


def _hash(form: Form) -> bytes | None:
    try:
        octets = bytes.fromhex(form.get("paymentHash", ""))
    except ValueError:
        return None
    return octets if len(octets) == HASH_BYTES else None


def _said(told: Json) -> HttpReply:
    return HttpReply(status=200, body=json.dumps(told).encode())


def _refused(status: int, reason: str) -> HttpReply:
    return HttpReply(status=status, body=json.dumps({"error": reason}).encode())
