"""FakeCln: Core Lightning's methods in front of the sandbox, as clnrest or its JSON-RPC socket gives them out.

Rules
1. Methods, parameters, members, units, codes and statuses are those of Core Lightning as far as the clients of LNbits
   1.6.2, nutshell (cashu 0.20.2) and pyln-client 25.12 know them. What those do not ask was held against nothing real:
   what xpay answers, how a rune is refused, and what a second payment in flight is told.
2. A rune says which node is asked and which methods it allows. The socket needs none, and is the node of its path.
3. Where the sandbox has lost a reply, or a payment stays in flight, nothing answers.
4. An attempt that found no route at all leaves nothing behind in listpays; one that failed on its way does.
5. A body is JSON or a form. On the socket a description with `\\u` is refused, as Core Lightning does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import MOST_DESCRIPTION_BYTES, Invoice, Network, decode
from farebox.core.conversation import HttpCall, HttpReply
from farebox.core.errors import MalformedInvoice
from farebox.core.exchange import HASH_BYTES, Json
from farebox.core.ports import Failed, InvoiceState, Paid, Unresolved
from farebox.core.secret import Secret
from farebox.http.converse import converse
from farebox.lightning.sandbox import Sandbox, SandboxNode
from farebox.lightning.sandbox.transfer import Transfer, TransferState

Params = Mapping[str, Json]

_INVALID, _NO_METHOD = -32602, -32601
_NOT_AUTHORIZED, _NOT_PERMITTED = 1501, 1502
_LABEL_EXISTS, _PREIMAGE_USED, _TIMED_OUT = 900, 901, 904
_IN_PROGRESS, _AT_DESTINATION, _NO_ROUTE, _EXPIRED, _OTHER, _ALREADY_PAID = 200, 203, 205, 207, 209, 219
_ON_ITS_WAY: Final = "the recipient was offline"
_INVOICE_TAKES: Final = (
    "amount_msat label description [expiry] [fallbacks] [preimage] [exposeprivatechannels] [cltv] [deschashonly]"
)
_DEFAULT_EXPIRY_S: Final = 7 * 24 * 3600
_MOST_DIGITS: Final = 19
_STATUSES: Final = {_NOT_AUTHORIZED: 401, _NOT_PERMITTED: 401, _NO_METHOD: 404}
_LISTED: Final = {
    InvoiceState.OPEN: "unpaid",
    InvoiceState.HELD: "unpaid",
    InvoiceState.PAID: "paid",
    InvoiceState.CANCELLED: "expired",
}
_PAYS: Final = {TransferState.HELD: "pending", TransferState.PAID: "complete", TransferState.FAILED: "failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rune:
    """methods: those that it allows; None for all. below: what a payment may be at most, exclusive."""

    node: SandboxNode
    methods: frozenset[str] | None = None
    below: Amount | None = None


class _Refusal(Exception):
    """An error: its code and its message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Silence(Exception):
    """Nothing is answered."""


