"""phoenixd's own HTTP API in front of the sandbox, so that a wallet for phoenixd pays in the sandbox unchanged.

Rules
1. Paths, form fields, members, units and texts are those of phoenixd (https://phoenix.acinq.co/server/api). A payment
   that failed is 200 with a `reason`, and so is one that was made before; an unpaid invoice shows its preimage.
2. The password says which node is asked. The seller's is as phoenixd's `http-password-limited-access`: it can't pay.
   A second one of the seller's can, for refunds; a shop does not have it.
3. Where the sandbox has lost a reply, or its node can't be reached, the connection breaks without an answer. So it does
   for a payment that stays in flight, for which phoenixd would keep the caller waiting.
4. Not there: offers, Lightning addresses, on-chain money, lists of what is not paid, the webhook, and invoices
   without an amount. The websocket is in `phoenixd_feed`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qsl

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.errors import MalformedAmount, MalformedInvoice
from farebox.core.exchange import HASH_BYTES, Json
from farebox.core.ports import Failed, InvoiceState, Paid, PayOutcome, Unresolved
from farebox.lightning.phoenixd_feed import feed, refuse
from farebox.lightning.sandbox import Sandbox, SandboxNode
from farebox.lightning.sandbox.transfer import TransferState, to_ms

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Form = Mapping[str, str]

_MOST_BODY_BYTES: Final = 65_536
_MOST_DESCRIPTION_UNITS: Final = 128
_DEFAULT_EXPIRY_S: Final = 7 * 24 * 3600
_DEFAULT_LIMIT: Final = 20
_LATEST_MS: Final = 2**62
# What phoenixd keeps for its full-access password; but for the first, the sandbox has none of it.
_SPENDING: Final = frozenset(
    (
        *("payinvoice", "payoffer", "paylnaddress", "lnurlpay", "lnurlauth"),
        *("sendtoaddress", "bumpfee", "closechannel"),
    )
)
_VERSION: Final = "0.6.0-sandbox"
_UNAUTHENTICATED: Final = "Invalid authentication (use basic auth with the http password set in phoenix.conf)"
_HELD_FOR: Final = timedelta(seconds=90)
_ALREADY_PAID: Final = "this invoice has already been paid"
_ALREADY_IN_PROGRESS: Final = "another payment is in progress for that invoice"


@dataclass(frozen=True, slots=True)
class _Access:
    node: SandboxNode
    may_pay: bool


class ReplyLost(ConnectionAbortedError):
    """Scripted trouble: the connection breaks before there is an answer."""


class _CallerLeft(Exception):
    """Nobody waits for an answer any more."""


class _Refusal(Exception):
    """An answer that is not 200: its status and its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def phoenixd_api(sandbox: Sandbox, passwords: Mapping[str, str]) -> App:
    """An ASGI application that speaks as phoenixd does.

    passwords: whose node each one opens, `seller`, which can't pay then, `buyer`, or `refunds`: the seller's, to pay.

    The application raises ReplyLost, after having broken the connection, where the script says so.
    """
    accesses = {
        "seller": _Access(sandbox.seller, may_pay=False),
        "buyer": _Access(sandbox.buyer, may_pay=True),
        "refunds": _Access(sandbox.seller, may_pay=True),
    }
    opened = {password.encode(): accesses[role] for password, role in passwords.items()}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await _open_feed(scope, opened, receive, send)
        if scope["type"] != "http":
            return None
        try:
            answer = await _answer(_authenticate(scope, opened), scope, receive)
        except _Refusal as refusal:
            await _send(send, refusal.status, b"text/plain; charset=UTF-8", refusal.text.encode())
        except _CallerLeft:
            return None
        except ReplyLost:
            await _break_off(send)
            raise
        else:
            await _send(send, 200, b"application/json", json.dumps(answer, indent=4).encode())
        return None

    return app


async def _open_feed(scope: Scope, opened: Mapping[bytes, _Access], receive: Receive, send: Send) -> None:
    shown = [each.encode() for each in scope.get("subprotocols", ())]
    access = next((opened[known] for known in opened for each in shown if hmac.compare_digest(known, each)), None)
    try:
        access = access or _authenticate(scope, opened)
    except _Refusal:
        return await refuse(receive, send)
    if scope["path"].strip("/") != "websocket":
        return await refuse(receive, send)
    await feed(access.node, receive, send)


def _authenticate(scope: Scope, opened: Mapping[bytes, _Access]) -> _Access:
    """HTTP Basic with any user name."""
    scheme, _, words = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
    try:
        _, _, password = base64.b64decode(words, validate=True).partition(b":")
    except binascii.Error:
        password = b""
    for known, access in opened.items():
        if scheme.lower() == b"basic" and hmac.compare_digest(known, password):
            return access
    raise _Refusal(401, _UNAUTHENTICATED)


