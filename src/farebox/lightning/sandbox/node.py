"""SandboxNode: one of the two nodes of the sandbox; the rules are in the package's docstring."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Final

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, decode, fitting, sign
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.ports import (
    Capabilities,
    Capability,
    Clock,
    Conversation,
    Failed,
    InvoiceState,
    InvoiceStatus,
    Paid,
    PayOutcome,
    Unresolved,
)
from farebox.core.secret import Secret
from farebox.core.settlement import Settlement, Settlements
from farebox.core.signature import public_key
from farebox.lightning.sandbox.book import REJECTED, Book
from farebox.lightning.sandbox.transfer import Transfer, TransferState
from farebox.lightning.sandbox.trouble import Script, Trouble

CAPABILITIES: Final = frozenset(
    {
        Capability.FEE_LIMIT,
        Capability.HOLD,
        Capability.LOOKUP,
        Capability.MSAT,
        Capability.PAYS_ONCE,
        Capability.STREAM,
    }
)
_MOST_REMEMBERED: Final = 8192
_MOST_SETTLEMENTS: Final = 500
_NAME_DIGITS: Final = 16
_SECRET_BYTES: Final = 32
_LOOK_EVERY_S: Final = 0.05


class SandboxNode:
    """One node of the sandbox, as Receiver and as Wallet.

    role: `seller` or `buyer`. public_key: 33 bytes, compressed. fee: what its payments cost on top, for routing.
    world: every node by its public key; the new one joins it.
    """

    def __init__(self, role: str, book: Book, clock: Clock, script: Script, world: dict[bytes, SandboxNode]) -> None:
        self._book = book
        self._clock = clock
        self._script = script
        self._world = world
        self._issued: OrderedDict[bytes, Invoice] = OrderedDict()
        self._lock = threading.Lock()
        self.role = role
        self.fee = NOTHING
        self.reachable = True
        self._secret_key = self._derive("node key", b"")
        self.public_key = public_key(self._secret_key)
        world[self.public_key] = self

    @property
    def name(self) -> str:
        """`sandbox seller`."""
        return f"sandbox {self.role}"

    @property
    def network(self) -> Network:
        """Always regtest."""
        return Network.REGTEST

    @property
    def capabilities(self) -> Capabilities:
        """It is asked in the same process, and forgets nothing."""
        return CAPABILITIES

    # --- the ports ----------------------------------------------------------------------------------------------------

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount. Raises NodeUnavailable."""
        yield from ()
        self._check_reachable()
        return self.issue(amount, description=description, expires_in=expires_in)

    def create_hold_invoice(
        self, amount: Amount, *, payment_hash: bytes, description: str, expires_in: timedelta
    ) -> Conversation[Invoice]:
        """An invoice that is held when it is paid. Raises NodeUnavailable."""
        yield from ()
        self._check_reachable()
        return self.issue_held(amount, payment_hash=payment_hash, description=description, expires_in=expires_in)

    def settle_invoice(self, preimage: Secret[bytes]) -> Conversation[InvoiceStatus]:
        """Take what is held; where it then stands. Raises NodeUnavailable."""
        payment_hash = hashlib.sha256(preimage.reveal()).digest()
        return (yield from self._moved(payment_hash, lambda: self.settle(preimage)))

    def cancel_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """Give back what is held, or let nobody pay; where it then stands. Raises NodeUnavailable."""
        return (yield from self._moved(payment_hash, lambda: self.cancel(payment_hash)))

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """Where an invoice stands. Raises NodeUnavailable."""
        yield from ()
        self._check_reachable()
        try:
            return self.invoice_status(payment_hash)
        except sqlite3.Error:
            raise NodeUnavailable("the sandbox file can't be read") from None

    def settlements(self, cursor: str, *, wait: timedelta) -> Conversation[Settlements]:
        """What was paid since; it answers at once, for it has nobody to wait with. Raises NodeUnavailable."""
        yield from ()
        self._check_reachable()
        try:
            rows = self._book.settled_since(self._number(cursor), self.role, most=_MOST_SETTLEMENTS)
        except sqlite3.Error:
            raise NodeUnavailable("the sandbox file can't be read") from None
        return Settlements(
            settled=tuple([Settlement(payment_hash=hash_, received=received) for _, hash_, received in rows]),
            cursor=self._cursor(rows[-1][0]) if rows else cursor,
            more=len(rows) == _MOST_SETTLEMENTS,
        )

    def cursor_at(self, at: datetime) -> Conversation[str]:
        """A cursor from which everything is read that was paid from then on. Raises NodeUnavailable."""
        yield from ()
        self._check_reachable()
        try:
            return self._cursor(self._book.settled_before(at))
        except sqlite3.Error:
            raise NodeUnavailable("the sandbox file can't be read") from None

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Pay it, or learn what became of its first payment."""
        yield from ()
        if not self.reachable:
            return Failed(reason="the wallet can't be reached")
        return self.pay(invoice, fee_limit=fee_limit)

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """What became of a payment."""
        yield from ()
        if not self.reachable:
            return Unresolved(reason="the wallet can't be reached")
        try:
            transfer = self.find_transfer(payment_hash)
        except sqlite3.Error:
            return Unresolved(reason="the sandbox file can't be read")
        if transfer is None:
            return Unresolved(reason="the sandbox has never heard of this payment", known=False)
        return _outcome(transfer)

    def balance(self) -> Conversation[Amount]:
        """What can be spent. Raises WalletError."""
        yield from ()
        if not self.reachable:
            raise WalletError("the wallet can't be reached")
        return self.funds()

    # --- being paid ---------------------------------------------------------------------------------------------------

    def issue(self, amount: Amount, *, description: str, expires_in: timedelta) -> Invoice:
        """A new invoice, of which nothing is written."""
        payment_secret = secrets.token_bytes(_SECRET_BYTES)
        payment_hash = hashlib.sha256(self._derive("preimage", payment_secret)).digest()
        return self._sign(amount, payment_hash, payment_secret, description, expires_in)

    def issue_held(self, amount: Amount, *, payment_hash: bytes, description: str, expires_in: timedelta) -> Invoice:
        """An invoice that is held when paid, until `settle` shows the preimage or `cancel` gives the money back."""
        invoice = self._sign(amount, payment_hash, secrets.token_bytes(_SECRET_BYTES), description, expires_in)
        self._book.remember_invoice(payment_hash, payee=self.role, text=invoice.text)
        return invoice

    def settle(self, preimage: Secret[bytes]) -> bool:
        """Take what is held for a hold invoice; False when nothing is."""
        payment_hash = hashlib.sha256(preimage.reveal()).digest()
        return self._book.settle(payment_hash, preimage, now=self._clock())

    def cancel(self, payment_hash: bytes) -> bool:
        """Let it be paid no more, and give back what is held for it; False when it is paid already."""
        return self._book.cancel_invoice(payment_hash, payee=self.role, now=self._clock())

    def invoice_status(self, payment_hash: bytes) -> InvoiceStatus:
        """Where an invoice of this node stands."""
        receipt = self.find_receipt(payment_hash)
        if receipt is not None and receipt.state is TransferState.PAID:
            return InvoiceStatus(state=InvoiceState.PAID, received=receipt.sent)
        if receipt is not None and receipt.state is TransferState.HELD:
            return InvoiceStatus(state=InvoiceState.HELD)
        if self._is_cancelled(payment_hash):
            return InvoiceStatus(state=InvoiceState.CANCELLED)
        invoice = self.find_invoice(payment_hash)
        if invoice is None:
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
        expired = invoice.expires_at <= self._clock()
        return InvoiceStatus(state=InvoiceState.CANCELLED if expired else InvoiceState.OPEN)

    def find_invoice(self, payment_hash: bytes) -> Invoice | None:
        """An invoice of this node, if this process made it or the book has it."""
        with self._lock:
            issued = self._issued.get(payment_hash)
        if issued is not None:
            return issued
        receipt = self.find_receipt(payment_hash)
        if receipt is not None:
            return decode(receipt.invoice)
        kept = self._book.find_invoice(payment_hash)
        return decode(kept.text) if kept is not None and kept.payee == self.role and kept.text else None

    def newest_paid(self, *, from_ms: int, to_ms: int, most: int, offset: int) -> list[bytes]:
        """The payment hashes of what this node was paid between two instants, the newest first."""
        return self._book.newest_paid(self.role, from_ms=from_ms, to_ms=to_ms, most=most, offset=offset)

    def find_receipt(self, payment_hash: bytes) -> Transfer | None:
        """A payment to this node, as it stands."""
        transfer = self._book.find_transfer(payment_hash)
        return transfer if transfer is not None and transfer.payee == self.role else None

    def preimage_of(self, invoice: Invoice) -> Secret[bytes] | None:
        """The preimage of an invoice that this node made and need not hold."""
        preimage = self._derive("preimage", invoice.payment_secret)
        return Secret(preimage) if hashlib.sha256(preimage).digest() == invoice.payment_hash else None

    def holds_for(self, invoice: Invoice) -> bool:
        """Whether this is one of the hold invoices of this node."""
        kept = self._book.find_invoice(invoice.payment_hash)
        return kept is not None and kept.payee == self.role and kept.text == invoice.text

    # --- paying -------------------------------------------------------------------------------------------------------

    def pay(self, invoice: Invoice, *, fee_limit: Amount | None) -> PayOutcome:
        """Pay it, or learn what became of its first payment; without a fee limit whatever it costs."""
        trouble = self._script.take(invoice.payment_hash)
        try:
            transfer = self._book.send(self._transfer(invoice, trouble, fee_limit))
        except sqlite3.Error:
            return Unresolved(reason="the sandbox file can't be written")
        if Trouble.LOSE_REPLY in trouble:
            return Unresolved(reason="the reply was lost")
        return _outcome(transfer)

    async def ended(self, invoice: Invoice, *, within: timedelta) -> PayOutcome:
        """What became of a payment that its payee holds, when that has ended it; at once where it holds none."""
        payee, outcome = self._world.get(invoice.payee), Unresolved(reason="the reply was lost")
        if payee is None or not payee.holds_for(invoice):
            return outcome
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds()):
                while (transfer := self.find_transfer(invoice.payment_hash)) is not None:
                    if not isinstance(found := _outcome(transfer), Unresolved):
                        return found
                    await asyncio.sleep(_LOOK_EVERY_S)
        return outcome

    def find_transfer(self, payment_hash: bytes) -> Transfer | None:
        """A payment by this node, as it stands."""
        transfer = self._book.find_transfer(payment_hash)
        return transfer if transfer is not None and transfer.payer == self.role else None

    def funds(self) -> Amount:
        """What this node has, without what it holds. Raises WalletError."""
        try:
            return self._book.balance(self.role)
        except sqlite3.Error:
            raise WalletError("the sandbox file can't be read") from None

    # --- small print --------------------------------------------------------------------------------------------------

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        """While this lasts, nobody can ask this node; it can still be paid."""
        self.reachable = False
        try:
            yield
        finally:
            self.reachable = True

    def _cursor(self, number: int) -> str:
        return f"{self.public_key.hex()[:_NAME_DIGITS]}:{number}"

    def _number(self, cursor: str) -> int:
        """The number in a cursor; 0 in one of another sandbox, whose numbers say nothing here."""
        name, _, number = cursor.partition(":")
        ours = name == self.public_key.hex()[:_NAME_DIGITS] and number.isdecimal()
        return int(number) if ours else 0

    def _moved(self, payment_hash: bytes, move: Callable[[], bool]) -> Conversation[InvoiceStatus]:
        yield from ()
        self._check_reachable()
        try:
            if self.invoice_status(payment_hash).state is not InvoiceState.UNKNOWN:
                move()
            return self.invoice_status(payment_hash)
        except sqlite3.Error:
            raise NodeUnavailable("the sandbox file can't be written") from None

    def _check_reachable(self) -> None:
        if not self.reachable:
            raise NodeUnavailable("the node can't be reached")

    def _transfer(self, invoice: Invoice, trouble: Trouble, fee_limit: Amount | None) -> Transfer:
        """What is to be written when this is paid now."""
        now = self._clock()
        payee = self._world.get(invoice.payee)
        preimage = None if payee is None else payee.preimage_of(invoice)
        held = preimage is None or Trouble.STAY_IN_FLIGHT in trouble
        transfer = Transfer(
            payment_hash=invoice.payment_hash,
            payer=self.role,
            payee="" if payee is None else payee.role,
            invoice=invoice.text,
            sent=(invoice.amount or NOTHING) * (2 if Trouble.PAY_TWICE in trouble else 1),
            fee=self.fee,
            state=TransferState.HELD if held else TransferState.PAID,
            preimage=None if held else preimage,
            created_at=now,
            completed_at=None if held else now,
        )
        if payee is None or Trouble.FAIL in trouble:
            return transfer.failed("the recipient was offline or did not have enough liquidity to receive the payment")
        if payee is self or not invoice.amount:
            return transfer.failed(
                "payment amount must be positive" if payee is not self else "a node can't pay itself"
            )
        if preimage is None and not payee.holds_for(invoice):
            return transfer.failed(REJECTED)
        if invoice.expires_at <= now and Trouble.PAY_LATE not in trouble:
            return transfer.failed("the invoice has expired")
        if fee_limit is not None and self.fee > fee_limit:
            return transfer.failed(f"the fee of {self.fee} is over the limit of {fee_limit}")
        return transfer

    def _is_cancelled(self, payment_hash: bytes) -> bool:
        kept = self._book.find_invoice(payment_hash)
        return kept is not None and kept.payee == self.role and kept.cancelled

    def _sign(
        self, amount: Amount, payment_hash: bytes, payment_secret: bytes, description: str, expires_in: timedelta
    ) -> Invoice:
        invoice = sign(
            secret_key=self._secret_key,
            network=Network.REGTEST,
            amount=amount,
            payment_hash=payment_hash,
            payment_secret=payment_secret,
            description=fitting(description),
            created_at=self._clock(),
            expires_in=expires_in,
        )
        with self._lock:
            self._issued[payment_hash] = invoice
            if len(self._issued) > _MOST_REMEMBERED:
                self._issued.popitem(last=False)
        return invoice

    def _derive(self, purpose: str, message: bytes) -> bytes:
        return hmac.digest(
            self._book.seed.reveal(), f"farebox sandbox {self.role} {purpose}:".encode() + message, "sha256"
        )


def _outcome(transfer: Transfer) -> PayOutcome:
    if transfer.preimage is not None:
        return Paid(preimage=transfer.preimage, fee=transfer.fee)
    if transfer.state is TransferState.FAILED:
        return Failed(reason=transfer.reason)
    return Unresolved(reason="the payment is in flight")
