"""LNbits' API in front of the sandbox: a function from HttpCall to HttpReply, for tests.

Rules
1. It answers as LNbits 1.6.2 does on a node of its own: statuses, `detail`s, signs of amounts, and its traps (see
   farebox.lightning.lnbits). A wallet of LNbits is a node of the sandbox.
2. What is not asked for by farebox is not here: wallets, users, fiat money, the websocket.
3. Where the script says that a reply is lost, there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.conversation import HttpCall, HttpReply
from farebox.core.errors import MalformedInvoice
from farebox.core.ports import InvoiceState, Unresolved
from farebox.core.secret import Secret
from farebox.lightning.sandbox import Sandbox, SandboxNode
from farebox.lightning.sandbox.transfer import Transfer, TransferState

Row = dict[str, Any]

RESERVE: Final = Amount.sats(20)  # what LNbits keeps back for the fee of a payment
_MOST_MEMO: Final = 640
_DEFAULT_EXPIRY_S: Final = 3600
_FOR_EVER_MS: Final = 2**62
_PATH: Final = "/api/v1/payments"
_PAYMENT_STATES: Final = {
    TransferState.HELD: "pending",
    TransferState.PAID: "success",
    TransferState.FAILED: "failed",
}
_INVOICE_STATES: Final = {
    InvoiceState.OPEN: "pending",
    InvoiceState.HELD: "pending",
    InvoiceState.PAID: "success",
    InvoiceState.CANCELLED: "failed",
}
LOST: Final = HttpReply(status=0, sent=True, reason="ReadTimeout")
REFUSED: Final = HttpReply(status=0, sent=False, reason="ConnectError")


class FakeLNbits:
    """invoice_keys, admin_keys: whose wallet each opens, `seller` or `buyer`. reachable: whether anybody listens."""

    def __init__(self, sandbox: Sandbox, *, invoice_keys: Mapping[str, str], admin_keys: Mapping[str, str]) -> None:
        nodes = {"seller": sandbox.seller, "buyer": sandbox.buyer}
        self._opens = {key: nodes[whose] for key, whose in {**invoice_keys, **admin_keys}.items()}
        self._admin_keys = frozenset(admin_keys)
        self._nodes = tuple(nodes.values())
        self.reachable = True

    def __call__(self, call: HttpCall) -> HttpReply:
        """The reply to a call."""
        if not self.reachable:
            return REFUSED
        key = _key_of(call)
        node, parts = self._opens.get(key), urlsplit(call.url)
        name = parts.path.removeprefix(_PATH)
        if call.method == "GET" and parts.path.startswith(f"{_PATH}/"):
            return self._look_up(node, name.removeprefix("/"))
        if node is None:
            return _detail(404, "Wallet not found.") if key else _detail(401, "No Api Key provided.")
        match call.method, parts.path:
            case "GET", "/api/v1/wallet":
                return _said(200, {"name": node.role, "balance": node.funds().msat})
            case "GET", path if path == _PATH:
                return _said(200, _listed(node, dict(parse_qsl(parts.query))))
            case "POST", path if path == _PATH:
                return self._create(node, key, json.loads(call.body))
        return _detail(404, "Not Found")

    def _look_up(self, node: SandboxNode | None, name: str) -> HttpReply:
        """With a key: of its wallet, and what was paid out before what came in. Without: anybody's."""
        payment_hash = bytes.fromhex(name)
        rows = [row for each in ((node,) if node else self._nodes) for row in _rows(each, payment_hash)]
        if not rows:
            return _detail(404, "Payment does not exist.")
        row = min(rows, key=lambda each: int(each["amount"]))
        paid = row["status"] == "success"
        told = {"paid": paid, "preimage": row["preimage"] if paid else None}
        return _said(200, told if node is None else {**told, "status": row["status"], "details": row})

    def _create(self, node: SandboxNode, key: str, asked: Row) -> HttpReply:
        if not asked.get("out", True):
            return _make(node, asked)
        if key not in self._admin_keys:
            return _detail(403, "Invoice (or Admin) key required.")
        if not asked.get("bolt11"):
            return _detail(400, "Missing BOLT11 invoice")
        return _pay(node, asked["bolt11"])


def _make(node: SandboxNode, asked: Row) -> HttpReply:
    memo, sats = asked.get("memo") or "LNbits", int(asked["amount"])
    if len(memo) > _MOST_MEMO:
        return _said(
            400, {"detail": [{"loc": ["body", "memo"], "msg": "ensure this value has at most 640 characters"}]}
        )
    if sats <= 0:
        return _error("Amountless invoices not supported.", "failed")
    expires_in = timedelta(seconds=asked.get("expiry") or _DEFAULT_EXPIRY_S)
    invoice = node.issue(Amount.sats(sats), description=memo, expires_in=expires_in)
    return _said(201, _incoming(node, invoice))


