"""Sandbox: both nodes in one hand, the file they share, and the trouble they are in."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import decode
from farebox.core.errors import WalletError
from farebox.core.ports import Clock, Receiver, Wallet
from farebox.lightning.sandbox.book import Book
from farebox.lightning.sandbox.node import SandboxNode
from farebox.lightning.sandbox.transfer import TransferState
from farebox.lightning.sandbox.trouble import Script, Trouble

SELLER: Final = "seller"
BUYER: Final = "buyer"
_FIRST_BALANCES: Final = MappingProxyType({SELLER: NOTHING, BUYER: Amount.sats(1_000_000)})


def _system_clock() -> datetime:
    return datetime.now(UTC)


class Sandbox:
    """Two nodes with a channel between them that is always wide enough.

    seller, buyer: a SandboxNode each; the buyer starts with 1,000,000 sat.
    """

    def __init__(self, book: Book, clock: Clock) -> None:
        self._book = book
        self._clock = clock
        self._script = Script()
        self._world: dict[bytes, SandboxNode] = {}
        self.seller = SandboxNode(SELLER, book, clock, self._script, self._world)
        self.buyer = SandboxNode(BUYER, book, clock, self._script, self._world)

    @classmethod
    def open(cls, path: Path | None, *, clock: Clock = _system_clock) -> Self:
        """The sandbox of a file, made when it is not there; with None one that is forgotten. Raises WalletError."""
        return cls(Book(path, balances=dict(_FIRST_BALANCES)), clock)

    @classmethod
    def open_receiver(cls, url: str) -> Receiver:
        """The seller of `sandbox:///path/to/file`, or of this process's own, `sandbox:`. Raises WalletError."""
        return _opened(url).seller

    @classmethod
    def open_wallet(cls, url: str) -> Wallet:
        """The buyer of `sandbox:///path/to/file`, or of this process's own, `sandbox:`. Raises WalletError."""
        return _opened(url).buyer

    def close(self) -> None:
        """Let go of the file."""
        self._book.close()

    def script(self, payment_hash: bytes | None, trouble: Trouble) -> None:
        """Let this happen to the payment of one hash, or with None to the next payment; once."""
        self._script.add(payment_hash, trouble)

    def release(self, payment_hash: bytes) -> bool:
        """Let a payment arrive that stayed in flight; False when none does, or only its payee could settle it."""
        transfer = self._book.find_transfer(payment_hash)
        if transfer is None or transfer.state is not TransferState.HELD:
            return False
        invoice = decode(transfer.invoice)
        preimage = self._world[invoice.payee].preimage_of(invoice)
        return preimage is not None and self._book.settle(payment_hash, preimage, now=self._clock())


@cache
def _in_memory() -> Sandbox:
    """One for the process, so that a seller and a buyer who name the same URL meet in it, as they do in a file."""
    return Sandbox.open(None)


def _opened(url: str) -> Sandbox:
    parts = urlsplit(url)
    if parts.netloc or parts.query or parts.fragment:
        raise WalletError("a sandbox is written as sandbox:///path/to/file, or as sandbox: for one in memory")
    return Sandbox.open(Path(unquote(parts.path))) if parts.path else _in_memory()
