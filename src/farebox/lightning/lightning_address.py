"""A Lightning Address as Receiver, such as `shop@example.com`: LUD-16 and LUD-06, and LUD-21 for looking up.

Rules
1. An invoice is paid when the service says `settled: true` about this very invoice. It need not show the preimage,
   which it made itself; but a preimage of another hash is a contradiction.
2. Where the service sends us on to, for an invoice or a look-up, is the address's own origin, or https to a public
   name: whoever answers there has a certificate for that name, which nothing inside a private network has.
3. A service that tells no `verify` is refused: a price would be asked for, and nobody would learn that it was paid.
4. Where invoices of other processes are looked up is learnt from one of our own, made for it if need be, when its
   payment hash stands in its `verify`.
5. What the address offers is asked for once, and again after whatever went wrong, for there is no clock here.
6. The service chooses how long an invoice lasts, and what it is called: our description is the comment, if it takes
   one. It does not tell that an invoice has expired.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NoReturn, Self
from urllib.parse import quote, urlencode, urlsplit

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network, decode
from farebox.core.errors import MalformedAmount, MalformedInvoice, NodeUnavailable, WalletError
from farebox.core.ports import (
    Capabilities,
    Capability,
    Conversation,
    HttpCall,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
)
from farebox.core.secret import Secret
from farebox.lightning.api import ANSWER_WITHIN
from farebox.lightning.invoice import check_amount, read_made
from farebox.lightning.reply import Told, count, fault_of, msats, one_line, preimage_of, read_object, read_reply, text

CAPABILITIES: Final = frozenset({Capability.LOOKUP})
_ADDRESS: Final = re.compile(r"([a-z0-9._+-]{1,210})@([a-z0-9.-]{1,253})(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)
_FORM: Final = "name@domain"
_PUBLIC: Final = re.compile(r"([a-z0-9_]([a-z0-9_-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]", re.ASCII)
_NOT_PUBLIC: Final = frozenset(
    ("local", "localhost", "localdomain", "internal", "intranet", "lan", "home", "corp", "arpa")
)
_HEADERS: Final = Secret("accept: application/json")
_MOST_REMEMBERED: Final = 8192
_MOST_URL: Final = 2048
_HIGHEST_PORT: Final = 65_535
_OK, _NOT_FOUND = 200, 404
_HASH: Final = "{payment_hash}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """What an address answers (LUD-06). comment: how many characters of a comment it takes.

    least: in whole satoshis. most_msat: a number, for it may be more than there is.
    """

    callback: str
    least: Amount
    most_msat: int
    comment: int


class LightningAddress:
    """Make one with `LightningAddress.open_receiver("shop@example.com")`. Receiving is all that it can do.

    An address on loopback, or of a name or number that nobody else can reach, is asked over http, in the clear; every
    other over https, whatever its port.
    """

    capabilities: Capabilities = CAPABILITIES

    def __init__(self, *, user: str, host: str, origin: str) -> None:
        self._address = f"{user}@{host}"
        self._origin = origin
        self._url = f"{origin}/.well-known/lnurlp/{quote(user, safe='+')}"
        self._network: Network | None = None
        self._offer: _Offer | None = None
        self._made: OrderedDict[bytes, tuple[str, str]] = OrderedDict()  # the invoice, and where it is looked up
        self._elsewhere = ""  # where any other is, with the payment hash left out

    @classmethod
    def open_receiver(cls, url: str) -> Self:
        """The address, to be paid; nothing is asked of it yet. Raises WalletError."""
        match = _ADDRESS.fullmatch(url.strip())
        if match is None or int(match[3] or 1) not in range(1, _HIGHEST_PORT + 1):
            raise WalletError(f"a Lightning Address is written as {_FORM}")
        user, domain, port = match[1].lower(), match[2].lower(), match[3]
        host = f"{domain}:{port}" if port else domain
        scheme = "https" if _is_public(domain) else "http"
        return cls(user=user, host=host, origin=f"{scheme}://{host}")

    @classmethod
    def open_wallet(cls, url: str) -> NoReturn:
        """There is none. Raises WalletError."""
        raise WalletError("a Lightning Address can be paid and can't pay; to pay, give a wallet of another kind")

    @property
    def name(self) -> str:
        """`lightning address shop@example.com`."""
        return f"lightning address {self._address}"

    @property
    def network(self) -> Network | None:
        """The chain its invoices are for; None until one was made."""
        return self._network

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount, which lasts as long as the service likes.

        Raises WalletError for a fraction of a satoshi and for nothing, with nothing sent; NodeUnavailable.
        """
        try:
            amount.in_sats_exact()
        except MalformedAmount:
            raise WalletError(
                f"a Lightning Address is not asked for {amount}: few know fractions of a satoshi"
            ) from None
        check_amount(amount, by="a Lightning Address")
        try:
            return (yield from self._make(amount, description))
        except NodeUnavailable:
            self._offer = None
            raise

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """Whether an invoice was settled. For one that another process made, see the rules. Raises NodeUnavailable."""
        made, url = self._made.get(payment_hash, ("", ""))
        if not url:
            if not self._made:
                offer = self._offer or (yield from self._ask_offer())
                yield from self.create_invoice(offer.least, description="", expires_in=timedelta())
            if not self._elsewhere:
                raise NodeUnavailable(f"{self._address} tells only of invoices that this process has asked it for")
            url = self._elsewhere.replace(_HASH, payment_hash.hex())
        reply = yield _get(url)
        told = read_reply(reply, _OK, _NOT_FOUND)
        if told is not None and _is_error(told):
            if "not found" in (text(told, "reason") or "").lower():
                return InvoiceStatus(state=InvoiceState.UNKNOWN)
            raise NodeUnavailable(self._complaint(reply))
        if told is None or reply.status != _OK:
            raise NodeUnavailable(self._complaint(reply))
        return self._status(told, payment_hash, made)

    @property
    def narrow(self) -> str:
        """There is nothing to make narrower."""
        return "a Lightning Address has no key, and can only be paid"

    def spends(self) -> Conversation[bool | None]:
        """It never does: there is no key."""
        yield from ()
        return False

    # --- small print --------------------------------------------------------------------------------------------------

    def _make(self, amount: Amount, description: str) -> Conversation[Invoice]:
        offer = self._offer or (yield from self._ask_offer())
        if amount < offer.least or amount.msat > offer.most_msat:
            raise NodeUnavailable(f"{self._address} takes {offer.least} to {offer.most_msat} msat, and not {amount}")
        asked = {"amount": str(amount.msat)}
        if comment := description[: offer.comment]:
            asked["comment"] = comment
        reply = yield _get(
            f"{offer.callback}{'&' if '?' in offer.callback else '?'}{urlencode(asked, errors='ignore')}"
        )
        told = self._sensible(reply)
        invoice = read_made(told, "pr", amount, network=self._network, by=self._address)
        verify = text(told, "verify")
        if verify is None:
            raise NodeUnavailable(
                f"{self._address} does not let its invoices be looked up (LUD-21); use another backend"
            )
        self._remember(invoice, self._followed(verify))
        return invoice

    def _ask_offer(self) -> Conversation[_Offer]:
        told = self._sensible((yield _get(self._url)))
        callback, least, most_msat = text(told, "callback"), msats(told, "minSendable"), count(told, "maxSendable")
        if text(told, "tag") != "payRequest" or callback is None or least is None or most_msat is None:
            raise NodeUnavailable(f"{self._address} does not answer as a Lightning Address does")
        offer = _Offer(
            callback=self._followed(callback),
            least=Amount.sats(max(1, least.in_sats_ceil())),
            most_msat=most_msat,
            comment=count(told, "commentAllowed") or 0,
        )
        self._offer = offer
        return offer

    def _remember(self, invoice: Invoice, verify: str) -> None:
        self._network = invoice.network
        self._made[invoice.payment_hash] = invoice.text, verify
        if len(self._made) > _MOST_REMEMBERED:
            self._made.popitem(last=False)
        named = re.sub(invoice.payment_hash.hex(), _HASH, verify, flags=re.IGNORECASE)
        self._elsewhere = named if named != verify else ""

    def _status(self, told: Told, payment_hash: bytes, made: str) -> InvoiceStatus:
        """What a look-up says (LUD-21). Raises NodeUnavailable when it is about something else."""
        try:
            invoice = decode(text(told, "pr") or "")
        except MalformedInvoice:
            raise NodeUnavailable(f"{self._address} tells of an invoice that can't be read") from None
        settled = told.get("settled")
        same = invoice.payment_hash == payment_hash and made in ("", invoice.text)
        if not same or not isinstance(settled, bool) or invoice.amount is None:
            raise NodeUnavailable(f"{self._address} tells something else than it was asked")
        if not settled:
            return InvoiceStatus(state=InvoiceState.OPEN)
        if text(told, "preimage") is not None and preimage_of(told, "preimage", payment_hash) is None:
            raise NodeUnavailable(f"{self._address} proves a payment with a preimage that is not its own")
        return InvoiceStatus(state=InvoiceState.PAID, received=invoice.amount)

    def _followed(self, url: str) -> str:
        """A URL that the service sent us to. Raises NodeUnavailable for one that nobody should be sent to."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            url.encode("ascii")
        except ValueError:
            host, port, parts = "", None, urlsplit("")
        plain = (
            len(url) <= _MOST_URL and url.isprintable() and not (set(url) & set(" \\{}")) and "@" not in parts.netloc
        )
        home = f"{parts.scheme}://{parts.netloc.lower()}" == self._origin
        if plain and (home or (parts.scheme == "https" and port != 0 and _is_public(host))):
            return url.partition("#")[0]
        raise NodeUnavailable(f"{self._address} sends us to where nobody should be sent: it has to be https to a name")

    def _sensible(self, reply: HttpReply) -> Told:
        told = read_reply(reply)
        if told is None or _is_error(told):
            raise NodeUnavailable(self._complaint(reply))
        return told

    def _complaint(self, reply: HttpReply) -> str:
        """What is wrong with a reply, in words that may be shown to anyone."""
        told = read_object(reply.body)
        if told is not None and _is_error(told) and (reason := text(told, "reason")):
            return f"{self._address}: {one_line(reason)}"
        return fault_of(reply, self._address)


def _get(url: str) -> HttpCall:
    return HttpCall(method="GET", url=url, headers=_HEADERS, timeout=ANSWER_WITHIN)


def _is_error(told: Told) -> bool:
    return (text(told, "status") or "").upper() == "ERROR"


def _is_public(host: str) -> bool:
    """Whether this can be the name of a host that anybody can reach; an address of numbers never is."""
    return _PUBLIC.fullmatch(host) is not None and host.rpartition(".")[2] not in _NOT_PUBLIC
