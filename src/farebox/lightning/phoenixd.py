"""Phoenixd: a phoenixd node, asked over its own HTTP API (https://phoenix.acinq.co/server/api).

Rules
1. An invoice is paid when phoenixd says `isPaid` and what it received; a preimage shown before that means nothing.
2. A payment is Paid only with a preimage whose SHA-256 is the payment hash.
3. phoenixd tells a failed payment as 200 with a `reason`, and "already paid" and "in progress" likewise. So a reason is
   believed only after looking the payment up, and whatever else is unclear is Unresolved.
4. phoenixd has no fee limit per call: the limit is not enforced here, and `fee` is what it says it took
   (`routingFeeSat`, whole satoshis, rounded down by phoenixd; a look-up tells it to the millisatoshi).
5. The password goes nowhere but into the `Authorization` header.
6. What it received is what it lists. Its websocket only says when to read the list again; without one, and in any case
   after a while, it is read again all the same. Its webhook only says which invoice to look up.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, decode
from farebox.core.conversation import WakeCall
from farebox.core.errors import MalformedAmount, MalformedInvoice, NodeUnavailable, WalletError
from farebox.core.ports import (
    Capabilities,
    Capability,
    Conversation,
    Failed,
    HttpCall,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    NodeFacts,
    Paid,
    PayOutcome,
    Unresolved,
)
from farebox.core.secret import Secret
from farebox.core.settlement import Settlement, Settlements
from farebox.lightning.outcome import failed_if_found_so
from farebox.lightning.phoenixd_webhook import read_webhook
from farebox.lightning.reply import (
    Told,
    count,
    fault_of,
    hash_of,
    msats,
    network_of,
    preimage_of,
    read_list,
    read_object,
    sats,
    text,
)

CAPABILITIES: Final = frozenset(
    {Capability.DESCRIPTION_HASH, Capability.LOOKUP, Capability.PAYS_ONCE, Capability.STREAM}
)
_FORM: Final = "phoenixd+http://:PASSWORD@HOST:PORT"
_HOOK: Final = "webhook-secret"
_MOST_DESCRIPTION_UNITS: Final = 128  # phoenixd counts UTF-16 units
_MOST_REASON: Final = 200
_PAGE: Final = 300  # of 2 KB at most, of which a reply may have 1 MiB
_READ_AGAIN: Final = timedelta(seconds=10)
_UNTOLD_FOR: Final = timedelta(seconds=10)  # what the websocket did not tell is read that much later
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_ANSWER_WITHIN: Final = timedelta(seconds=10)
_PAY_WITHIN: Final = timedelta(seconds=90)  # phoenixd answers when the payment has ended, however long that takes
_OK, _NO_CONTENT, _BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 200, 204, 400, 401, 403, 404
_FORBIDDEN_TO_PAY: Final = "phoenixd refuses the password; to pay it has to be the `http-password` of its phoenix.conf"
_REFUSED: Final = (
    "phoenixd refuses the password; its phoenix.conf has the right one (`http-password-limited-access` for a shop)"
)
_NO_PROOF: Final = "phoenixd says that it paid and does not prove it"


class Phoenixd:
    """A phoenixd node as Receiver and as Wallet.

    Make one with `Phoenixd.from_url("phoenixd+http://:password@127.0.0.1:9740")`. With the limited-access password of
    phoenixd it can be paid and can't pay. It is asked in the clear with `phoenixd+http`, so that is for loopback and
    private networks.
    """

    def __init__(self, *, base_url: str, password: Secret[str], webhook_secret: Secret[str] | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._webhook_secret = webhook_secret
        told = base64.b64encode(b":" + password.reveal().encode()).decode()
        self._authorization = Secret(f"authorization: Basic {told}")
        self._headers = Secret(
            f"authorization: Basic {told}\ncontent-type: application/x-www-form-urlencoded\naccept: application/json"
        )
        self._network: Network | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read `phoenixd+http://:password@host:port` or `phoenixd+https://…`. Raises WalletError.

        `?webhook-secret=…` is that of phoenixd's `phoenix.conf`, where it is to call the shop.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise WalletError(f"a phoenixd node is written as {_FORM}") from None
        host = parts.hostname
        if not host or parts.scheme not in {"phoenixd+http", "phoenixd+https"} or parts.fragment:
            raise WalletError(f"a phoenixd node is written as {_FORM}")
        given = parse_qsl(parts.query, keep_blank_values=True)
        if [name for name, _ in given] not in ([], [_HOOK]) or not all(value for _, value in given):
            raise WalletError(f"a phoenixd node is written as {_FORM}, and behind it at most ?{_HOOK}=…")
        if not parts.password:
            raise WalletError(f"the phoenixd URL has no password: {_FORM}")
        address = f"[{host}]" if ":" in host else host
        if port is not None:
            address += f":{port}"
        scheme = parts.scheme.removeprefix("phoenixd+")
        return cls(
            base_url=f"{scheme}://{address}{quote(parts.path)}",
            password=Secret(unquote(parts.password)),
            webhook_secret=next((Secret(value) for _, value in given), None),
        )

    @classmethod
    def open_receiver(cls, url: str) -> Self:
        """The node, to be paid. Raises WalletError."""
        return cls.from_url(url)

    @classmethod
    def open_wallet(cls, url: str) -> Self:
        """The node, to pay. Raises WalletError."""
        return cls.from_url(url)

    @property
    def name(self) -> str:
        """`phoenixd at 127.0.0.1:9740`."""
        return f"phoenixd at {self._base_url.partition('://')[2]}"

    @property
    def network(self) -> Network | None:
        """The node's chain; None until it was asked, which making or paying an invoice does."""
        return self._network

    @property
    def capabilities(self) -> Capabilities:
        """It knows whole satoshis only, and no limit for the fee."""
        return CAPABILITIES

    @property
    def is_hooked(self) -> bool:
        """Whether the secret of its webhook is known."""
        return self._webhook_secret is not None

    def called_about(self, headers: Mapping[str, str], body: bytes) -> bytes | None:
        """The payment hash in a call that phoenixd has signed with the secret of its webhook."""
        return None if self._webhook_secret is None else read_webhook(self._webhook_secret, headers, body)

    # --- being paid ---------------------------------------------------------------------------------------------------

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount; the description is cut to the 128 characters that phoenixd takes.

        Raises WalletError for a fraction of a satoshi and for nothing, with nothing sent; NodeUnavailable, also when
        the node makes another invoice than it was asked for.
        """
        try:
            whole_sats = amount.in_sats_exact()
        except MalformedAmount:
            raise WalletError(f"phoenixd can't ask for {amount}: it knows whole satoshis only") from None
        if not whole_sats:
            raise WalletError("phoenixd can't ask for nothing: an invoice needs an amount")
        untold = yield from self._learn_network()
        if untold is not None:
            raise NodeUnavailable(_complaint(untold))
        form = {
            "description": _shortened(description),
            "amountSat": str(whole_sats),
            "expirySeconds": str(expires_in // timedelta(seconds=1)),
        }
        made = _sensible((yield self._call("POST", "/createinvoice", form)))
        try:
            invoice = decode(text(made, "serialized") or "")
        except MalformedInvoice:
            raise NodeUnavailable("the node made an invoice that can't be read") from None
        asked = (amount, self._network, hash_of(made, "paymentHash"))
        if (invoice.amount, invoice.network, invoice.payment_hash) != asked:
            raise NodeUnavailable("the node made another invoice than it was asked for")
        return invoice

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """What phoenixd says of one of its invoices: `isPaid` and `receivedSat`, never the preimage.

        What it received may be less than the invoice: phoenixd takes the price of a channel out of the first payments.
        Raises NodeUnavailable.
        """
        reply = yield self._call("GET", f"/payments/incoming/{payment_hash.hex()}")
        if reply.status == _NOT_FOUND:
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
        told = _sensible(reply)
        received = sats(told, "receivedSat")
        if hash_of(told, "paymentHash") != payment_hash or received is None:
            raise NodeUnavailable("the node tells something else than it was asked")
        if told.get("isPaid") is True:
            return InvoiceStatus(state=InvoiceState.PAID, received=received)
        expired = told.get("isExpired") is True
        return InvoiceStatus(state=InvoiceState.CANCELLED if expired else InvoiceState.OPEN)

    @property
    def narrow(self) -> str:
        """The other password of the same file."""
        return "use `http-password-limited-access` of its phoenix.conf as the password"

    def spends(self) -> Conversation[bool | None]:
        """Whether the password is the one that pays; None when phoenixd does not say.

        It is asked to pay no invoice at all: the limited-access password is refused (401) before that is noticed, and
        the other is told that the invoice is missing (400).
        """
        reply = yield self._call("POST", "/payinvoice")
        if reply.status == _BAD_REQUEST:
            return True
        return False if reply.status in (_UNAUTHORIZED, _FORBIDDEN) else None

    def settlements(self, cursor: str, *, wait: timedelta) -> Conversation[Settlements]:
        """What was paid since the instant that the cursor is, and a little before; waited for over the websocket.

        Where there is none, phoenixd answers at once. Raises NodeUnavailable.
        """
        told = yield from self._listed_since(cursor)
        if not wait or told.cursor != cursor:
            return told
        websocket = f"ws{self._base_url.removeprefix('http')}/websocket"
        woken = yield WakeCall(url=websocket, headers=self._authorization, timeout=min(wait, _UNTOLD_FOR))
        return (yield from self._listed_since(cursor)) if woken.status in (_OK, _NO_CONTENT) else told

    def cursor_at(self, at: datetime) -> Conversation[str]:
        """The instant itself, in milliseconds since 1970: by it phoenixd lists what was paid."""
        yield from ()
        return str(max(0, (at - _EPOCH) // _MILLISECOND))

    def facts(self) -> Conversation[NodeFacts]:
        """Its chain, and what its channels can still take. Raises NodeUnavailable."""
        reply = yield self._call("GET", "/getinfo")
        told = _sensible(reply)
        self._network = network_of(told, "chain")
        channels = told.get("channels")
        inbound = None
        if isinstance(channels, list) and all(isinstance(each, dict) for each in channels):
            inbound = sum(
                (sats(each, "inboundLiquiditySat") or NOTHING for each in channels if isinstance(each, dict)), NOTHING
            )
        return NodeFacts(network=self._network, inbound=inbound)

    # --- paying -------------------------------------------------------------------------------------------------------

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Pay it. `fee_limit` is not passed on, for phoenixd knows no such thing: it takes 0.4 % and 4 sat.

        Raises WalletError when the password is refused, and then nothing was paid.
        """
        untold = yield from self._learn_network()
        if untold is not None:  # nothing but a question was sent so far
            return Failed(reason=_complaint(untold))
        if invoice.network != self._network:
            return Failed(reason=f"the invoice is for {invoice.network}, the wallet is on {self._network}")
        reply = yield self._call("POST", "/payinvoice", {"invoice": invoice.text}, within=_PAY_WITHIN)
        if reply.status == _UNAUTHORIZED:  # said before anything is done, so nothing was paid
            return Failed(reason=_FORBIDDEN_TO_PAY)
        if reply.status == 0 and not reply.sent:
            return Failed(reason=_complaint(reply))
        if reply.status == _BAD_REQUEST:  # it could not read what it was asked
            return (yield from self._look_again(invoice.payment_hash, "phoenixd can't read the invoice"))
        told = read_object(reply.body) if reply.status == _OK else None
        if told is None:
            return Unresolved(reason=_complaint(reply))
        preimage = preimage_of(told, "paymentPreimage", invoice.payment_hash)
        if preimage is not None:
            return Paid(preimage=preimage, fee=sats(told, "routingFeeSat") or NOTHING)
        reason = text(told, "reason")
        if reason is None or "paymentPreimage" in told:
            return Unresolved(reason=_NO_PROOF)
        return (yield from self._look_again(invoice.payment_hash, reason[:_MOST_REASON]))

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """What became of a payment: the best of all its attempts. Raises WalletError when the password is refused."""
        reply = yield self._call("GET", f"/payments/outgoingbyhash/{payment_hash.hex()}")
        _check_password(reply)
        if reply.status == _NOT_FOUND:
            return Unresolved(reason="phoenixd has never heard of this payment", known=False)
        told = read_object(reply.body) if reply.status == _OK else None
        if told is None or hash_of(told, "paymentHash") != payment_hash:
            return Unresolved(reason=_complaint(reply))
        if told.get("isPaid") is True:
            preimage = preimage_of(told, "preimage", payment_hash)
            if preimage is None:
                return Unresolved(reason=_NO_PROOF)
            return Paid(preimage=preimage, fee=msats(told, "fees") or NOTHING)
        if told.get("isPaid") is False and told.get("completedAt") is not None:
            return Failed(reason="phoenixd says that the payment failed")
        return Unresolved(reason="the payment is in flight")

    def balance(self) -> Conversation[Amount]:
        """What can be spent; fee credit is not counted. Raises WalletError."""
        reply = yield self._call("GET", "/getbalance")
        told = read_object(reply.body) if reply.status == _OK else None
        balance = None if told is None else sats(told, "balanceSat")
        if balance is None:
            raise WalletError(f"{self.name}: {_complaint(reply)}")
        return balance

    # --- small print --------------------------------------------------------------------------------------------------

    def _listed_since(self, cursor: str) -> Conversation[Settlements]:
        """What phoenixd lists, from a little before.

        phoenixd notes when a payment came before it notes the payment, so the last seconds are read again each time.
        It lists the newest first, and lists nothing for what is not Lightning, so a page may be shorter than asked for:
        the end is where a page is empty. What comes in meanwhile moves others to a later page, and none to an earlier
        one.
        """
        since_ms = int(cursor) if cursor.isdecimal() else 0
        newest_ms, settled, page = since_ms, dict[bytes, Settlement](), 0
        while True:
            asked = urlencode(
                {
                    "from": max(0, since_ms - _READ_AGAIN // _MILLISECOND),
                    "limit": _PAGE,
                    "offset": page * _PAGE,
                }
            )
            reply = yield self._call("GET", f"/payments/incoming?{asked}")
            listed = read_list(reply.body) if reply.status == _OK else None
            if listed is None:
                raise NodeUnavailable(_complaint(reply))
            for told in listed:
                payment_hash, received = hash_of(told, "paymentHash"), sats(told, "receivedSat")
                if payment_hash is not None and received is not None and told.get("isPaid") is True:
                    settled[payment_hash] = Settlement(payment_hash=payment_hash, received=received)
                    newest_ms = max(newest_ms, count(told, "completedAt") or 0)
            if not listed:
                return Settlements(settled=tuple(settled.values()), cursor=str(newest_ms))
            page += 1

    def _look_again(self, payment_hash: bytes, reason: str) -> Conversation[PayOutcome]:
        """What a look-up says of a payment that was just called failed: failed only if that agrees."""
        return failed_if_found_so(reason, (yield from self.lookup_payment(payment_hash)))

    def _learn_network(self) -> Conversation[HttpReply | None]:
        """Ask for the node's chain, once; the reply that did not tell it."""
        if self._network is not None:
            return None
        reply = yield self._call("GET", "/getinfo")
        told = read_object(reply.body) if reply.status == _OK else None
        self._network = None if told is None else network_of(told, "chain")
        return reply if self._network is None else None

    def _call(
        self, method: str, path: str, form: Mapping[str, str] | None = None, *, within: timedelta = _ANSWER_WITHIN
    ) -> HttpCall:
        return HttpCall(
            method=method,
            url=self._base_url + path,
            headers=self._headers,
            body=urlencode(form or {}).encode(),
            timeout=within,
        )


def _sensible(reply: HttpReply) -> Told:
    told = read_object(reply.body) if reply.status == _OK else None
    if told is None:
        raise NodeUnavailable(_complaint(reply))
    return told


def _complaint(reply: HttpReply) -> str:
    return _REFUSED if reply.status == _UNAUTHORIZED else fault_of(reply, "phoenixd")


def _check_password(reply: HttpReply) -> None:
    if reply.status == _UNAUTHORIZED:
        raise WalletError(_FORBIDDEN_TO_PAY)


def _shortened(description: str) -> str:
    units = description.encode("utf-16-le", "surrogatepass")[: 2 * _MOST_DESCRIPTION_UNITS]
    return units.decode("utf-16-le", "ignore")
