"""`farebox refund`: pays an invoice up to what is owed to a payer, once; `--list` tells what is owed.

Rules
1. The shop has no key that can spend. The wallet is named here, and only here.
2. The intent is in the ledger before the wallet is called. A command that ends anywhere, in any way, is made again:
   what it finds begun is looked up, and never paid a second time.
3. What the wallet has never heard of was not begun, or is about to be. It is paid only after nobody has touched it for
   longer than a wallet may take, and by one command of any number; or it is given up when its invoice has run out.
4. Only the wallet that was asked can tell what became of a refund, so no other one goes on with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from farebox.cli.books import moment, store_url
from farebox.cli.output import Cell, Exit, as_usage, show, show_one, tell
from farebox.cli.state import running_sandbox
from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.errors import MalformedValue, RefundRefused, WalletError, WalletMissing
from farebox.core.exchange import HASH_BYTES
from farebox.core.payment import DrawState, PaymentState
from farebox.core.ports import Conversation, Failed, Ledger, Paid, PayOutcome, Unresolved, Wallet
from farebox.core.refund import Credit, Refund, fee_limit
from farebox.gate import Converse

if TYPE_CHECKING:
    from farebox.core.settlement import Stray

IDLE: Final = timedelta(minutes=2)  # longer than any wallet is waited for
CLOCK_SKEW: Final = timedelta(minutes=10)
_MOST_LISTED: Final = 10_000
_WHY_NOT: Final = {
    PaymentState.OPEN: "nobody has paid it",
    PaymentState.EXPIRED: "nobody has paid it",
    PaymentState.FUNDED: "its call has not been made yet, and still can be",
    PaymentState.SPENT: "its call was answered; what was left over is too little to be sent",
    PaymentState.REFUNDED: "it was paid back",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks for. limit: for routing; None for 1 sat or 1 %, whichever is more."""

    payment_hash: bytes
    invoice: Invoice
    limit: Amount | None = None
    same_wallet: bool = False

    @classmethod
    def read(
        cls,
        payment_hash: str,
        invoice: str,
        limit: str | None = None,
        *,
        preimage: str | None = None,
        same_wallet: bool = False,
    ) -> Wanted:
        """From texts. preimage: what whoever asks has shown. Raises MalformedValue; RefundRefused for a wrong one."""
        octets = _read_hex(payment_hash)
        if octets is None:
            raise MalformedValue("a payment hash is 64 hex digits; `farebox refund --list --json` tells those owed")
        if preimage is not None:
            shown = _read_hex(preimage)
            if shown is None:
                raise MalformedValue("a preimage is 64 hex digits")
            if sha256(shown).digest() != octets:
                raise RefundRefused("this is not the preimage of that payment; who can't show it has not paid it")
        return cls(
            payment_hash=octets,
            invoice=decode(invoice.strip().lower().removeprefix("lightning:")),
            limit=None if limit is None else Amount.read(limit),
            same_wallet=same_wallet,
        )

    @property
    def fee_limit(self) -> Amount:
        """What routing may cost."""
        return self.limit if self.limit is not None else fee_limit(self.invoice.amount or NOTHING)


def _read_hex(text: str) -> bytes | None:
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        return None
    return octets if len(octets) == HASH_BYTES else None