async def _answer(access: _Access, scope: Scope, receive: Receive) -> Json:
    node = access.node
    if not node.reachable:
        raise ReplyLost
    name, argument = str(scope["path"]).strip("/"), ""
    if name.count("/") > 1:  # payments/incoming is a list, payments/incoming/<hash> one of it
        name, _, argument = name.rpartition("/")
        name += "/"
    if name in _SPENDING and not access.may_pay:
        raise _Refusal(401, _UNAUTHENTICATED)
    if name not in _ENDPOINTS:
        raise _Refusal(404, "Unknown endpoint (check api doc)")
    method, endpoint = _ENDPOINTS[name]
    if scope["method"] != method:
        raise _Refusal(405, "Invalid http method (use the correct GET/POST)")
    query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
    form = await _read_form(receive) if method == "POST" else {**query, "paymentHash": argument}
    if endpoint is _pay_invoice:  # in a thread, for the disk is waited for, and a shop may live in the same event loop
        try:
            return await asyncio.to_thread(endpoint, node, form)
        except ReplyLost:  # phoenixd waits, too, while a payment is held
            return _paid(_invoice(form), await node.ended(_invoice(form), within=_HELD_FOR))
    return endpoint(node, form)


# --- the endpoints ----------------------------------------------------------------------------------------------------


def _get_info(node: SandboxNode, form: Form) -> Json:
    own, room = node.funds().in_sats_floor(), 100_000_000  # any number: the sandbox takes whatever is paid
    return {
        "nodeId": node.public_key.hex(),
        "channels": [{"state": "Normal", "balanceSat": own, "inboundLiquiditySat": room, "capacitySat": own + room}],
        "chain": node.network.value,
        "blockHeight": 0,
        "version": _VERSION,
    }


def _get_balance(node: SandboxNode, form: Form) -> Json:
    return {"balanceSat": node.funds().in_sats_floor(), "feeCreditSat": 0}


def _create_invoice(node: SandboxNode, form: Form) -> Json:
    description = form.get("description")
    if description is None:
        raise _Refusal(400, "Must provide either a description or descriptionHash")
    if len(description.encode("utf-16-le")) > 2 * _MOST_DESCRIPTION_UNITS:
        raise _Refusal(400, f"Request parameter description is too long (max {_MOST_DESCRIPTION_UNITS} characters)")
    expires_in_s = _integer(form, "expirySeconds") if "expirySeconds" in form else _DEFAULT_EXPIRY_S
    try:
        amount = Amount.sats(_integer(form, "amountSat"))
        invoice = node.issue(amount, description=description, expires_in=timedelta(seconds=expires_in_s))
    except (MalformedAmount, MalformedInvoice, OverflowError):
        raise _Refusal(400, "Request parameters amountSat and expirySeconds make no invoice") from None
    return {
        "amountSat": amount.in_sats_floor(),
        "paymentHash": invoice.payment_hash.hex(),
        "serialized": invoice.text,
    }


def _decode_invoice(node: SandboxNode, form: Form) -> Json:
    invoice = _invoice(form)
    return _without_nulls(
        {
            "chain": invoice.network.value,
            "amount": None if invoice.amount is None else invoice.amount.msat,
            "paymentHash": invoice.payment_hash.hex(),
            "description": invoice.description,
            "descriptionHash": None if invoice.description_hash is None else invoice.description_hash.hex(),
            "minFinalCltvExpiryDelta": invoice.min_final_cltv,
            "paymentSecret": invoice.payment_secret.hex(),
            "expirySeconds": invoice.expires_in // timedelta(seconds=1),
            "extraHops": [],
            "timestampSeconds": int(invoice.created_at.timestamp()),
        }
    )


def _pay_invoice(node: SandboxNode, form: Form) -> Json:
    invoice = _invoice(form)
    payment_hash = invoice.payment_hash.hex()
    if "amountSat" in form and _integer(form, "amountSat") * Amount.sats(1).msat != (invoice.amount or NOTHING).msat:
        raise _Refusal(400, "Request parameter amountSat is not the amount of the invoice")
    earlier = node.find_transfer(invoice.payment_hash)
    if earlier is not None and earlier.state is not TransferState.FAILED:
        paid_already = earlier.state is TransferState.PAID
        return {"paymentHash": payment_hash, "reason": _ALREADY_PAID if paid_already else _ALREADY_IN_PROGRESS}
    return _paid(invoice, node.pay(invoice, fee_limit=None))


def _paid(invoice: Invoice, outcome: PayOutcome) -> Json:
    payment_hash = invoice.payment_hash.hex()
    match outcome:
        case Paid(preimage=preimage, fee=fee):
            return {
                "recipientAmountSat": (invoice.amount or NOTHING).in_sats_floor(),
                "routingFeeSat": fee.in_sats_floor(),
                "paymentId": _payment_id(invoice.payment_hash),
                "paymentHash": payment_hash,
                "paymentPreimage": preimage.reveal().hex(),
            }
        case Failed(reason=reason):
            return {"paymentHash": payment_hash, "reason": reason}
        case Unresolved():
            raise ReplyLost


