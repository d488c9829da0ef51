"""Blink's GraphQL interface in front of the sandbox, for tests: a function from a call to its reply, without a socket.

Rules
1. Fields, statuses and codes are those of Blink's public schema. A query is known by the field it asks for, and has
   to name every member that it is given. Errors come with status 200; a wrong key is 401.
2. A payment takes more for routing than it may cost, and what was too much comes back as a transaction of its own. One
   that failed comes back whole: both transactions are FAILURE.
3. A payment in flight is not made again: FAILURE, although it may arrive. One that was paid is ALREADY_PAID.
4. A reply that the sandbox loses is no reply to what may have been seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import decode
from farebox.core.errors import MalformedInvoice
from farebox.core.exchange import HASH_BYTES, Json
from farebox.core.ports import Clock, HttpCall, HttpReply, InvoiceState, Unresolved
from farebox.lightning.sandbox import SandboxNode
from farebox.lightning.sandbox.transfer import Transfer, TransferState

_NO_REPLY: Final = HttpReply(status=0, sent=True, reason="ReadError")
_TOO_MUCH: Final = Amount.sats(2)
_MOST_MEMO_BYTES: Final = 639
_DEFAULT_MINUTES: Final = 4 * 60
_PAGE: Final = 100
_NAME: Final = re.compile(r"\w+")
_LATEST_MS: Final = 2**62
_ME: Final = ("me", "defaultAccount", "walletById")
_STATES: Final = {InvoiceState.PAID: "PAID", InvoiceState.CANCELLED: "EXPIRED"}


@dataclass(frozen=True, slots=True)
class Key:
    """What a key opens: a wallet in bitcoin, and the scopes that it has."""

    node: SandboxNode
    wallet: str
    scopes: tuple[str, ...] = ("READ", "RECEIVE", "WRITE")


class FakeBlink:
    """Blink with the accounts that the keys open."""

    def __init__(self, keys: Mapping[str, Key], clock: Clock) -> None:
        self._keys = dict(keys)
        self._clock = clock

    def __call__(self, call: HttpCall) -> HttpReply:
        """The reply to one call."""
        lines = (call.headers.reveal() if call.headers is not None else "").splitlines()
        key = self._keys.get(dict(line.split(": ", 1) for line in lines).get("x-api-key", ""))
        if key is None:
            return HttpReply(status=401, body=b'{"error":{"code":401,"status":"Unauthorized"}}')
        assert (call.method, call.url.rpartition("/")[2]) == ("POST", "graphql")
        body = json.loads(call.body)
        named, given = set(_NAME.findall(body["query"])), body["variables"]
        for field, scope, answer in (
            ("authorization", None, _scopes),
            ("wallets", "READ", _account),
            ("invoiceByPaymentHash", "READ", _invoice),
            ("transactionsByPaymentHash", "READ", _payments),
            ("transactions", "READ", _transactions),
            ("lnInvoiceCreate", "RECEIVE", _create),
            ("lnInvoiceCreateOnBehalfOfRecipient", "RECEIVE", _create_for),
            ("lnInvoiceFeeProbe", "READ", _probe),
            ("lnInvoicePaymentSend", "WRITE", self._pay),
        ):
            if field in named:
                if scope is not None and scope not in key.scopes:
                    return _failed("Not authorized", "NOT_AUTHORIZED", field)
                if not key.node.reachable:
                    return _NO_REPLY
                wallet = _wallet(given) or key.wallet
                if wallet != key.wallet:
                    return _failed("Invalid walletId", "INVALID_INPUT", "walletById")
                return answer(key, given, named)
        return HttpReply(status=400, body=b'{"errors":[{"message":"Cannot query field"}]}')

    def _pay(self, key: Key, given: Mapping[str, Mapping[str, str]], named: set[str]) -> HttpReply:
        try:
            invoice = decode(given["input"]["paymentRequest"])
        except MalformedInvoice:
            return _said({"errors": [{"message": "Invalid value for LnPaymentRequest"}], "status": None}, named, _SENDS)
        if invoice.network is not key.node.network or invoice.amount is None:
            return _refused("INVALID_INPUT", "Invoice is not for this network", named)
        if invoice.expires_at <= self._clock():
            return _refused("INVOICE_EXPIRED", "The invoice has expired", named)
        earlier = key.node.find_transfer(invoice.payment_hash)
        if earlier is not None and earlier.state is TransferState.HELD:
            return _refused("LIGHTNING_PAYMENT_ERROR", "Payment is in transit", named)
        if earlier is None and key.node.funds() < invoice.amount + key.node.fee:
            return _refused("INSUFFICIENT_BALANCE", "balance is too low", named)
        outcome = key.node.pay(invoice, fee_limit=None)
        if isinstance(outcome, Unresolved) and outcome.reason == "the reply was lost":
            return _NO_REPLY
        transfer = key.node.find_transfer(invoice.payment_hash)
        assert transfer is not None
        if transfer.state is TransferState.FAILED:
            return _refused("ROUTE_FINDING_ERROR", "Unable to find a route for payment", named)
        status = "PENDING" if transfer.preimage is None else "SUCCESS" if earlier is None else "ALREADY_PAID"
        if earlier is not None and earlier.state is TransferState.FAILED and transfer.preimage is not None:
            status = "SUCCESS"
        return _said({"errors": [], "status": status, "transaction": _sent(transfer)[0]}, named, _SENDS)


_SENDS: Final = ("lnInvoicePaymentSend",)


def _scopes(key: Key, given: Mapping[str, object], named: set[str]) -> HttpReply:
    return _said({"scopes": list(key.scopes)}, named, ("authorization",))


def _account(key: Key, given: Mapping[str, object], named: set[str]) -> HttpReply:
    wallets: list[Json] = [
        {"id": "dollars", "walletCurrency": "USD", "balance": 1},
        {"id": key.wallet, "walletCurrency": "BTC", "balance": key.node.funds().in_sats_floor()},
    ]
    data: Json = {"globals": {"network": key.node.network.value}, "me": {"defaultAccount": {"wallets": wallets}}}
    return HttpReply(status=200, body=json.dumps({"data": data}).encode())


def _wallet(given: Mapping[str, Any]) -> str | None:
    """The wallet that is asked for: what a variable is called is the asker's own matter."""
    for asked in (given, given.get("input", {})):
        for name in ("wallet", "walletId", "recipientWalletId"):
            if name in asked:
                return str(asked[name])
    return None