class Refunding:
    """Pays credits back: `await refunding.refund(wanted)` gives the refund as it then stands.

    HELD is unresolved, CAPTURED paid, RELEASED certainly not paid.
    """

    def __init__(self, ledger: Ledger, wallet: Wallet, converse: Converse) -> None:
        self._ledger = ledger
        self._wallet = wallet
        self._converse = converse

    async def refund(self, wanted: Wanted) -> Refund:
        """Pay it back, or find out what became of paying it back. Raises RefundRefused, StoreUnavailable."""
        credit = await self._ledger.find_credit(wanted.payment_hash)
        if credit is None:
            strays = await self._ledger.strays(_MOST_LISTED)
            if any(stray.payment_hash == wanted.payment_hash for stray in strays):
                raise RefundRefused(
                    "it is a stray: money for an invoice that is none of this ledger's, which owes nothing for it"
                )
            raise RefundRefused("the ledger knows no payment of this hash")
        begun = credit.refund
        if begun is not None and begun.state is DrawState.HELD:
            begun = await self._find_out(self._ours(begun, same_wallet=wanted.same_wallet))
            if begun.state is DrawState.HELD or begun.refund_hash == wanted.invoice.payment_hash:
                return begun
        if begun is not None and begun.state is DrawState.CAPTURED:
            return begun
        intent = await self._audited(wanted, credit)
        if not await self._ledger.hold_refund(intent):
            raise RefundRefused("this invoice was tried before, or another refund of this payment has just begun")
        return await self._pay(intent)

    # --- before -------------------------------------------------------------------------------------------------------

    async def _audited(self, wanted: Wanted, credit: Credit) -> Refund:
        """The intent, if the invoice is what may be paid. Raises RefundRefused."""
        invoice, now = wanted.invoice, self._ledger.now()
        if credit.state is not PaymentState.CREDIT:
            raise RefundRefused(f"nothing is to be paid back of it: {_WHY_NOT[credit.state]}")
        if not invoice.amount:
            raise RefundRefused(f"the invoice names no amount; ask for one of at most {credit.most}")
        if invoice.amount + wanted.fee_limit > credit.owed:
            raise RefundRefused(
                f"{credit.owed} are owed, and the invoice is for {invoice.amount}, with {wanted.fee_limit} for routing "
                f"on top; ask for one of at most {credit.most}"
            )
        if invoice.expires_at <= now:
            raise RefundRefused("the invoice has expired; ask for a new one")
        payment = await self._ledger.find_payment(credit.payment_hash)
        ours = decode(payment.invoice) if payment is not None and payment.invoice else None
        networks = {network for network in (self._wallet.network, ours and ours.network) if network is not None}
        if networks - {invoice.network}:
            raise RefundRefused(f"the invoice is for {invoice.network}, and the payment was not made there")
        if ours is not None and ours.payee == invoice.payee:
            raise RefundRefused("the invoice is one of the shop's own node")
        if await self._ledger.find_payment(invoice.payment_hash) is not None:
            raise RefundRefused("the invoice is one of the shop's own")
        earlier = await self._ask(self._wallet.lookup_payment(invoice.payment_hash))
        if isinstance(earlier, Paid):
            raise RefundRefused(f"{self._wallet.name} has paid this invoice before")
        if isinstance(earlier, Unresolved) and earlier.known:
            raise RefundRefused(f"{self._wallet.name}: {earlier.reason}")
        return Refund(
            payment_hash=credit.payment_hash,
            refund_hash=invoice.payment_hash,
            invoice=invoice.text,
            wallet=self._wallet.name,
            amount=invoice.amount,
            fee_limit=wanted.fee_limit,
        )

    def _ours(self, begun: Refund, *, same_wallet: bool) -> Refund:
        if begun.wallet != self._wallet.name and not same_wallet:
            raise RefundRefused(
                f"it was begun with {begun.wallet}, and only that wallet can tell what became of it; if it is this one "
                "under another address, say --same-wallet"
            )
        return begun

    # --- paying and finding out ---------------------------------------------------------------------------------------

    async def _pay(self, refund: Refund) -> Refund:
        invoice = decode(refund.invoice)
        return await self._record(
            refund, await self._ask(self._wallet.pay_invoice(invoice, fee_limit=refund.fee_limit))
        )

    async def _find_out(self, refund: Refund) -> Refund:
        outcome = await self._ask(self._wallet.lookup_payment(refund.refund_hash))
        if isinstance(outcome, Unresolved) and not outcome.known:
            if self._ledger.now() > decode(refund.invoice).expires_at + CLOCK_SKEW:
                outcome = Failed(reason="the payment never reached the wallet, and the invoice has run out")
            elif await self._ledger.retry_refund(refund, idle=IDLE):
                return await self._pay(refund)
            else:
                outcome = replace(
                    outcome, reason=f"{outcome.reason}; try again in {IDLE // timedelta(minutes=1)} minutes"
                )
        return await self._record(refund, outcome)

    async def _ask(self, conversation: Conversation[PayOutcome]) -> PayOutcome:
        try:
            return await self._converse(conversation)
        except WalletError as error:
            return Unresolved(reason=str(error))

    async def _record(self, refund: Refund, outcome: PayOutcome) -> Refund:
        wish, done = refund, True
        match outcome:
            case Paid(preimage=preimage, fee=fee) if sha256(preimage.reveal()).digest() == refund.refund_hash:
                done = await self._ledger.capture_refund(refund, fee=fee)
                wish = replace(refund, state=DrawState.CAPTURED, fee=fee)
            case Paid():
                wish = replace(refund, reason="what the wallet gives as proof does not fit the payment hash")
            case Failed(reason=reason):
                done = await self._ledger.release_refund(refund, reason=reason)
                wish = replace(refund, state=DrawState.RELEASED, reason=reason)
            case Unresolved(reason=reason):
                wish = replace(refund, reason=reason)
        return wish if done else await self._as_it_stands(wish)

    async def _as_it_stands(self, wish: Refund) -> Refund:
        """Somebody has recorded it before us, the same outcome as it should be."""
        credit = await self._ledger.find_credit(wish.payment_hash)
        stands = None if credit is None else credit.refund
        if stands is None or (stands.refund_hash, stands.state) != (wish.refund_hash, wish.state):
            raise RefundRefused(
                "the wallet and the ledger tell different stories of this refund; compare them by hand",
                refund_hash=wish.refund_hash.hex(),
                wallet_says=wish.state.value,
            )
        return stands