class FakeCln:
    """Answers calls as the nodes of a sandbox would, were they of Core Lightning.

    runes: by their text. sockets: nodes by the path of theirs. nested: errors have the older form, which LNbits reads;
    nutshell reads the other. calls: what was asked, as a method and its parameters.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        runes: Mapping[str, Rune] | None = None,
        sockets: Mapping[str, SandboxNode] | None = None,
        nested: bool = False,
    ) -> None:
        self._sandbox = sandbox
        self._runes = dict(runes or {})
        self._sockets = dict(sockets or {})
        self._nested = nested
        self._labels: dict[tuple[str, str], bytes] = {}
        self._preimages: dict[bytes, Secret[bytes]] = {}
        self._paid: dict[str, list[bytes]] = {}
        self._cursors: dict[str, str] = {}
        self.calls: list[tuple[str, Params]] = []

    def __call__(self, call: HttpCall) -> HttpReply:
        method = call.url.rpartition("/")[2]
        try:
            params = _params(call)
            node = self._admit(call, method, params)
            if not node.reachable:
                raise _Silence
            self.calls.append((method, params))
            answer = self._endpoint(method)(node, params)
        except _Refusal as refusal:
            error: dict[str, Json] = {"code": refusal.code, "message": refusal.message}
            told: dict[str, Json] = {"error": error} if self._nested else error
            return HttpReply(status=_STATUSES.get(refusal.code, 500), body=json.dumps(told).encode())
        except _Silence:
            return HttpReply(status=0, sent=True, reason="ReadTimeout")
        return HttpReply(status=201, body=json.dumps(answer).encode())

    def _admit(self, call: HttpCall, method: str, params: Params) -> SandboxNode:
        if call.line is not None and call.line.socket is not None:
            return self._sockets[call.line.socket]
        lines = [] if call.headers is None else call.headers.reveal().splitlines()
        given = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        rune = self._runes.get(given.get("rune", ""))
        if rune is None:
            raise _Refusal(_NOT_AUTHORIZED, "Not authorized: Not derived from master")
        if rune.methods is not None and method not in rune.methods:
            allowed = " AND ".join(f"method is not equal to {each}" for each in sorted(rune.methods))
            raise _Refusal(_NOT_PERMITTED, f"Not permitted: {allowed}")
        if rune.below is not None and method == "xpay" and not _is_below(params, rune.below):
            raise _Refusal(_NOT_PERMITTED, "Not permitted: pinvinvstring_amount is not less than it may be")
        return rune.node

    def _endpoint(self, method: str) -> Callable[[SandboxNode, Params], Json]:
        endpoints: dict[str, Callable[[SandboxNode, Params], Json]] = {
            "help": _help,
            "invoice": self._invoice,
            "keysend": _lacking("destination"),
            "listfunds": self._list_funds,
            "listinvoices": self._list_invoices,
            "listpays": self._list_pays,
            "pay": self._pay,
            "sendpay": _lacking("route"),
            "waitanyinvoice": self._wait_any_invoice,
            "withdraw": _lacking("destination"),
            "xpay": self._xpay,
        }
        if method not in endpoints:
            raise _Refusal(_NO_METHOD, f"Unknown command '{method}'")
        return endpoints[method]

    # --- being paid ---------------------------------------------------------------------------------------------------

    def _invoice(self, node: SandboxNode, params: Params) -> Json:
        amount = Amount.msats(_integer(params, "amount_msat"))
        label, description = _text(params, "label"), _text(params, "description")
        expires_in = timedelta(seconds=_integer(params, "expiry", _DEFAULT_EXPIRY_S))
        if (node.role, label) in self._labels:
            raise _Refusal(_LABEL_EXISTS, f"Duplicate label '{label}'")
        if len(description.encode()) > MOST_DESCRIPTION_BYTES:
            raise _Refusal(_INVALID, f"description can't be over {MOST_DESCRIPTION_BYTES} bytes")
        if "preimage" in params:
            preimage = Secret(_hash(params, "preimage"))
            payment_hash = sha256(preimage.reveal()).digest()
            if payment_hash in self._preimages:
                raise _Refusal(_PREIMAGE_USED, "preimage already used")
            self._preimages[payment_hash] = preimage
            invoice = node.issue_held(amount, payment_hash=payment_hash, description=description, expires_in=expires_in)
        else:
            invoice = node.issue(amount, description=description, expires_in=expires_in)
        self._labels[node.role, label] = invoice.payment_hash
        return {
            "bolt11": invoice.text,
            "payment_hash": invoice.payment_hash.hex(),
            "payment_secret": invoice.payment_secret.hex(),
            "expires_at": int(invoice.expires_at.timestamp()),
            "created_index": len(self._labels),
            "warning_capacity": "Insufficient incoming channel capacity to pay invoice",
        }

    def _list_invoices(self, node: SandboxNode, params: Params) -> Json:
        self._learn_paid(node)
        made = {hash_: label for (role, label), hash_ in self._labels.items() if role == node.role}
        if "payment_hash" in params:
            wanted = _hash(params, "payment_hash")
            made = {wanted: made[wanted]} if wanted in made else {}
        return {"invoices": [self._told_invoice(node, hash_, label) for hash_, label in made.items()]}

    def _wait_any_invoice(self, node: SandboxNode, params: Params) -> Json:
        self._learn_paid(node)
        after, paid = _integer(params, "lastpay_index", 0), self._paid.get(node.role, [])
        if after >= len(paid):
            if params.get("timeout") is None:
                raise _Silence
            raise _Refusal(_TIMED_OUT, "Timed out")
        labels = {hash_: label for (_, label), hash_ in self._labels.items()}
        return self._told_invoice(node, paid[after], labels.get(paid[after], "another"))

    def _told_invoice(self, node: SandboxNode, payment_hash: bytes, label: str) -> dict[str, Json]:
        invoice, status = node.find_invoice(payment_hash), node.invoice_status(payment_hash)
        assert invoice is not None
        told: dict[str, Json] = {
            "label": label,
            "payment_hash": payment_hash.hex(),
            "status": _LISTED[status.state],
            "description": invoice.description or "",
            "expires_at": int(invoice.expires_at.timestamp()),
            "bolt11": invoice.text,
            "amount_msat": (invoice.amount or NOTHING).msat,
        }
        receipt = node.find_receipt(payment_hash)
        if status.state is InvoiceState.PAID and receipt is not None and receipt.completed_at is not None:
            told |= {
                "pay_index": self._paid[node.role].index(payment_hash) + 1,
                "amount_received_msat": status.received.msat,
                "paid_at": int(receipt.completed_at.timestamp()),
                "payment_preimage": _proof(receipt),
            }
        return told

    def _learn_paid(self, node: SandboxNode) -> None:
        paid, more = self._paid.setdefault(node.role, []), True
        while more:
            read = converse(node.settlements(self._cursors.get(node.role, ""), wait=timedelta(0)))
            paid += [each.payment_hash for each in read.settled]
            self._cursors[node.role], more = read.cursor, read.more

    # --- paying -------------------------------------------------------------------------------------------------------

    def _xpay(self, node: SandboxNode, params: Params) -> Json:
        transfer = self._transfer(node, _text(params, "invstring"), params, again=False)
        return {
            "payment_preimage": _proof(transfer),
            "failed_parts": 0,
            "successful_parts": 1,
            "amount_msat": transfer.sent.msat,
            "amount_sent_msat": (transfer.sent + transfer.fee).msat,
        }

    def _pay(self, node: SandboxNode, params: Params) -> Json:
        """The older one: paid before, it tells the same again."""
        transfer = self._transfer(node, _text(params, "bolt11"), params, again=True)
        return {
            "payment_preimage": _proof(transfer),
            "status": "complete",
            "payment_hash": transfer.payment_hash.hex(),
            "created_at": transfer.created_at.timestamp(),
            "parts": 1,
            "destination": decode(transfer.invoice).payee.hex(),
            "amount_msat": transfer.sent.msat,
            "amount_sent_msat": (transfer.sent + transfer.fee).msat,
        }

    def _transfer(self, node: SandboxNode, text: str, params: Params, *, again: bool) -> Transfer:
        try:
            invoice = decode(text)
        except MalformedInvoice:
            raise _Refusal(_INVALID, f"Invalid bolt11: invalid token '{text}'") from None
        if invoice.network is not Network.REGTEST:
            raise _Refusal(_INVALID, "Invalid bolt11: Unknown chain")
        earlier = node.find_transfer(invoice.payment_hash)
        if earlier is not None and earlier.state is TransferState.HELD:
            raise _Refusal(_IN_PROGRESS, "Payment is still in progress")
        if earlier is not None and earlier.state is TransferState.PAID:
            if again:
                return earlier
            raise _Refusal(_ALREADY_PAID, "Already paid this invoice successfully")
        outcome = node.pay(invoice, fee_limit=_fee_limit(params, invoice))
        if isinstance(outcome, Unresolved) and (preimage := self._preimages.get(invoice.payment_hash)) is not None:
            self._sandbox.seller.settle(preimage)
            outcome = converse(node.lookup_payment(invoice.payment_hash))
        match outcome:
            case Failed(reason=reason):
                raise _Refusal(_code(reason), f"Failed: {reason}")
            case Unresolved():
                raise _Silence
            case Paid():
                found = node.find_transfer(invoice.payment_hash)
                assert found is not None
                return found

    def _list_pays(self, node: SandboxNode, params: Params) -> Json:
        transfer = node.find_transfer(_hash(params, "payment_hash"))
        if transfer is None or (transfer.state is TransferState.FAILED and _ON_ITS_WAY not in transfer.reason):
            return {"pays": []}
        told: dict[str, Json] = {
            "payment_hash": transfer.payment_hash.hex(),
            "status": _PAYS[transfer.state],
            "created_at": int(transfer.created_at.timestamp()),
            "bolt11": transfer.invoice,
            "amount_msat": transfer.sent.msat,
            "amount_sent_msat": (transfer.sent + transfer.fee).msat,
        }
        if transfer.state is TransferState.PAID:
            told["preimage"] = _proof(transfer)
        return {"pays": [told]}

    def _list_funds(self, node: SandboxNode, params: Params) -> Json:
        open_channel: dict[str, Json] = {
            "state": "CHANNELD_NORMAL",
            "connected": True,
            "our_amount_msat": node.funds().msat,
            "amount_msat": node.funds().msat,
        }
        return {"outputs": [], "channels": [open_channel]}


def _help(node: SandboxNode, params: Params) -> Json:
    return {"help": [{"command": f"{_text(params, 'command')} {_INVOICE_TAKES}"}]}


def _lacking(name: str) -> Callable[[SandboxNode, Params], Json]:
    def refuse(node: SandboxNode, params: Params) -> Json:
        raise _Refusal(_INVALID, f"missing required parameter: {name}")

    return refuse


def _params(call: HttpCall) -> Params:
    if call.url.startswith("unix:") and b"\\u" in call.body:
        raise _Refusal(_INVALID, "description: should be a string without JSON \\u escapes")
    try:
        told = json.loads(call.body or b"{}")
    except ValueError:
        return dict(parse_qsl(call.body.decode()))
    return told if isinstance(told, dict) else {}


def _fee_limit(params: Params, invoice: Invoice) -> Amount:
    if "maxfee" in params:
        return Amount.msats(_integer(params, "maxfee"))
    amount = invoice.amount or NOTHING
    if "maxfeepercent" in params:
        return Amount.msats(int(amount.msat * float(str(params["maxfeepercent"])) / 100))
    return max(Amount.sats(5), Amount.msats(amount.msat // 100))


def _is_below(params: Params, most: Amount) -> bool:
    given = params.get("invstring")
    amount = decode(given).amount if isinstance(given, str) else None
    return amount is not None and amount < most


def _code(reason: str) -> int:
    if "expired" in reason:
        return _EXPIRED
    if "rejected" in reason:
        return _AT_DESTINATION
    return _NO_ROUTE if "funds" in reason or "fee" in reason or _ON_ITS_WAY in reason else _OTHER


def _proof(transfer: Transfer) -> str:
    assert transfer.preimage is not None
    return transfer.preimage.reveal().hex()


def _integer(params: Params, name: str, otherwise: int | None = None) -> int:
    value = params.get(name, otherwise)
    if value is None:
        raise _Refusal(_INVALID, f"missing required parameter: {name}")
    digits = str(value).removesuffix("msat")
    if isinstance(value, bool) or not digits.isdecimal() or len(digits) > _MOST_DIGITS:
        raise _Refusal(_INVALID, f"{name}: should be an unsigned 64 bit integer: invalid token '{value}'")
    return int(digits)


def _text(params: Params, name: str) -> str:
    value = params.get(name)
    if value is None:
        raise _Refusal(_INVALID, f"missing required parameter: {name}")
    return str(value)


def _hash(params: Params, name: str) -> bytes:
    try:
        octets = bytes.fromhex(_text(params, name))
    except ValueError:
        octets = b""
    if len(octets) != HASH_BYTES:
        raise _Refusal(_INVALID, f"{name}: should be a 32 byte hex value: invalid token")
    return octets