def _hash(given: Mapping[str, str | None]) -> bytes:
    (digits,) = (value for value in given.values() if isinstance(value, str) and len(value) == 2 * HASH_BYTES)
    return bytes.fromhex(digits)


def _create_for(key: Key, given: Mapping[str, Mapping[str, object]], named: set[str]) -> HttpReply:
    """The same, as it may be asked without an account."""
    return _create(key, given, named, "lnInvoiceCreateOnBehalfOfRecipient")


def _probe(key: Key, given: Mapping[str, object], named: set[str]) -> HttpReply:
    return _said({"errors": [], "amount": key.node.fee.in_sats_ceil()}, named, ("lnInvoiceFeeProbe",))


def _create(
    key: Key, given: Mapping[str, Mapping[str, object]], named: set[str], field: str = "lnInvoiceCreate"
) -> HttpReply:
    asked = given["input"]
    amount, memo, minutes = asked["amount"], asked["memo"], asked.get("expiresIn", _DEFAULT_MINUTES)
    assert isinstance(amount, int)
    assert isinstance(memo, str)
    assert isinstance(minutes, int)
    if len(memo.encode()) > _MOST_MEMO_BYTES:
        return _said({"errors": [{"message": "Memo is too long"}], "invoice": None}, named, (field,))
    lasting = minutes if 1 <= minutes <= 24 * 60 else _DEFAULT_MINUTES
    invoice = key.node.issue(Amount.sats(amount), description=memo, expires_in=timedelta(minutes=lasting))
    made: Json = {"paymentRequest": invoice.text, "paymentHash": invoice.payment_hash.hex()}
    return _said({"errors": [], "invoice": made}, named, (field,))


