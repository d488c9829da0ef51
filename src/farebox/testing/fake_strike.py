"""Strike's API in front of the sandbox, for tests: a function from a call to its reply, without a socket.

Rules
1. Paths, scopes, members and codes are those of https://docs.strike.me/api. Amounts are decimal texts of bitcoin.
2. A quote is made, then executed once. A payment is found by its `paymentId` only; a receive by its `$paymentHash`.
3. An invoice that is being paid, or was, gets no second quote: LN_INVOICE_PROCESSED. What the documents leave open is
   told here as what is hardest for the caller: a proof comes only with a later look at the payment.
4. A reply that the sandbox loses is no reply to what may have been seen.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.errors import MalformedInvoice
from farebox.core.exchange import Json
from farebox.core.ports import Clock, Failed, HttpCall, HttpReply, InvoiceState, Paid, Unresolved
from farebox.lightning.sandbox import SandboxNode
from farebox.lightning.sandbox.transfer import TransferState

_NO_REPLY: Final = HttpReply(status=0, sent=True, reason="ReadError")
_MOST_DESCRIPTION: Final = 250
_DEFAULT_EXPIRY_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Key:
    """What a key opens, and the scopes that it has; none for all."""

    node: SandboxNode
    scopes: frozenset[str] | None = None


class FakeStrike:
    """Strike with the accounts that the keys open."""

    def __init__(self, keys: Mapping[str, Key], clock: Clock) -> None:
        self._keys = {f"Bearer {name}": key for name, key in keys.items()}
        self._clock = clock
        self._quotes: dict[str, Invoice] = {}
        self._payments: dict[str, Invoice] = {}
        self._requests: dict[str, Invoice] = {}
        self.executed = 0

    def __call__(self, call: HttpCall) -> HttpReply:
        """The reply to one call."""
        lines = (call.headers.reveal() if call.headers is not None else "").splitlines()
        key = self._keys.get(dict(line.split(": ", 1) for line in lines).get("authorization", ""))
        if key is None:
            return _refused(401, "UNAUTHORIZED")
        url = urlsplit(call.url)
        parts = url.path.removeprefix("/v1/").split("/")
        given = {name: values[0] for name, values in parse_qs(url.query).items()}
        asked = json.loads(call.body) if call.body else {}
        scope, answer = self._endpoint(call.method, parts, key.node, given, asked)
        if answer is None:
            return _refused(404, "NOT_FOUND")
        if key.scopes is not None and scope not in key.scopes:
            return _refused(403, "FORBIDDEN")
        return answer() if key.node.reachable else _NO_REPLY

    def _endpoint(
        self, method: str, parts: list[str], node: SandboxNode, given: Mapping[str, str], asked: Mapping[str, Any]
    ) -> tuple[str, Callable[[], HttpReply] | None]:
        """The scope that it needs, and what answers."""
        match method, parts:
            case "GET", ["balances"]:
                return "partner.balances.read", partial(_balances, node)
            case "POST", ["receive-requests"]:
                return "partner.receive-request.create", partial(self._receive_request, node, asked)
            case "GET", ["receive-requests"]:
                return "partner.receive-request.read", partial(_requests, node, given)
            case "GET", ["receive-requests", "receives"]:
                return "partner.receive-request.read", partial(_receives, node, given)
            case "GET", ["receive-requests", request_id, "receives"]:
                known = self._requests.get(request_id)
                return "partner.receive-request.read", partial(_receives_of, node, known)
            case "POST", ["payment-quotes", "lightning"]:
                return "partner.payment-quote.lightning.create", partial(self._quote, node, asked)
            case "PATCH", ["payment-quotes", quote_id, "execute"]:
                return "partner.payment-quote.execute", partial(self._execute, node, quote_id)
            case "GET", ["payments", payment_id]:
                return "partner.payment.read", partial(self._payment, node, payment_id)
        return "", None

    def _receive_request(self, node: SandboxNode, asked: Mapping[str, Any]) -> HttpReply:
        wanted = asked["bolt11"]
        description = wanted.get("description", "-")
        length = len(description.encode("utf-16-le")) // 2
        if (wanted["amount"]["currency"], asked["targetCurrency"]) != (
            "BTC",
            "BTC",
        ) or not 1 <= length <= _MOST_DESCRIPTION:
            return _refused(400, "INVALID_DATA")
        amount = Amount.sats(int(Decimal(wanted["amount"]["amount"]).scaleb(8)))
        lasting = timedelta(seconds=wanted.get("expiryInSeconds", _DEFAULT_EXPIRY_S))
        invoice = node.issue(amount, description=description, expires_in=lasting)
        request_id = str(uuid.uuid4())
        self._requests[request_id] = invoice
        return _said({**_request(invoice), "receiveRequestId": request_id}, 201)

    def _quote(self, node: SandboxNode, asked: Mapping[str, Any]) -> HttpReply:
        try:
            invoice = decode(asked["lnInvoice"])
        except MalformedInvoice:
            return _refused(422, "INVALID_LN_INVOICE")
        if invoice.amount is None or invoice.network is not node.network:
            return _refused(422, "INVALID_LN_INVOICE")
        if invoice.expires_at <= self._clock():
            return _refused(422, "INVALID_STATE_FOR_INVOICE_EXPIRED")
        earlier = node.find_transfer(invoice.payment_hash)
        if earlier is not None and earlier.state is not TransferState.FAILED:
            return _refused(422, "LN_INVOICE_PROCESSED")
        quote_id = str(uuid.uuid4())
        self._quotes[quote_id] = invoice
        return _said({"paymentQuoteId": quote_id, **_cost(invoice.amount, node.fee)})

    def _execute(self, node: SandboxNode, quote_id: str) -> HttpReply:
        if quote_id not in self._quotes:
            return _refused(404, "NOT_FOUND")
        invoice = self._quotes[quote_id]
        if invoice in self._payments.values() and node.find_transfer(invoice.payment_hash) is None:
            return _refused(422, "PAYMENT_PROCESSED")
        if node.funds() < (invoice.amount or NOTHING) + node.fee:
            return _refused(422, "BALANCE_TOO_LOW")
        self.executed += 1
        payment_id = str(uuid.uuid4())
        self._payments[payment_id] = invoice
        match node.pay(invoice, fee_limit=None):
            case Paid():
                return _said({"paymentId": payment_id, "state": "COMPLETED"})
            case Failed():
                return _said({"paymentId": payment_id, "state": "FAILED"})
            case Unresolved(reason="the reply was lost"):
                return _NO_REPLY
            case Unresolved():
                return _said({"paymentId": payment_id, "state": "PENDING"}, 202)

    def _payment(self, node: SandboxNode, payment_id: str) -> HttpReply:
        invoice = self._payments.get(payment_id)
        transfer = None if invoice is None else node.find_transfer(invoice.payment_hash)
        if transfer is None:
            return _refused(404, "NOT_FOUND")
        states = {TransferState.PAID: "COMPLETED", TransferState.FAILED: "FAILED"}
        told: dict[str, Json] = {"paymentId": payment_id, "state": states.get(transfer.state, "PENDING")}
        if transfer.preimage is not None:
            told |= _cost(transfer.sent, transfer.fee)
            told["lightning"] = {"preImage": transfer.preimage.reveal().hex(), "networkFee": _btc(transfer.fee)}
        return _said(told)


def _balances(node: SandboxNode) -> HttpReply:
    other: Json = {"currency": "USD", "available": "100.00", "current": "100.00"}
    return _said([other, {"currency": "BTC", "available": _btc(node.funds())["amount"], "current": "99.00000000"}])


def _requests(node: SandboxNode, given: Mapping[str, str]) -> HttpReply:
    invoice = node.find_invoice(bytes.fromhex(given["$paymentHash"]))
    items: list[Json] = [] if invoice is None else [_request(invoice)]
    return _said({"items": items, "count": len(items)})


def _receives(node: SandboxNode, given: Mapping[str, str]) -> HttpReply:
    payment_hash = bytes.fromhex(given["$paymentHash"])
    status = node.invoice_status(payment_hash)
    items: list[Json] = []
    if status.state in (InvoiceState.PAID, InvoiceState.HELD):
        paid = status.state is InvoiceState.PAID
        items.append(
            {
                "receiveId": str(uuid.uuid4()),
                "type": "LIGHTNING",
                "state": "COMPLETED" if paid else "PENDING",
                "amountReceived": _btc(status.received),
                "lightning": {"paymentHash": payment_hash.hex(), "preimage": "00" * 32},
            }
        )
    return _said({"items": items, "count": len(items)})


def _receives_of(node: SandboxNode, invoice: Invoice | None) -> HttpReply:
    if invoice is None:
        return _refused(404, "NOT_FOUND")
    return _receives(node, {"$paymentHash": invoice.payment_hash.hex()})


def _request(invoice: Invoice) -> dict[str, Json]:
    return {
        "receiveRequestId": str(uuid.uuid4()),
        "targetCurrency": "BTC",
        "bolt11": {
            "invoice": invoice.text,
            "requestedAmount": _btc(invoice.amount or NOTHING),
            "paymentHash": invoice.payment_hash.hex(),
            "expires": invoice.expires_at.isoformat(),
        },
    }


def _cost(amount: Amount, fee: Amount) -> dict[str, Json]:
    return {
        "amount": _btc(amount),
        "totalFee": _btc(fee),
        "lightningNetworkFee": _btc(fee),
        "totalAmount": _btc(amount + fee),
    }


def _btc(amount: Amount) -> dict[str, Json]:
    return {"amount": f"{Decimal(amount.msat).scaleb(-11):f}", "currency": "BTC"}


def _said(told: Json, status: int = 200) -> HttpReply:
    return HttpReply(status=status, body=json.dumps(told).encode())


def _refused(status: int, code: str) -> HttpReply:
    data: Json = {"status": status, "code": code, "message": "for developers only"}
    return HttpReply(status=status, body=json.dumps({"traceId": "0", "data": data}).encode())
