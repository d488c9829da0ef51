"""What the books say: `ledger` for a seller, and `wallet` for a buyer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from farebox.cli.output import Cell, Exit, as_usage, show, show_one, tell
from farebox.cli.state import running_sandbox, usual_dir
from farebox.core.amount import Amount
from farebox.core.bolt11 import decode
from farebox.core.errors import ConfigError, UsageError, WalletMissing
from farebox.core.payment import Balance, Payment
from farebox.core.ports import Conversation, Failed, Ledger, Paid, Unresolved, Wallet

T = TypeVar("T")

PURSE_FILE: Final = "purse.db"


def moment(at: datetime | None) -> str | None:
    """An instant as it is shown, in the local time zone."""
    return at.astimezone().isoformat(sep=" ", timespec="seconds") if at else None


# --- the seller -------------------------------------------------------------------------------------------------------


def show_ledger(store: str | None, *, folder: Path, limit: int, as_json: bool) -> None:
    """The balance, and the newest payments. Raises ConfigError, StoreUnavailable."""
    from farebox.stores import open_ledger
    from farebox.stores.places import shown

    url = store_url(store, folder)

    async def read() -> tuple[Balance, list[Payment], list[str]]:
        ledger: Ledger = open_ledger(url)
        try:
            return await ledger.balance(), list(await ledger.recent_payments(limit)), list(await ledger.audit())
        finally:
            await ledger.close()

    balance, payments, wrong = asyncio.run(read())
    rows: list[dict[str, Cell]] = [
        {
            "state": payment.state.value,
            "price": str(payment.price),
            "resource": payment.resource,
            "attempts": payment.attempts,
            "created": moment(payment.created_at),
            "settled": moment(payment.settled_at),
            "payment_hash": payment.payment_hash.hex(),
        }
        for payment in payments
    ]
    books: dict[str, Cell] = {
        "received": str(balance.received),
        "earned": str(balance.earned),
        "held": str(balance.held),
        "credit": str(balance.credit),
        "refunded": str(balance.refunded),
        "balanced": balance.balanced and not wrong,
    }
    show_one(books, title=f"Books of {shown(url)}", as_json=as_json)
    show(rows, title="Newest payments", as_json=as_json)
    if balance.credit:
        tell("credit is owed to payers: `farebox refund --list` tells to whom", style="yellow")
    if wrong:
        raise ConfigError(f"the books of {shown(url)} do not balance: {wrong[0]}")


def migrate_ledger(store: str | None, *, folder: Path) -> None:
    """Apply every migration of a ledger, also those that an older farebox can't live with.

    Raises ConfigError, StoreUnavailable.
    """
    from farebox.stores import places

    url = store_url(store, folder)
    places.migrate_ledger(url)
    tell(f"{places.shown(url)} has every migration; a farebox that is too old for one of them refuses it from now on")


def store_url(store: str | None, folder: Path) -> str:
    """The URL of the ledger that is meant: one named, that of a farebox.toml, or a person's own. Raises ConfigError."""
    from farebox.stores.places import sqlite_path

    if store is None:
        store = f"sqlite:///{folder / 'ledger.db'}"
    elif store.endswith(".toml"):
        from farebox.cli.config import read_place

        store = read_place(Path(store), "store").store or f"sqlite:///{folder / 'ledger.db'}"
    path = sqlite_path(store) if store.startswith("sqlite:") else None
    if path is not None and not path.exists():
        raise ConfigError(f"there is no ledger at {path} yet; `farebox serve` makes it")
    return store


# --- the buyer --------------------------------------------------------------------------------------------------------


def purse_place(folder: Path) -> str | Path:
    """Where a person's purse is, or will be: what `FAREBOX_PURSE_STORE` says, or a file. Raises UsageError."""
    from farebox.stores import places

    said = os.environ.get("FAREBOX_PURSE_STORE", "").strip()
    with as_usage():
        return places.purse_place(said) if said else folder / PURSE_FILE


def purse_to_read(folder: Path, *, silent: bool = False) -> str | Path:
    """The same where there is one, and else nowhere: who only reads makes none. Raises UsageError.

    Where the place was named, which may have been mistyped, a line on standard error says so, unless it is `silent`.
    """
    place = purse_place(folder)
    if isinstance(place, str) or place.exists():
        return place
    if not silent and place != usual_dir() / PURSE_FILE:
        tell(f"there is no purse at {place.absolute()} yet; `farebox call` makes it", style="yellow")
    return ":memory:"


def found_wallet(url: str | None, folder: Path) -> Wallet | None:
    """The wallet that was named, or the one of a sandbox that runs on this machine. Raises UsageError."""
    from farebox.lightning import open_wallet

    named = url or running_sandbox(folder).get("buyer_wallet")
    if not named:
        return None
    with as_usage():
        return open_wallet(named)


def wallet_needed(wallet: Wallet | None) -> Wallet:
    """The wallet. Raises WalletMissing, which says how to name one."""
    if wallet is None:
        raise WalletMissing
    return wallet


def conversed() -> Callable[[Conversation[T]], T]:
    """A function that carries conversations with a wallet."""
    import httpx

    from farebox.http.converse import converse

    client = httpx.Client(follow_redirects=False, trust_env=False)
    return lambda conversation: converse(conversation, client)


def show_wallet(url: str | None, *, pay: str | None, folder: Path, as_json: bool) -> Exit:
    """The balance of a wallet, or one payment by hand. Raises UsageError, WalletError, MalformedInvoice."""
    wallet = wallet_needed(found_wallet(url, folder))
    if pay is None:
        balance: Amount = conversed()(wallet.balance())
        row: dict[str, Cell] = {"wallet": wallet.name, "balance": str(balance), "balance_msat": balance.msat}
        show_one(row, title="Wallet", as_json=as_json)
        return Exit.DONE
    invoice = decode(pay)
    if invoice.amount is None:
        raise UsageError("this invoice names no amount; pay it from the wallet itself")
    outcome = conversed()(wallet.pay_invoice(invoice, fee_limit=max(Amount.sats(1), invoice.amount.share(1))))
    payment_hash = invoice.payment_hash.hex()
    match outcome:
        case Paid(preimage=preimage, fee=fee):
            show_one(
                {
                    "paid": str(invoice.amount),
                    "fee": str(fee),
                    "payment_hash": payment_hash,
                    # Whoever pays by hand has to show it by hand.
                    "preimage": preimage.reveal().hex(),
                },
                title="Paid",
                as_json=as_json,
            )
            return Exit.DONE
        case Failed(reason=reason):
            tell(f"not paid: {reason}", style="red")
            return Exit.PAYMENT_FAILED
        case Unresolved(reason=reason):
            tell(f"unresolved: {reason}; don't pay it again, look it up: {payment_hash}", style="red")
            return Exit.UNRESOLVED
