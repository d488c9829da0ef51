"""lnd over its REST interface, as Receiver and as Wallet; made on lnd 0.21.

Rules
1. Only what lnd says explicitly and for good counts: an invoice is paid when it is SETTLED, a payment has failed when
   it is FAILED. lnd also shows the preimage of an invoice that nobody has paid.
2. What lnd refuses before it begins is an error instead of a payment. It is failed only if a look-up knows no payment.
3. `timeout_seconds` ends lnd's search for a route, and no payment that is on its way. So the reply may come much later
   than anybody waits, and is Unresolved until then.
4. A macaroon without a right is told 500, "permission denied", before anything is done.
5. Bytes are base64 in bodies, url-safe base64 or hexadecimal digits in paths; whole numbers are texts.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Final, Self
from urllib.parse import urlencode

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, fitting
from farebox.core.conversation import Line
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.exchange import Json
from farebox.core.ports import (
    Capabilities,
    Capability,
    Conversation,
    Failed,
    InvoiceState,
    InvoiceStatus,
    NodeFacts,
    PayOutcome,
    Unresolved,
)
from farebox.core.secret import Secret
from farebox.core.settlement import Settlement, Settlements
from farebox.lightning.api import PAY_WITHIN, Api
from farebox.lightning.backend import TwoPorts
from farebox.lightning.invoice import check_amount, read_made
from farebox.lightning.lnd.said import (
    FORBIDDEN,
    complaint,
    error_of,
    facts_of,
    index_of,
    msats_of,
    number_of,
    octets_of,
    outcome_of,
    sensible,
    settlements_of,
)
from farebox.lightning.outcome import is_unsent, never_heard
from farebox.lightning.reply import Told, member, objects, read_lines, read_reply, text
from farebox.lightning.url import read_certificate, read_file, read_url

CAPABILITIES: Final = frozenset(Capability)
_FORM: Final = "lnd+https://HOST:8080?macaroon=PATH&cert=PATH"
_PORT: Final = 8080
_MACAROON_V2: Final = b"\x02"
_HEX: Final = re.compile(r"([0-9a-fA-F]{2}){32,}")
_PAGE: Final = 300  # invoices, of 2 KB or so, of which a reply may have 1 MiB
_ROUTE_WITHIN: Final = timedelta(seconds=60)
_SILENCE: Final = timedelta(milliseconds=20)
_STATES: Final = MappingProxyType(
    {
        "OPEN": InvoiceState.OPEN,
        "ACCEPTED": InvoiceState.HELD,
        "SETTLED": InvoiceState.PAID,
        "CANCELED": InvoiceState.CANCELLED,
    }
)
_OK, _NOT_FOUND = 200, 404
_NO_SUCH_PAYMENT, _EXISTS = 5, 6  # gRPC's NOT_FOUND and ALREADY_EXISTS


class Lnd(TwoPorts):
    """An lnd node. Make one with `Lnd.from_url("lnd+https://127.0.0.1:8080?macaroon=/path&cert=/path/tls.cert")`.

    With a macaroon of `invoices:read invoices:write` it can be paid and can't pay.
    """

    capabilities: Capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        base_url: str,
        macaroon: Secret[str],
        certificate: str | None = None,
        pay_within: timedelta = PAY_WITHIN,
    ) -> None:
        self._pay_within = pay_within
        self._api = Api(
            base_url=base_url,
            headers=Secret(f"grpc-metadata-macaroon: {macaroon.reveal()}\ncontent-type: application/json"),
            line=None if certificate is None else Line(certificate=certificate),
        )
        self._network: Network | None = None

    @classmethod
    def from_url(cls, url: str, *, pay_within: timedelta = PAY_WITHIN) -> Self:
        """Read `lnd+https://host:8080?macaroon=…&cert=…`.

        macaroon: the path of a file, or its bytes in hexadecimal digits. cert: the path of lnd's `tls.cert`; without it
        the system's authorities are believed. pay_within: after so long without an answer a payment is unresolved.
        Raises WalletError.
        """
        read = read_url(url, _FORM, {"lnd+https": "https"}, "macaroon!", "cert", port=_PORT)
        return cls(
            base_url=read.base_url,
            macaroon=_read_macaroon(read.given["macaroon"]),
            certificate=read_certificate(read.given.get("cert")),
            pay_within=pay_within,
        )

    @property
    def name(self) -> str:
        """`lnd at 127.0.0.1:8080`."""
        return f"lnd at {self._api.place}"

    @property
    def network(self) -> Network | None:
        """The node's chain; None until an invoice was made, or a macaroon with `info:read` was asked with."""
        return self._network

    # --- being paid ---------------------------------------------------------------------------------------------------

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount. Raises WalletError for nothing; NodeUnavailable."""
        return (yield from self._make("/v1/invoices", {}, amount, description, expires_in))

    def create_hold_invoice(
        self, amount: Amount, *, payment_hash: bytes, description: str, expires_in: timedelta
    ) -> Conversation[Invoice]:
        """An invoice that is held when it is paid. Raises WalletError for nothing; NodeUnavailable."""
        named: dict[str, Json] = {"hash": _base64(payment_hash)}
        invoice = yield from self._make("/v2/invoices/hodl", named, amount, description, expires_in)
        if invoice.payment_hash != payment_hash:
            raise NodeUnavailable("the node made another invoice than it was asked for")
        return invoice

    def settle_invoice(self, preimage: Secret[bytes]) -> Conversation[InvoiceStatus]:
        """Take what is held; where it then stands. Raises NodeUnavailable."""
        octets = preimage.reveal()
        yield self._api.call("POST", "/v2/invoices/settle", {"preimage": _base64(octets)})
        return (yield from self.lookup_invoice(sha256(octets).digest()))

    def cancel_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """Give back what is held, or let nobody pay; where it then stands. Raises NodeUnavailable."""
        yield self._api.call("POST", "/v2/invoices/cancel", {"payment_hash": _base64(payment_hash)})
        return (yield from self.lookup_invoice(payment_hash))

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """What lnd says of one of its invoices: its `state`, never its preimage. Raises NodeUnavailable."""
        reply = yield self._api.call("GET", f"/v1/invoice/{payment_hash.hex()}")
        if reply.status == _NOT_FOUND and error_of(reply) is not None:  # lnd's own word, and no proxy's
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
        told = sensible(reply)
        state, received = _STATES.get(text(told, "state") or ""), msats_of(told, "amt_paid_msat")
        if state is None or received is None or octets_of(told, "r_hash") != payment_hash:
            raise NodeUnavailable("the node tells something else than it was asked")
        return InvoiceStatus(state=state, received=received if state is InvoiceState.PAID else NOTHING)

    @property
    def narrow(self) -> str:
        """As lnd's own command makes it."""
        return (
            "make one with `lncli bakemacaroon --save_to farebox.macaroon invoices:read invoices:write` "
            "(info:read and offchain:read besides let `farebox doctor` see more)"
        )

    def spends(self) -> Conversation[bool | None]:
        """Whether the macaroon pays; None when lnd does not say. It is asked to pay nothing at all."""
        reply = yield self._api.call("POST", "/v2/router/send", {})
        if reply.status in (0, _NOT_FOUND):
            return None
        error = error_of(reply)
        return None if error is None or error.foreign or error.unready else not error.forbidden

    def facts(self) -> Conversation[NodeFacts]:
        """What a macaroon with `info:read` and `offchain:read` is told. Raises NodeUnavailable."""
        info = yield self._api.call("GET", "/v1/getinfo")
        balance = yield self._api.call("GET", "/v1/balance/channels")
        return facts_of(info, balance)

    # --- settlements --------------------------------------------------------------------------------------------------

    def settlements(self, cursor: str, *, wait: timedelta) -> Conversation[Settlements]:
        """What was settled after the `settle_index` that the cursor is, as soon as there is something.

        lnd streams that, and before it what came since the index; but it streams nothing of before for the index 0, so
        that is looked for among all invoices. Raises NodeUnavailable.
        """
        index = int(cursor) if cursor.isdecimal() else 0
        if not index:
            first = yield from self._first_settled()
            if first is not None:
                return first
        path = f"/v1/invoices/subscribe?settle_index={index}"
        reply = yield self._api.call("GET", path, within=wait, endless=_SILENCE)
        if reply.status == 0 and reply.sent and "Timeout" in reply.reason:
            sensible((yield self._api.call("GET", "/v1/invoices?num_max_invoices=1&reversed=true")))  # it is only quiet
            return Settlements(settled=(), cursor=str(index))
        if reply.status != _OK:
            raise NodeUnavailable(complaint(reply))
        settled: list[Settlement] = []
        for line in read_lines(reply.body):
            told = line.get("result")
            if not isinstance(told, dict):
                raise NodeUnavailable("the node's settlements can't be read")
            index = max(index, index_of(told))
            settled += settlements_of(told)
        return Settlements(settled=tuple(settled), cursor=str(index))

    def cursor_at(self, at: datetime) -> Conversation[str]:
        """The `settle_index` of the last that was settled before. Raises NodeUnavailable."""
        before_s, offset = at.astimezone(UTC).timestamp(), 0
        while True:
            invoices, offset = yield from self._page(offset, newest_first=True)
            indexes = [
                index_of(each)
                for each in invoices
                if index_of(each) and (number_of(each, "settle_date") or 0) < before_s
            ]
            if indexes:
                return str(max(indexes))
            if not invoices or offset <= 1:
                return "0"

    def _first_settled(self) -> Conversation[Settlements | None]:
        """Everything that was ever settled, and how far that goes; None when nothing was."""
        found: list[Told] = []
        offset = 0
        while True:
            invoices, after = yield from self._page(offset, newest_first=False)
            found += [each for each in invoices if index_of(each)]
            if not invoices or after <= offset:
                break
            offset = after
        if not found:
            return None
        settled = [settlement for each in found for settlement in settlements_of(each)]
        return Settlements(settled=tuple(settled), cursor=str(max(map(index_of, found))), more=True)

    def _page(self, offset: int, *, newest_first: bool) -> Conversation[tuple[list[Told], int]]:
        asked = urlencode(
            {
                "index_offset": offset,
                "num_max_invoices": _PAGE,
                "reversed": str(newest_first).lower(),
            }
        )
        told = sensible((yield self._api.call("GET", f"/v1/invoices?{asked}")))
        invoices = objects(told, "invoices")
        if invoices is None:
            raise NodeUnavailable("the node's invoices can't be read")
        edge = "first_index_offset" if newest_first else "last_index_offset"
        return invoices, number_of(told, edge) or 0

    # --- paying -------------------------------------------------------------------------------------------------------

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Pay it, for at most so much to those in between; paid before, it is found with its proof."""
        asked: dict[str, Json] = {
            "payment_request": invoice.text,
            "fee_limit_msat": str(fee_limit.msat),
            "timeout_seconds": _ROUTE_WITHIN // timedelta(seconds=1),
            "no_inflight_updates": True,
        }
        reply = yield self._api.call("POST", "/v2/router/send", asked, within=self._pay_within)
        if is_unsent(reply):
            return Failed(reason=complaint(reply))
        error = error_of(reply)
        if error is not None:
            if error.forbidden:
                return Failed(reason=f"lnd: {FORBIDDEN} (offchain:write)")
            found = yield from self.lookup_payment(invoice.payment_hash)
            if isinstance(found, Unresolved) and not found.known and error.code != _EXISTS:
                return Failed(reason=f"lnd: {error.message}")
            return found
        return outcome_of(reply, invoice.payment_hash)

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """What became of a payment. Raises WalletError when the macaroon does not allow to ask."""
        named = base64.urlsafe_b64encode(payment_hash).decode()
        reply = yield self._api.call("GET", f"/v2/router/track/{named}", endless=_SILENCE)
        error = error_of(reply)
        if error is None:
            return outcome_of(reply, payment_hash)
        if error.forbidden:
            raise WalletError(f"{self.name}: {FORBIDDEN} (offchain:read)")
        if error.code == _NO_SUCH_PAYMENT:
            return never_heard("lnd")
        return Unresolved(reason=f"lnd: {error.message}")

    def balance(self) -> Conversation[Amount]:
        """What its channels hold on its side. Raises WalletError."""
        reply = yield self._api.call("GET", "/v1/balance/channels")
        balance = msats_of(member(read_reply(reply) or {}, "local_balance"), "msat")
        if balance is None:
            raise WalletError(f"{self.name}: {complaint(reply)}")
        return balance

    # --- small print --------------------------------------------------------------------------------------------------

    def _make(
        self, path: str, named: Mapping[str, Json], amount: Amount, description: str, expires_in: timedelta
    ) -> Conversation[Invoice]:
        check_amount(amount, by="lnd")
        asked: dict[str, Json] = {
            **named,
            "value_msat": str(amount.msat),
            "memo": fitting(description),
            "expiry": str(expires_in // timedelta(seconds=1)),
            "private": True,  # with the way to private channels, if it has no others
        }
        made = sensible((yield self._api.call("POST", path, asked)))
        invoice = read_made(made, "payment_request", amount, network=self._network, by="the node")
        self._network = invoice.network
        return invoice


def _read_macaroon(given: str) -> Secret[str]:
    octets = bytes.fromhex(given) if _HEX.fullmatch(given) else read_file(given, "macaroon")
    if not octets.startswith(_MACAROON_V2):
        raise WalletError("the macaroon is none: give the path of a .macaroon file, or its bytes in hexadecimal digits")
    return Secret(octets.hex())


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