# --- the command ------------------------------------------------------------------------------------------------------


def refund_credit(wanted: Wanted, *, store: str | None, wallet_url: str | None, folder: Path, as_json: bool) -> Exit:
    """Pay a credit back, and tell what became of it. Raises RefundRefused, ConfigError, WalletError."""
    from farebox.lightning import open_wallet

    url = store_url(store, folder)
    named = wallet_url or running_sandbox(folder).get("refund_wallet")
    if not named:
        raise WalletMissing
    with as_usage():
        wallet = open_wallet(named)
    refund = asyncio.run(_refund(wanted, url, wallet))
    row: dict[str, Cell] = {
        "state": refund.state.value,
        "amount": str(refund.amount),
        "fee": str(refund.fee),
        "payment_hash": refund.payment_hash.hex(),
        "refund_hash": refund.refund_hash.hex(),
    }
    match refund.state:
        case DrawState.CAPTURED:
            show_one(row, title="Refunded", as_json=as_json)
            if refund.refund_hash != wanted.invoice.payment_hash:
                tell("it was paid back by an earlier invoice; nothing was paid now")
            return Exit.DONE
        case DrawState.RELEASED:
            tell(f"not paid: {refund.reason}; ask for a new invoice and try again", style="red")
            return Exit.PAYMENT_FAILED
        case DrawState.HELD:
            tell(f"unresolved: {refund.reason}; the same command finds out, and pays nothing twice", style="red")
            return Exit.UNRESOLVED


async def _refund(wanted: Wanted, url: str, wallet: Wallet) -> Refund:
    from farebox.http.selling import Talk
    from farebox.stores import open_ledger

    ledger, talk = open_ledger(url), Talk()
    try:
        return await Refunding(ledger, wallet, talk).refund(wanted)
    finally:
        await talk.aclose()
        await ledger.close()


def show_credits(store: str | None, *, folder: Path, as_json: bool) -> None:
    """What is owed to payers, and what came in that fits no payment. Raises ConfigError, StoreUnavailable."""
    credits, strays = asyncio.run(_owed(store_url(store, folder)))
    owed: list[dict[str, Cell]] = [
        {
            "owed": str(credit.owed),
            "owed_msat": credit.owed.msat,
            "state": credit.state.value,
            "invoice_at_most": str(credit.most) if credit.most else None,
            "refund": credit.refund.state.value if credit.refund is not None else None,
            "reason": credit.refund.reason or None if credit.refund is not None else None,
            "resource": credit.resource,
            "settled": moment(credit.settled_at),
            "payment_hash": credit.payment_hash.hex(),
        }
        for credit in credits
    ]
    show(owed, title="Credits owed", as_json=as_json, empty="nothing is owed", whole=True)
    found: list[dict[str, Cell]] = [
        {
            "stray": str(stray.received),
            "stray_msat": stray.received.msat,
            "receiver": stray.receiver,
            "resource": stray.resource or None,
            "seen": moment(stray.seen_at),
            "payment_hash": stray.payment_hash.hex(),
        }
        for stray in strays
    ]
    if found:
        show(found, title="Received for no payment that is known here", as_json=as_json, whole=True)


async def _owed(url: str) -> tuple[Sequence[Credit], Sequence[Stray]]:
    from farebox.stores import open_ledger

    ledger = open_ledger(url)
    try:
        return await ledger.credits(_MOST_LISTED), await ledger.strays(_MOST_LISTED)
    finally:
        await ledger.close()


def read_words(words: Sequence[str]) -> tuple[str | None, tuple[str, str] | None]:
    """A store, if one is named, and a payment hash with an invoice, if they are. Raises MalformedValue."""
    match words:
        case []:
            return None, None
        case [store]:
            return store, None
        case [payment_hash, invoice]:
            return None, (payment_hash, invoice)
        case [store, payment_hash, invoice]:
            return store, (payment_hash, invoice)
        case _:
            raise MalformedValue("a refund needs a payment hash and an invoice: farebox refund PAYMENT_HASH INVOICE")