def _pay(node: SandboxNode, bolt11: str) -> HttpReply:
    try:
        invoice = decode(bolt11)
    except MalformedInvoice:
        return _error("Bolt11 decoding failed.", "failed")
    if node.funds() < (invoice.amount or NOTHING) + RESERVE:
        return _error("Insufficient balance.", "failed")
    earlier = node.find_transfer(invoice.payment_hash)
    match None if earlier is None else earlier.state:
        case TransferState.HELD:
            return _error("Payment is still pending.", "pending")
        case TransferState.PAID:
            return _error("Payment already paid.", "success")
        case TransferState.FAILED:
            return _error("Payment is failed node, retrying is not possible.", "failed")
    outcome = node.pay(invoice, fee_limit=RESERVE)
    made = node.find_transfer(invoice.payment_hash)
    if made is None:
        return _detail(500, "Unexpected error!")
    if isinstance(outcome, Unresolved) and made.state is TransferState.PAID:
        return LOST
    if made.state is TransferState.FAILED:
        return _error(f"Payment failed: {made.reason}", "failed")
    return _said(201, _outgoing(made))


def _rows(node: SandboxNode, payment_hash: bytes) -> list[Row]:
    """What one wallet knows of a payment hash."""
    transfer, invoice = node.find_transfer(payment_hash), node.find_invoice(payment_hash)
    outgoing = [] if transfer is None else [_outgoing(transfer)]
    return outgoing if invoice is None else [*outgoing, _incoming(node, invoice)]


def _listed(node: SandboxNode, asked: Mapping[str, str]) -> list[Row]:
    """What came in, of one payment hash, or what was changed last before the others."""
    if "payment_hash" in asked:
        invoice = node.find_invoice(bytes.fromhex(asked["payment_hash"]))
        return [] if invoice is None else [row for row in [_incoming(node, invoice)] if row["status"] != "failed"]
    newest = node.newest_paid(
        from_ms=0, to_ms=_FOR_EVER_MS, most=int(asked["limit"]), offset=int(asked.get("offset", 0))
    )
    found = [node.find_invoice(each) for each in newest]
    return [_incoming(node, each) for each in found if each is not None]


def _incoming(node: SandboxNode, invoice: Invoice) -> Row:
    """The row of an invoice. Its preimage stands in it, paid or not."""
    receipt = node.find_receipt(invoice.payment_hash)
    preimage = receipt.preimage if receipt is not None and receipt.preimage else node.preimage_of(invoice)
    state = node.invoice_status(invoice.payment_hash).state
    completed_at = receipt.completed_at if receipt is not None else None
    return _row(
        invoice,
        status=_INVOICE_STATES[state],
        amount=(invoice.amount or NOTHING).msat,
        fee=0,
        preimage=preimage,
        updated_at=completed_at or invoice.created_at,
    )


def _outgoing(transfer: Transfer) -> Row:
    """The row of a payment, with the signs that LNbits gives it."""
    invoice = decode(transfer.invoice)
    return _row(
        invoice,
        status=_PAYMENT_STATES[transfer.state],
        amount=-(invoice.amount or NOTHING).msat,
        fee=-(transfer.fee if transfer.state is TransferState.PAID else RESERVE).msat,
        preimage=transfer.preimage,
        updated_at=transfer.completed_at or transfer.created_at,
    )


def _row(
    invoice: Invoice, *, status: str, amount: int, fee: int, preimage: Secret[bytes] | None, updated_at: datetime
) -> Row:
    return {
        "checking_id": invoice.payment_hash.hex(),
        "payment_hash": invoice.payment_hash.hex(),
        "wallet_id": "of the key",
        "amount": amount,
        "fee": fee,
        "bolt11": invoice.text,
        "payment_request": invoice.text,
        "fiat_provider": None,
        "status": status,
        "memo": invoice.description,
        "expiry": invoice.expires_at.isoformat(),
        "preimage": None if preimage is None else preimage.reveal().hex(),
        "time": invoice.created_at.isoformat(),
        "created_at": invoice.created_at.isoformat(),
        "updated_at": updated_at.replace(microsecond=0).isoformat(),
        "labels": [],
        "extra": {},
    }


def _key_of(call: HttpCall) -> str:
    lines = (call.headers.reveal() if call.headers is not None else "").splitlines()
    return next(
        (value.strip() for name, _, value in (line.partition(":") for line in lines) if name == "x-api-key"), ""
    )


def _said(status: int, told: object) -> HttpReply:
    return HttpReply(status=status, body=json.dumps(told).encode())


def _detail(status: int, detail: str) -> HttpReply:
    return _said(status, {"detail": detail})


def _error(detail: str, status: str) -> HttpReply:
    return _said(520, {"detail": detail, "status": status})