def _invoice(key: Key, given: Mapping[str, str], named: set[str]) -> HttpReply:
    payment_hash = _hash(given)
    invoice = key.node.find_invoice(payment_hash)
    if invoice is None:
        message = f"User tried to pay invoice with hash {payment_hash.hex()}, but it does not exist"
        return _failed(message, "LIGHTNING_PAYMENT_ERROR", "invoiceByPaymentHash")
    state = key.node.invoice_status(invoice.payment_hash).state
    told: dict[str, Json] = {
        "paymentHash": invoice.payment_hash.hex(),
        "paymentStatus": _STATES.get(state, "PENDING"),
        "satoshis": (invoice.amount or NOTHING).in_sats_floor(),
    }
    return _said(told, named, (*_ME, "invoiceByPaymentHash"))


def _payments(key: Key, given: Mapping[str, str], named: set[str]) -> HttpReply:
    transfer = key.node.find_transfer(_hash(given))
    told: list[Json] = [] if transfer is None else list(_sent(transfer))
    return _said(told, named, (*_ME, "transactionsByPaymentHash"))


def _transactions(key: Key, given: Mapping[str, str | None], named: set[str]) -> HttpReply:
    """What was received, the newest first; after the first of it something that came over the chain."""
    offset = int(given["after"] or "0")
    hashes = key.node.newest_paid(from_ms=0, to_ms=_LATEST_MS, most=_PAGE, offset=offset)
    edges: list[Json] = []
    for payment_hash in hashes:
        receipt = key.node.find_receipt(payment_hash)
        assert receipt is not None
        assert receipt.completed_at is not None
        via: Json = {"paymentHash": payment_hash.hex()}
        edges.append({"node": _transaction(receipt, "RECEIVE", receipt.sent.in_sats_floor(), "SUCCESS", via)})
    following: Json = {"hasNextPage": len(hashes) == _PAGE, "endCursor": str(offset + len(hashes))}
    return _said({"pageInfo": following, "edges": edges}, named, (*_ME, "transactions"))


def _sent(transfer: Transfer) -> tuple[Json, ...]:
    """The transactions of a payment, as its payer's wallet lists them."""
    most = transfer.fee + _TOO_MUCH
    whole = (transfer.sent + most).in_sats_floor()
    via: Json = {"paymentHash": transfer.payment_hash.hex()}
    if transfer.preimage is not None:
        back = _transaction(transfer, "RECEIVE", _TOO_MUCH.in_sats_floor(), "SUCCESS", {})
        return _transaction(transfer, "SEND", -whole, "SUCCESS", via, fee=most), back
    if transfer.state is TransferState.FAILED:
        sent = _transaction(transfer, "SEND", -whole, "FAILURE", via, fee=most)
        return sent, _transaction(transfer, "RECEIVE", whole, "FAILURE", via)
    return (_transaction(transfer, "SEND", -whole, "PENDING", via, fee=most),)


def _transaction(
    transfer: Transfer, direction: str, amount: int, status: str, via: Json, *, fee: Amount = NOTHING
) -> dict[str, Json]:
    sent = direction == "SEND" and transfer.preimage is not None
    proof = transfer.preimage.reveal().hex() if sent and transfer.preimage is not None else None
    return {
        "createdAt": int((transfer.completed_at or transfer.created_at).timestamp()),
        "direction": direction,
        "status": status,
        "settlementAmount": amount,
        "settlementFee": fee.in_sats_floor(),
        "settlementVia": {"preImage": proof},
        "initiationVia": via,
    }


def _said(told: Json, named: set[str], path: tuple[str, ...]) -> HttpReply:
    """The members that were named, and no others."""
    data = _asked_for(told, named)
    for name in reversed(path):
        data = {name: data}
    return HttpReply(status=200, body=json.dumps({"data": data}).encode())


def _asked_for(told: Json, named: set[str]) -> Json:
    if isinstance(told, list):
        return [_asked_for(each, named) for each in told]
    if isinstance(told, dict):
        return {name: _asked_for(value, named) for name, value in told.items() if name in named}
    return told


def _refused(code: str, message: str, named: set[str]) -> HttpReply:
    return _said({"errors": [{"code": code, "message": message}], "status": "FAILURE"}, named, _SENDS)


def _failed(message: str, code: str, field: str) -> HttpReply:
    error: Json = {"message": message, "path": [*_ME, field], "extensions": {"code": code}}
    return HttpReply(status=200, body=json.dumps({"errors": [error], "data": None}).encode())
