"""Eclair: an eclair node, asked over its own HTTP API (https://acinq.github.io/eclair).

Rules
1. An invoice is paid when its status is `received`; eclair shows the preimage of every invoice, paid or not.
2. eclair tries again what it was told to pay again, in flight or paid. So it is asked first what became of the payment.
3. A payment is told as a list of its attempts and parts. One that was sent with its proof is paid; it has failed only
   if all of them have. While eclair looks for the next route it lists an attempt that is pending.
4. `maxFeeFlatSat` limits the fee only with `maxFeePct=0`, for eclair takes the larger of the two; it is whole satoshis.
5. eclair stops answering after a while (408 or 500) and goes on paying. Only what it answers for good counts.
6. There is one password, and it may do everything: whoever can be paid with it can pay.
"""

from __future__ import annotations

import base64
from datetime import timedelta
from types import MappingProxyType
from typing import Final, Self

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, fitting
from farebox.core.errors import MalformedAmount, NodeUnavailable, WalletError
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
from farebox.lightning.api import PAY_WITHIN, Api
from farebox.lightning.backend import TwoPorts
from farebox.lightning.invoice import check_amount, read_made
from farebox.lightning.outcome import failed_if_found_so, in_flight, is_unsent, never_heard, no_proof, proven
from farebox.lightning.reply import (
    Told,
    fault_of,
    hash_of,
    member,
    msats,
    need,
    network_of,
    one_line,
    preimage_of,
    read_list,
    read_object,
    read_reply,
    text,
)
from farebox.lightning.url import read_url

CAPABILITIES: Final = frozenset({Capability.DESCRIPTION_HASH, Capability.FEE_LIMIT, Capability.LOOKUP, Capability.MSAT})
_FORM: Final = "eclair+http://:PASSWORD@HOST:8080"
_SCHEMES: Final = MappingProxyType({"eclair+http": "http", "eclair+https": "https"})
_ECLAIR_WAITS: Final = timedelta(seconds=60)
_OK, _BAD_REQUEST, _UNAUTHORIZED, _NOT_FOUND = 200, 400, 401, 404
_REFUSED: Final = "eclair refuses the password; it has to be the `eclair.api.password` of its eclair.conf"


