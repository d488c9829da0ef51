"""LNbits over its API, as Receiver and as Wallet; made on LNbits 1.6, for 1.0 and later.

Rules
1. An invoice is paid when the row of its wallet says `success` and the answer says `paid`; LNbits also shows the
   preimage of an invoice that nobody has paid. What was paid counts, whatever the host keeps of it as a service fee.
2. One hash may have two rows in one wallet, when it pays its own invoice, and a look-up shows the one that was paid
   out. So the sign of `amount` is read: below nothing it is a payment, above it is an invoice.
3. Without a key that it knows LNbits still answers a look-up, about anybody's payment, but without `details`. That is
   no answer here.
4. A payment that is still pending is 201 like one that arrived. A refusal is 520 or 400; "failed" is also said of what
   was paid before ("Internal invoice already paid."), so it is believed only after looking the payment up.
5. LNbits tries a failed payment never again, and knows no fee limit per call: it sets its own.
6. It knows whole satoshis only, and makes less of a fraction without saying so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, Self
from urllib.parse import urlencode

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network, fitting
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.exchange import Json
from farebox.core.ports import (
    Capabilities,
    Capability,
    Conversation,
    Failed,
    InvoiceState,
    InvoiceStatus,
    PayOutcome,
    Unresolved,
)
from farebox.core.secret import Secret
from farebox.core.settlement import Settlement, Settlements
from farebox.lightning.api import PAY_WITHIN, Api
from farebox.lightning.backend import TwoPorts
from farebox.lightning.invoice import read_made, whole_sats
from farebox.lightning.lnbits_said import (
    NOT_OURS,
    WRONG_KEY,
    changed_ms_of,
    complaint,
    details_of,
    is_invoice,
    is_payment,
    is_unknown,
    outcome_of,
    refuses_key,
    sensible,
    settlement_of,
    status_of,
)
from farebox.lightning.outcome import is_unsent, never_heard
from farebox.lightning.reply import Told, msats, read_list, read_object, read_reply, text
from farebox.lightning.url import read_url

CAPABILITIES: Final = frozenset({Capability.DESCRIPTION_HASH, Capability.LOOKUP, Capability.STREAM})
_FORM: Final = "lnbits+https://HOST?key=KEY"
_SCHEMES: Final = MappingProxyType({"lnbits+http": "http", "lnbits+https": "https"})
_KEY: Final = re.compile(r"[0-9a-zA-Z_-]{1,128}", re.ASCII)
_PAGE: Final = 200  # rows of 5 KB at most, of which a reply may have 1 MiB
_READ_AGAIN: Final = timedelta(seconds=10)  # LNbits keeps whole seconds, and notes when before it notes what
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_OK, _CREATED, _BAD_REQUEST, _PAYMENT_ERROR = 200, 201, 400, 520


class LNbits(TwoPorts):
    """A wallet at LNbits. Make one with `LNbits.from_url("lnbits+https://lnbits.example?key=…")`.

    With the wallet's invoice key it can be paid and can't pay; that takes its admin key. It is asked in the clear with
    `lnbits+http`, so that is for loopback and private networks.
    """

    capabilities: Capabilities = CAPABILITIES

    def __init__(self, *, base_url: str, key: Secret[str]) -> None:
        headers = f"x-api-key: {key.reveal()}\ncontent-type: application/json\naccept: application/json"
        self._api = Api(base_url=base_url, headers=Secret(headers))
        self._network: Network | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read `lnbits+https://host?key=…` or `lnbits+http://…`. Raises WalletError."""
        read = read_url(url, _FORM, _SCHEMES, "key!")
        if _KEY.fullmatch(read.given["key"]) is None:
            raise WalletError(f"its key is none: LNbits shows it under Node URL, API keys; it is written as {_FORM}")
        return cls(base_url=read.base_url, key=Secret(read.given["key"]))

    @property
    def name(self) -> str:
        """`lnbits at lnbits.example`."""
        return f"lnbits at {self._api.place}"

    @property
    def network(self) -> Network | None:
        """The chain its invoices are for; None until one was made, for LNbits does not tell."""
        return self._network

    # --- being paid ---------------------------------------------------------------------------------------------------

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount; the description is cut to what an invoice can hold.

        Raises WalletError for a fraction of a satoshi and for nothing, with nothing sent; NodeUnavailable, also when
        LNbits makes another invoice than it was asked for.
        """
        asked: dict[str, Json] = {
            "out": False,
            "amount": whole_sats(amount, by="LNbits"),
            "unit": "sat",
            "memo": fitting(description),
            "expiry": expires_in // timedelta(seconds=1),
        }
        made = sensible((yield self._api.call("POST", "/api/v1/payments", asked)))
        named = "bolt11" if text(made, "bolt11") else "payment_request"
        invoice = read_made(made, named, amount, network=self._network, by="LNbits", payment_hash="payment_hash")
        self._network = invoice.network
        return invoice

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """What LNbits says of an invoice of this wallet, never its preimage; an expired one is CANCELLED.

        Raises NodeUnavailable.
        """
        reply = yield self._api.call("GET", f"/api/v1/payments/{payment_hash.hex()}")
        if is_unknown(reply):
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
        told = sensible(reply)
        row = details_of(told)
        if row is None:
            raise NodeUnavailable(NOT_OURS)
        if is_payment(row):
            return (yield from self._find_invoice(payment_hash))
        if (told.get("paid") is True) != (text(row, "status") == "success"):
            raise NodeUnavailable("LNbits contradicts itself")
        return status_of(row, payment_hash)

    @property
    def narrow(self) -> str:
        """The other key of the same wallet."""
        return "use the wallet's `Invoice/read key` instead of its `Admin key`"

    def spends(self) -> Conversation[bool | None]:
        """Whether the key is the admin key; None when LNbits does not say.

        It is asked to pay no invoice at all: the invoice key is refused (403) before that is noticed, and the admin key
        is told that the invoice is missing (400).
        """
        reply = yield self._api.call("POST", "/api/v1/payments", {"out": True})
        if refuses_key(reply):
            return False
        told = read_reply(reply, _BAD_REQUEST)
        return True if told is not None and "bolt11" in (text(told, "detail") or "").lower() else None

    def settlements(self, cursor: str, *, wait: timedelta) -> Conversation[Settlements]:
        """What was paid since the instant that the cursor is, and a little before; LNbits answers at once.

        The rows are read from what was changed last. What changes meanwhile moves others to a later page, and itself to
        the front, where it is found the next time. Raises NodeUnavailable.
        """
        since_ms = int(cursor) if cursor.isdecimal() else 0
        read_to_ms = since_ms - _READ_AGAIN // _MILLISECOND
        newest_ms, settled, offset = since_ms, dict[bytes, Settlement](), 0
        while True:
            rows = yield from self._list(
                {
                    "status": "success",
                    "amount[gt]": 0,
                    "sortby": "updated_at",
                    "direction": "desc",
                    "limit": _PAGE,
                    "offset": offset,
                }
            )
            changed_ms = [changed_ms_of(row) for row in rows]
            for row, at_ms in zip(rows, changed_ms, strict=True):
                settlement = settlement_of(row)
                if settlement is None or at_ms < read_to_ms:
                    continue
                newest_ms = max(newest_ms, at_ms)
                known = settled.get(settlement.payment_hash)
                if known is None or known.received < settlement.received:
                    settled[settlement.payment_hash] = settlement
            if len(rows) < _PAGE or min(changed_ms) < read_to_ms:
                return Settlements(settled=tuple(settled.values()), cursor=str(newest_ms))
            offset += len(rows)

    def cursor_at(self, at: datetime) -> Conversation[str]:
        """The instant itself, in milliseconds since 1970."""
        yield from ()
        return str(max(0, (at - _EPOCH) // _MILLISECOND))

    # --- paying -------------------------------------------------------------------------------------------------------

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Pay it. `fee_limit` is not passed on, for LNbits knows no such thing: its host sets what a fee may be."""
        asked: dict[str, Json] = {"out": True, "bolt11": invoice.text}
        reply = yield self._api.call("POST", "/api/v1/payments", asked, within=PAY_WITHIN)
        if is_unsent(reply):
            return Failed(reason=complaint(reply))
        if refuses_key(reply):  # said before anything is done, so nothing was paid
            return Failed(reason=WRONG_KEY)
        told = read_object(reply.body)
        if told is not None and reply.status in (_OK, _CREATED):
            return outcome_of(told, invoice.payment_hash)
        if told is None or "detail" not in told or reply.status not in (_BAD_REQUEST, _PAYMENT_ERROR):
            return Unresolved(reason=complaint(reply))
        found = yield from self.lookup_payment(invoice.payment_hash)
        refused = reply.status == _BAD_REQUEST or text(told, "status") == "failed"
        if isinstance(found, Failed) or (isinstance(found, Unresolved) and not found.known and refused):
            return Failed(reason=complaint(reply))
        return found

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """What became of a payment by this wallet."""
        reply = yield self._api.call("GET", f"/api/v1/payments/{payment_hash.hex()}")
        if is_unknown(reply):
            return never_heard("LNbits")
        told = read_reply(reply)
        if told is None:
            return Unresolved(reason=complaint(reply))
        row = details_of(told)
        if row is None:
            return Unresolved(reason=NOT_OURS)
        if is_invoice(row):  # of this wallet, which has not paid it itself
            return never_heard("LNbits")
        return outcome_of(row, payment_hash)

    def balance(self) -> Conversation[Amount]:
        """What the wallet holds. Raises WalletError."""
        reply = yield self._api.call("GET", "/api/v1/wallet")
        told = read_reply(reply)
        balance = None if told is None else msats(told, "balance")
        if balance is None:
            raise WalletError(f"{self.name}: {complaint(reply)}")
        return balance

    # --- small print --------------------------------------------------------------------------------------------------

    def _find_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """An invoice that stands behind a payment with the same hash."""
        rows = yield from self._list({"payment_hash": payment_hash.hex(), "amount[gt]": 0, "limit": 1})
        return status_of(rows[0], payment_hash) if rows else InvoiceStatus(state=InvoiceState.UNKNOWN)

    def _list(self, asked: Mapping[str, str | int]) -> Conversation[list[Told]]:
        reply = yield self._api.call("GET", f"/api/v1/payments?{urlencode(asked)}")
        rows = read_list(reply.body) if reply.status == _OK else None
        if rows is None:
            raise NodeUnavailable(complaint(reply))
        return rows
