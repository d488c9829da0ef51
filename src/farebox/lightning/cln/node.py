"""Core Lightning over clnrest or its JSON-RPC socket, as Receiver and as Wallet. No real one has been asked yet.

Rules
1. Only what cln says explicitly counts: an invoice is paid when its status is `paid`. A payment is proven by its
   preimage; it has failed when xpay says so and listpays knows none, or when every attempt in listpays has failed.
2. Nothing is paid that could not be looked up afterwards: listpays is asked before xpay, and what it knows as paid or
   on its way is not paid again. xpay alone pays; nothing else is tried when it does not.
3. Between two attempts of an xpay that goes on, listpays calls all of them failed. So xpay is given less time than its
   reply is waited for; only when its reply is lost may a look-up within that time take such a pause for the end.
4. clnrest refuses a rune before anything is done: codes 1501 to 1503, or a status of 401 or 403.
5. cln refuses JSON with `\\u` in a description, so bodies are UTF-8 and control characters are blanked.
6. The socket needs no rune, so whoever may open it can pay. Its calls are `unix:///rpc/METHOD`, over a line.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import MOST_DESCRIPTION_BYTES, Invoice, Network
from farebox.core.conversation import Line
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.exchange import Json
from farebox.core.ports import (
    Capabilities,
    Capability,
    Conversation,
    Failed,
    HttpCall,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    Paid,
    PayOutcome,
    Unresolved,
)
from farebox.core.secret import Secret
from farebox.core.settlement import Settlement, Settlements
from farebox.lightning.api import ANSWER_WITHIN, PAY_WITHIN
from farebox.lightning.backend import TwoPorts
from farebox.lightning.cln.said import (
    ALREADY_PAID,
    TIMED_OUT,
    complaint,
    error_of,
    forbidden,
    msats_of,
    outcome_of_pays,
    outcome_of_xpay,
    rows_of,
    sensible,
)
from farebox.lightning.invoice import check_amount, read_made
from farebox.lightning.outcome import is_unsent
from farebox.lightning.reply import Told, count, hash_of, text
from farebox.lightning.url import read_certificate, read_file, read_url

CAPABILITIES: Final = frozenset(
    {Capability.FEE_LIMIT, Capability.LOOKUP, Capability.MSAT, Capability.PAYS_ONCE, Capability.STREAM}
)
_REST_FORM: Final = "cln+https://HOST:3010?rune=RUNE&cert=PATH"
_UNIX_FORM: Final = "cln+unix:///PATH/lightning-rpc"
_PORT: Final = 3010
_RUNE: Final = re.compile(r"[A-Za-z0-9_-]{40,}={0,2}", re.ASCII)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_TO_BE_PAID: Final = '[["method=invoice","method=listinvoices","method=waitanyinvoice"]]'
_SPENDING: Final = ("xpay", "pay", "sendpay", "keysend", "withdraw")  # each of them needs an argument
_SPENDABLE: Final = frozenset({"CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE"})
_PAGE: Final = 100  # settlements, each of them asked for alone
_TRY_FOR: Final = timedelta(seconds=30)
_SECOND: Final = timedelta(seconds=1)
_STATES: Final = MappingProxyType(
    {
        "unpaid": InvoiceState.OPEN,
        "paid": InvoiceState.PAID,
        "expired": InvoiceState.CANCELLED,
    }
)
_TOLD_ANOTHER: Final = "the node tells something else than it was asked"


class Cln(TwoPorts):
    """A Core Lightning node.

    Make one with `Cln.from_url("cln+https://127.0.0.1:3010?rune=…&cert=/path/ca.pem")`, or on the node's own machine
    with `Cln.from_url("cln+unix:///path/to/lightning-rpc")`. To be paid, a rune has to allow invoice, listinvoices and
    waitanyinvoice; to pay, xpay, listpays and listfunds.
    """

    capabilities: Capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        base_url: str,
        name: str,
        rune: Secret[str] | None = None,
        line: Line | None = None,
        pay_within: timedelta = PAY_WITHIN,
    ) -> None:
        self._base_url = base_url
        self._name = name
        self._headers = None if rune is None else Secret(f"rune: {rune.reveal()}\ncontent-type: application/json")
        self._line = line
        self._pay_within = pay_within
        self._network: Network | None = None

    @classmethod
    def from_url(cls, url: str, *, pay_within: timedelta = PAY_WITHIN) -> Self:
        """Read `cln+https://host:3010?rune=…&cert=…` or `cln+unix:///path/to/lightning-rpc`.

        rune: the rune, or the path of a file that holds nothing else. cert: the path of clnrest's `ca.pem`; without it
        the system's authorities are believed. pay_within: after so long without an answer a payment is unresolved.
        Raises WalletError.
        """
        if url.strip().lower().startswith("cln+unix:"):
            path = _read_socket(url.strip())
            return cls(
                base_url="unix:///rpc",
                name=f"cln at {path}",
                line=Line(socket=path),
                pay_within=pay_within,
            )
        read = read_url(url, _REST_FORM, {"cln+https": "https"}, "rune!", "cert", port=_PORT)
        trusted = read_certificate(read.given.get("cert"))
        return cls(
            base_url=f"{read.base_url}/v1",
            name=f"cln at {read.base_url.partition('://')[2]}",
            rune=_read_rune(read.given["rune"]),
            line=None if trusted is None else Line(certificate=trusted),
            pay_within=pay_within,
        )

    @property
    def name(self) -> str:
        """`cln at 127.0.0.1:3010`."""
        return self._name

    @property
    def network(self) -> Network | None:
        """The node's chain; None until an invoice was made."""
        return self._network

    # --- being paid ---------------------------------------------------------------------------------------------------

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount. Raises WalletError for nothing; NodeUnavailable."""
        check_amount(amount, by="cln")
        asked: dict[str, Json] = {
            "amount_msat": amount.msat,
            "label": f"farebox-{secrets.token_hex(16)}",  # cln wants one that no other invoice has
            "description": _shortened(description),
            "expiry": expires_in // _SECOND,
        }
        made = sensible((yield self._call("invoice", asked)), "invoice")
        invoice = read_made(made, "bolt11", amount, network=self._network, by="the node", payment_hash="payment_hash")
        self._network = invoice.network
        return invoice

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """What cln says of one of its invoices: its `status`, never its preimage. Raises NodeUnavailable."""
        reply = yield self._call("listinvoices", {"payment_hash": payment_hash.hex()})
        rows = rows_of(reply, "invoices")
        if rows is None:
            raise NodeUnavailable(complaint(reply, "listinvoices"))
        if not rows:
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
        state = _STATES.get(text(rows[0], "status") or "")
        if state is None or len(rows) > 1 or hash_of(rows[0], "payment_hash") != payment_hash:
            raise NodeUnavailable(_TOLD_ANOTHER)
        received = msats_of(rows[0], "amount_received_msat") if state is InvoiceState.PAID else NOTHING
        if received is None:
            raise NodeUnavailable(_TOLD_ANOTHER)
        return InvoiceStatus(state=state, received=received)

    @property
    def narrow(self) -> str:
        """As cln's own command makes it."""
        return f"ask it over cln+https with a rune of `lightning-cli createrune restrictions='{_TO_BE_PAID}'`"

    def spends(self) -> Conversation[bool | None]:
        """Whether the rune pays; None when cln does not say. Each method that pays is called without its arguments.

        A rune that pays only so much is refused such a call for that, and then nothing is said either.
        """
        if self._headers is None:
            return True
        refused = unclear = False
        for method in _SPENDING:
            error = error_of((yield self._call(method)))
            if error is not None and error.allowed:
                return True
            refused = refused or (error is not None and error.allowed is False)
            unclear = unclear or error is None or (error.allowed is None and not error.unheard_of)
        return False if refused and not unclear else None

    # --- settlements --------------------------------------------------------------------------------------------------

    def settlements(self, cursor: str, *, wait: timedelta) -> Conversation[Settlements]:
        """What was paid after the `pay_index` that the cursor is; cln tells one at a time and waits for the first.

        What was told before cln fails is told here too, or a rune with a rate would never come to the end of much.
        Raises NodeUnavailable.
        """
        index = int(cursor) if cursor.isdecimal() else 0
        settled: list[Settlement] = []
        while len(settled) < _PAGE:
            try:
                told = yield from self._paid_after(index, wait=timedelta(0) if settled else wait)
            except NodeUnavailable:
                if not settled:
                    raise
                break
            if told is None:
                return Settlements(settled=tuple(settled), cursor=str(index))
            index = count(told, "pay_index") or 0
            payment_hash, received = hash_of(told, "payment_hash"), msats_of(told, "amount_received_msat")
            if payment_hash is None or received is None:
                raise NodeUnavailable("the node's settlements can't be read")
            settled.append(Settlement(payment_hash=payment_hash, received=received))
        return Settlements(settled=tuple(settled), cursor=str(index), more=True)

    def cursor_at(self, at: datetime) -> Conversation[str]:
        """The `pay_index` of the last that was paid before. Raises NodeUnavailable.

        cln tells what was paid next after any index, so it is looked for in ever larger steps, and then by halves.
        """
        before_s = int(at.astimezone(UTC).timestamp())  # cln tells when in whole seconds
        before, step = 0, 1
        while True:
            index = yield from self._before(before + step - 1, before_s)
            if index is None:
                break
            before, step = index, step * 2
        after = before + step - 1
        while before < after:
            middle = (before + after) // 2
            index = yield from self._before(middle, before_s)
            before, after = (before, middle) if index is None else (index, after)
        return str(before)

    def _before(self, index: int, before_s: int) -> Conversation[int | None]:
        """The index of what was paid next, if that was before this second."""
        told = yield from self._paid_after(index, wait=timedelta(0))
        if told is None:
            return None
        paid_at = count(told, "paid_at")
        if paid_at is None:
            raise NodeUnavailable("the node's settlements can't be read")
        return count(told, "pay_index") if paid_at < before_s else None

    def _paid_after(self, index: int, *, wait: timedelta) -> Conversation[Told | None]:
        """The first invoice that was paid after the one of this index; None when there is none so long."""
        asked: dict[str, Json] = {"lastpay_index": index, "timeout": max(0, wait // _SECOND)}
        reply = yield self._call("waitanyinvoice", asked, within=wait + ANSWER_WITHIN)
        error = error_of(reply)
        if error is not None and error.code == TIMED_OUT:
            return None
        told = sensible(reply, "waitanyinvoice")
        if text(told, "status") != "paid" or (count(told, "pay_index") or 0) <= index:
            raise NodeUnavailable(_TOLD_ANOTHER)
        return told

    # --- paying -------------------------------------------------------------------------------------------------------

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Pay it, for at most so much to those in between; paid before, it is found with its proof."""
        reply = yield self._ask_for_payment(invoice.payment_hash)
        if is_unsent(reply) or _is_forbidden(reply):  # and then nothing is paid
            return Failed(reason=complaint(reply, "listpays"))
        found = _found(reply, invoice.payment_hash)
        if isinstance(found, Paid) or (isinstance(found, Unresolved) and found.known):
            return found
        asked: dict[str, Json] = {
            "invstring": invoice.text,
            "maxfee": fee_limit.msat,
            "retry_for": _TRY_FOR // _SECOND,
        }
        reply = yield self._call("xpay", asked, within=self._pay_within)
        if is_unsent(reply):
            return Failed(reason=complaint(reply, "xpay"))
        error = error_of(reply)
        if error is None:
            return outcome_of_xpay(reply, invoice.payment_hash)
        found = _found((yield self._ask_for_payment(invoice.payment_hash)), invoice.payment_hash)
        unknown = isinstance(found, Unresolved) and not found.known
        if isinstance(found, Failed) or (unknown and (error.ended or error.forbidden)):
            return Failed(reason=complaint(reply, "xpay"))
        if unknown and error.code == ALREADY_PAID:
            return Unresolved(reason="cln says that it paid before, and has forgotten the proof")
        return found

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """What became of a payment: the best of its attempts. Raises WalletError when the rune may not ask."""
        reply = yield self._ask_for_payment(payment_hash)
        if _is_forbidden(reply):
            raise WalletError(f"{self.name}: {forbidden('listpays')}")
        return _found(reply, payment_hash)

    def balance(self) -> Conversation[Amount]:
        """What its open channels hold on its side. Raises WalletError."""
        reply = yield self._call("listfunds")
        channels = rows_of(reply, "channels")
        if channels is None:
            raise WalletError(f"{self.name}: {complaint(reply, 'listfunds')}")
        balance = NOTHING
        for channel in channels:
            if text(channel, "state") in _SPENDABLE:
                ours = msats_of(channel, "our_amount_msat")
                if ours is None:
                    raise WalletError(f"{self.name}: cln answered with something that can't be read")
                balance += ours
        return balance

    # --- small print --------------------------------------------------------------------------------------------------

    def _ask_for_payment(self, payment_hash: bytes) -> HttpCall:
        return self._call("listpays", {"payment_hash": payment_hash.hex()})

    def _call(
        self, method: str, asked: Mapping[str, Json] | None = None, *, within: timedelta = ANSWER_WITHIN
    ) -> HttpCall:
        return HttpCall(
            method="POST",
            url=f"{self._base_url}/{method}",
            headers=self._headers,
            body=json.dumps(asked or {}, ensure_ascii=False).encode(),
            timeout=within,
            line=self._line,
        )


def _found(reply: HttpReply, payment_hash: bytes) -> PayOutcome:
    rows = rows_of(reply, "pays")
    return Unresolved(reason=complaint(reply, "listpays")) if rows is None else outcome_of_pays(rows, payment_hash)


def _is_forbidden(reply: HttpReply) -> bool:
    error = error_of(reply)
    return error is not None and error.forbidden


def _read_socket(url: str) -> str:
    wrong = WalletError(f"it is written as {_UNIX_FORM}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise wrong from None
    path = unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or not path.startswith("/") or _CONTROL.search(path):
        raise wrong
    return path


def _read_rune(given: str) -> Secret[str]:
    rune = read_file(given, "rune").decode("ascii", "replace").strip() if "/" in given else given
    if not _RUNE.fullmatch(rune):
        raise WalletError("the rune is none: give what `lightning-cli createrune` tells, or the path of a file with it")
    return Secret(rune)


def _shortened(description: str) -> str:
    blanked = _CONTROL.sub(" ", description).encode(errors="ignore")
    return blanked[:MOST_DESCRIPTION_BYTES].decode(errors="ignore")