def _incoming(node: SandboxNode, form: Form) -> Json:
    payment_hash = _hash(form, "paymentHash")
    invoice = node.find_invoice(payment_hash)
    if invoice is None:
        raise _Refusal(404, "Not found")
    status = node.invoice_status(payment_hash)
    receipt = node.find_receipt(payment_hash)
    preimage = receipt.preimage if receipt is not None and receipt.preimage else node.preimage_of(invoice)
    return _without_nulls(
        {
            "type": "incoming_payment",
            "subType": "lightning",
            "paymentHash": payment_hash.hex(),
            "preimage": (preimage.reveal() if preimage is not None else bytes(HASH_BYTES)).hex(),
            "description": invoice.description,
            "invoice": invoice.text,
            "isPaid": status.state is InvoiceState.PAID,
            "isExpired": status.state is InvoiceState.CANCELLED,
            "requestedSat": None if invoice.amount is None else invoice.amount.in_sats_floor(),
            "receivedSat": status.received.in_sats_floor(),
            "fees": 0,
            "expiresAt": to_ms(invoice.expires_at),
            "completedAt": to_ms(receipt.completed_at) if receipt is not None and receipt.completed_at else None,
            "createdAt": to_ms(invoice.created_at),
        }
    )


def _list_incoming(node: SandboxNode, form: Form) -> Json:
    """What was paid between `from` and `to`, the newest first."""
    if form.get("externalId"):
        return []
    newest = node.newest_paid(
        from_ms=_optional(form, "from", 0),
        to_ms=_optional(form, "to", _LATEST_MS),
        most=_optional(form, "limit", _DEFAULT_LIMIT),
        offset=_optional(form, "offset", 0),
    )
    return [_incoming(node, {"paymentHash": payment_hash.hex()}) for payment_hash in newest]


def _outgoing_by_hash(node: SandboxNode, form: Form) -> Json:
    transfer = node.find_transfer(_hash(form, "paymentHash"))
    if transfer is None:
        raise _Refusal(404, "Not found")
    return _without_nulls(
        {
            "type": "outgoing_payment",
            "subType": "lightning",
            "paymentId": _payment_id(transfer.payment_hash),
            "paymentHash": transfer.payment_hash.hex(),
            "preimage": None if transfer.preimage is None else transfer.preimage.reveal().hex(),
            "isPaid": transfer.state is TransferState.PAID,
            "sent": (transfer.sent + transfer.fee).in_sats_floor(),
            "fees": transfer.fee.msat,
            "invoice": transfer.invoice,
            "completedAt": None if transfer.completed_at is None else to_ms(transfer.completed_at),
            "createdAt": to_ms(transfer.created_at),
        }
    )


_ENDPOINTS: Final[Mapping[str, tuple[str, Callable[[SandboxNode, Form], Json]]]] = MappingProxyType(
    {
        "createinvoice": ("POST", _create_invoice),
        "decodeinvoice": ("POST", _decode_invoice),
        "getbalance": ("GET", _get_balance),
        "getinfo": ("GET", _get_info),
        "payinvoice": ("POST", _pay_invoice),
        "payments/incoming": ("GET", _list_incoming),
        "payments/incoming/": ("GET", _incoming),
        "payments/outgoingbyhash/": ("GET", _outgoing_by_hash),
    }
)


# --- small print ------------------------------------------------------------------------------------------------------


async def _read_form(receive: Receive) -> Form:
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _CallerLeft
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _MOST_BODY_BYTES:
            raise _Refusal(413, "Payload too large")
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


def _integer(form: Form, name: str) -> int:
    if name not in form:
        raise _Refusal(400, f"Request parameter {name} is missing")
    digits = form[name]
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise _Refusal(400, f"Request parameter {name} couldn't be parsed/converted to integer")
    return int(digits)


def _optional(form: Form, name: str, otherwise: int) -> int:
    return _integer(form, name) if name in form else otherwise


def _hash(form: Form, name: str) -> bytes:
    try:
        octets = bytes.fromhex(form[name])
    except ValueError:
        octets = b""
    if len(octets) != HASH_BYTES:
        raise _Refusal(400, f"Request parameter {name} couldn't be parsed/converted to hex32")
    return octets


def _invoice(form: Form) -> Invoice:
    if "invoice" not in form:
        raise _Refusal(400, "Request parameter invoice is missing")
    try:
        return decode(form["invoice"])
    except MalformedInvoice:
        raise _Refusal(400, "Request parameter invoice couldn't be parsed/converted to bolt11invoice") from None


def _payment_id(payment_hash: bytes) -> str:
    return str(uuid.UUID(bytes=payment_hash[:16], version=4))


def _without_nulls(members: dict[str, Json]) -> Json:
    """phoenixd leaves out what it does not know."""
    return {name: value for name, value in members.items() if value is not None}


async def _send(send: Send, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="Ktor Server", charset=UTF-8'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _break_off(send: Send) -> None:
    """Begin an answer that is never finished: a server that has sent its first bytes can only close the connection."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