class Eclair(TwoPorts):
    """An eclair node as Receiver and as Wallet.

    Make one with `Eclair.from_url("eclair+http://:password@127.0.0.1:8080")`. It is asked in the clear with
    `eclair+http`, so that is for loopback and private networks.
    """

    capabilities: Capabilities = CAPABILITIES

    def __init__(self, *, base_url: str, password: Secret[str]) -> None:
        told = base64.b64encode(b":" + password.reveal().encode()).decode()
        headers = f"authorization: Basic {told}\ncontent-type: application/x-www-form-urlencoded"
        self._api = Api(base_url=base_url, headers=Secret(headers))
        self._network: Network | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read `eclair+http://:password@host:port` or `eclair+https://…`. Raises WalletError."""
        read = read_url(url, _FORM, _SCHEMES)
        if read.password is None:
            raise WalletError(f"it has no password; it is written as {_FORM}")
        return cls(base_url=read.base_url, password=read.password)

    @property
    def name(self) -> str:
        """`eclair at 127.0.0.1:8080`."""
        return f"eclair at {self._api.place}"

    @property
    def network(self) -> Network | None:
        """The node's chain; None until it was asked, which making or paying an invoice does."""
        return self._network

    @property
    def narrow(self) -> str:
        """Not by eclair itself."""
        return (
            "eclair has one password, which pays: let a proxy in front of it pass nothing but "
            "/getinfo, /createinvoice and /getreceivedinfo"
        )

    # --- being paid ---------------------------------------------------------------------------------------------------

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount. Raises WalletError for nothing; NodeUnavailable."""
        check_amount(amount, by="eclair")
        untold = yield from self._learn_network()
        if untold is not None:
            raise NodeUnavailable(_complaint(untold))
        form = {
            "amountMsat": str(amount.msat),
            "description": fitting(description),
            "expireIn": str(expires_in // timedelta(seconds=1)),
        }
        made = _sensible((yield self._api.post_form("/createinvoice", form)))
        return read_made(made, "serialized", amount, network=self._network, by="the node", payment_hash="paymentHash")

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """What eclair says of one of its invoices: its `status`, never its preimage. Raises NodeUnavailable."""
        reply = yield self._api.post_form("/getreceivedinfo", {"paymentHash": payment_hash.hex()})
        if reply.status == _NOT_FOUND and read_object(reply.body) is not None:
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
        told = _sensible(reply)
        status = member(told, "status")
        if hash_of(member(told, "invoice"), "paymentHash") == payment_hash:
            match text(status, "type"):
                case "pending":
                    return InvoiceStatus(state=InvoiceState.OPEN)
                case "expired":
                    return InvoiceStatus(state=InvoiceState.CANCELLED)
                case "received" if (received := msats(status, "amount")) is not None:
                    return InvoiceStatus(state=InvoiceState.PAID, received=received)
        raise NodeUnavailable("the node tells something else than it was asked")

    def spends(self) -> Conversation[bool | None]:
        """Whether the password is good, for then it pays; None when eclair does not say.

        It is asked to pay no invoice at all: a wrong password is refused (401) before that is noticed (400).
        """
        reply = yield self._api.post_form("/payinvoice", {})
        if reply.status == _BAD_REQUEST:
            return True
        return False if reply.status == _UNAUTHORIZED else None

    # --- paying -------------------------------------------------------------------------------------------------------

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Pay it, for at most so many whole satoshis to those in between; paid before, it is found with its proof."""
        untold = yield from self._learn_network()
        if untold is not None:  # nothing but a question was sent so far
            return Failed(reason=_complaint(untold))
        if invoice.network != self._network:
            return Failed(reason=f"the invoice is for {invoice.network}, the wallet is on {self._network}")
        reply = yield self._ask_for_payment(invoice.payment_hash)
        if reply.status != _OK:
            return Failed(reason=_complaint(reply))
        before = _outcome(reply, invoice.payment_hash)
        if isinstance(before, Paid) or (isinstance(before, Unresolved) and before.known):
            return before
        form = {
            "invoice": invoice.text,
            "blocking": "true",
            "maxFeeFlatSat": str(fee_limit.in_sats_floor()),
            "maxFeePct": "0",
            "timeoutSeconds": str(_ECLAIR_WAITS // timedelta(seconds=1)),
        }
        reply = yield self._api.post_form("/payinvoice", form, within=PAY_WITHIN)
        if reply.status == _UNAUTHORIZED or is_unsent(reply):
            return Failed(reason=_complaint(reply))
        if reply.status == _BAD_REQUEST:  # one that has expired, for instance
            return (yield from self._look_again(invoice.payment_hash, "eclair refuses to pay the invoice"))
        told = read_reply(reply)
        if told is None or hash_of(told, "paymentHash") != invoice.payment_hash:
            return Unresolved(reason=_complaint(reply))
        match text(told, "type"):
            case "payment-sent":
                return proven(told, "paymentPreimage", invoice.payment_hash, fee=_fee(told), by="eclair")
            case "payment-failed":
                return (yield from self._look_again(invoice.payment_hash, _why(told)))
        return Unresolved(reason=_complaint(reply))

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """What became of a payment. Raises WalletError when the password is refused."""
        reply = yield self._ask_for_payment(payment_hash)
        if reply.status == _UNAUTHORIZED:
            raise WalletError(f"{self.name}: {_REFUSED}")
        return _outcome(reply, payment_hash)

    def balance(self) -> Conversation[Amount]:
        """What the channels that are up can send. Raises WalletError."""
        reply = yield self._api.post_form("/usablebalances", {})
        channels = read_list(reply.body) if reply.status == _OK else None
        if channels is None or any(msats(each, "canSend") is None for each in channels):
            raise WalletError(f"{self.name}: {_complaint(reply)}")
        return _sum([each for each in channels if each.get("isEnabled") is not False], "canSend")

    # --- small print --------------------------------------------------------------------------------------------------

    def _look_again(self, payment_hash: bytes, reason: str) -> Conversation[PayOutcome]:
        """What a look-up says of a payment that was just called failed: failed only if that agrees."""
        return failed_if_found_so(reason, _outcome((yield self._ask_for_payment(payment_hash)), payment_hash))

    def _learn_network(self) -> Conversation[HttpReply | None]:
        """Ask for the node's chain, once; the reply that did not tell it."""
        if self._network is not None:
            return None
        reply = yield self._api.post_form("/getinfo", {})
        told = read_reply(reply)
        self._network = None if told is None else network_of(told, "network")
        return reply if self._network is None else None

    def _ask_for_payment(self, payment_hash: bytes) -> HttpCall:
        return self._api.post_form("/getsentinfo", {"paymentHash": payment_hash.hex()})


def _outcome(reply: HttpReply, payment_hash: bytes) -> PayOutcome:
    """What the list of all attempts says."""
    attempts = read_list(reply.body) if reply.status == _OK else None
    if attempts is None or any(hash_of(each, "paymentHash") != payment_hash for each in attempts):
        return Unresolved(reason=_complaint(reply))
    if not attempts:
        return never_heard("eclair")
    statuses = [member(each, "status") for each in attempts]
    sent = [each for each in statuses if text(each, "type") == "sent"]
    for each in sent:
        preimage = preimage_of(each, "paymentPreimage", payment_hash)
        if preimage is not None:
            return Paid(preimage=preimage, fee=_sum(sent, "feesPaid"))
    if sent:
        return Unresolved(reason=no_proof("eclair"))
    if all(text(each, "type") == "failed" for each in statuses):
        return Failed(reason="eclair says that the payment failed")
    return in_flight()


def _fee(told: Told) -> Amount:
    """What routing cost: eclair tells it for the whole, and for each part under a name that depends on its version."""
    fees, listed = msats(told, "fees"), told.get("parts")
    parts: list[Told] = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return fees if fees is not None else _sum(parts, "fees") or _sum(parts, "feesPaid")


def _sum(listed: list[Told], name: str) -> Amount:
    """All of it together; what can't be read counts as nothing."""
    try:
        return sum((msats(each, name) or NOTHING for each in listed), NOTHING)
    except MalformedAmount:
        return NOTHING


def _why(told: Told) -> str:
    failures = told.get("failures")
    last = failures[-1] if isinstance(failures, list) and failures else None
    reason = text(last, "t") if isinstance(last, dict) else None
    return "eclair says that the payment failed" if reason is None else f"eclair: {one_line(reason)}"


def _sensible(reply: HttpReply) -> Told:
    return need(reply, _complaint(reply))


def _complaint(reply: HttpReply) -> str:
    """What is wrong with a reply, in words that may be shown to anyone."""
    return _REFUSED if reply.status == _UNAUTHORIZED else fault_of(reply, "eclair")
