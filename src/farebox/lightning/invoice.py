"""The invoice that a backend is asked for: what none can ask, and whether the one that it made is that invoice."""

from __future__ import annotations

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network, decode
from farebox.core.errors import MalformedAmount, MalformedInvoice, NodeUnavailable, WalletError
from farebox.lightning.reply import Told, hash_of, text


def check_amount(amount: Amount, *, by: str) -> None:
    """Refuse to ask for nothing, for then the payer says how much. by: what the backend is called in messages.

    Raises WalletError.
    """
    if not amount:
        raise WalletError(f"{by} can't ask for nothing: an invoice needs an amount")


def whole_sats(amount: Amount, *, by: str) -> int:
    """What a backend is asked for that knows no fractions of a satoshi. Raises WalletError, also for nothing."""
    try:
        sats = amount.in_sats_exact()
    except MalformedAmount:
        raise WalletError(f"{by} can't ask for {amount}: it knows whole satoshis only") from None
    check_amount(amount, by=by)
    return sats


def read_made(
    made: Told, name: str, amount: Amount, *, network: Network | None, by: str, payment_hash: str | None = None
) -> Invoice:
    """The invoice that a backend has made, read from the text of this name. Raises NodeUnavailable for another one.

    network: the backend's chain, as far as it is known. payment_hash: the name under which its hash is told again.
    """
    try:
        invoice = decode(text(made, name) or "")
    except MalformedInvoice:
        raise NodeUnavailable(f"{by} made an invoice that can't be read") from None
    same = invoice.amount == amount and network in (None, invoice.network)
    if not same or (payment_hash is not None and hash_of(made, payment_hash) != invoice.payment_hash):
        raise NodeUnavailable(f"{by} made another invoice than it was asked for")
    return invoice
