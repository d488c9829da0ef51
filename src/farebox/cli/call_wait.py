"""What a person sees while `farebox call` waits, and what is said when it was stopped in the middle.

Rules
1. Progress is for terminals: nothing of it is in a pipe, and nothing of it on standard output.
2. What is told of the exchange (`-v`) holds no proof, no credential and no cookie.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import httpx

from farebox.cli.output import tell
from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.errors import (
    PaymentFailed,
    PaymentUnresolved,
    PurchaseError,
    StoreUnavailable,
    WalletError,
)
from farebox.core.node import Capabilities
from farebox.core.payment import DrawState
from farebox.core.ports import Conversation, PayOutcome, Wallet
from farebox.core.purse import Purchase, Purse
from farebox.payer.broken_off import broken_off

_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)
_SHOWN: Final = frozenset(
    (
        *("accept", "accept-encoding", "cache-control", "connection", "content-encoding", "content-length"),
        *("content-range", "content-type", "date", "etag", "host", "idempotency-key", "if-range", "last-modified"),
        *("location", "payment-kept", "payment-replayed", "prefer", "range", "ratelimit", "ratelimit-policy"),
        *("retry-after", "server", "transfer-encoding", "user-agent", "vary", "x-request-id"),
    )
)
_SCHEMES: Final = re.compile(r"\b(?:L402|LSAT|Payment|X-?402|Basic|Bearer|Digest)\b", re.IGNORECASE)
_PROOF_QUERY: Final = re.compile(r"((?:^|[?&])(?:payment_hash|preimage|token|macaroon)=)[^&]*")


class Told:
    """Tells how far it is, on standard error."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self._quiet = quiet
        self.verbose = verbose
        self._live = not quiet and sys.stderr.isatty()

    def say(self, text: str, *, style: str = "dim") -> None:
        """A line, unless it is to be quiet."""
        if not self._quiet:
            tell(text, style=style)

    def waiting(self, text: str) -> Any:
        """A context in which a terminal shows what is being waited for."""
        if not self._live:
            return nullcontext()
        from rich.console import Console
        from rich.markup import escape

        return Console(stderr=True).status(escape(text))

    @contextmanager
    def counting(self, answer: httpx.Response, *, begun: int) -> Iterator[Callable[[int], None]]:
        """A bar for a download: call what is yielded with the bytes that are here."""
        length = answer.headers.get("content-length", "")
        if not self._live:
            yield lambda size: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        total = begun + int(length) if length.isascii() and length.isdigit() else None
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=total, completed=begun)
            yield lambda size: progress.update(task, completed=size)

    def hooks(self) -> dict[str, list[Callable[..., None]]]:
        """What httpx calls for each request and answer, redirects and refused ones too."""
        return {"request": [self._request], "response": [self._answer]} if self.verbose else {}

    def _request(self, request: httpx.Request) -> None:
        target = _PROOF_QUERY.sub(r"\g<1>…", request.url.raw_path.decode("ascii"))
        tell(f"> {request.method} {target}")
        for name, value in request.headers.multi_items():
            tell(f"> {name}: {_shown(name, value)}")

    def _answer(self, answer: httpx.Response) -> None:
        tell(f"< {answer.http_version} {answer.status_code} {answer.reason_phrase}")
        for name, value in answer.headers.multi_items():
            tell(f"< {name}: {_shown(name, value)}")


def _shown(name: str, value: str) -> str:
    """A header's value as far as it can be no secret: whole for those that hold none, else the schemes it names."""
    if name.lower() in _SHOWN:
        return value
    schemes = dict.fromkeys(_SCHEMES.findall(value)) if name.lower() in ("authorization", "www-authenticate") else ()
    return f"{', '.join(schemes)} … ({len(value)} characters)".lstrip()


class ToldWallet:
    """A wallet of which a terminal shows that it is at work. It pays as the wallet does."""

    def __init__(self, wallet: Wallet, told: Told) -> None:
        self._wallet = wallet
        self._told = told

    @property
    def name(self) -> str:
        """The wallet's."""
        return self._wallet.name

    @property
    def network(self) -> Network | None:
        """The wallet's."""
        return self._wallet.network

    @property
    def capabilities(self) -> Capabilities:
        """The wallet's."""
        return self._wallet.capabilities

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """The wallet's own."""
        what = f"paying {invoice.amount}, fee up to {fee_limit}, payment {invoice.payment_hash.hex()}"
        if self._told.verbose:
            tell(f"* {what}, from {self._wallet.name}")
        with self._told.waiting(f"{what} …"):
            return (yield from self._wallet.pay_invoice(invoice, fee_limit=fee_limit))

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """The wallet's own."""
        with self._told.waiting(f"looking up payment {payment_hash.hex()} …"):
            return (yield from self._wallet.lookup_payment(payment_hash))

    def balance(self) -> Conversation[Amount]:
        """The wallet's own."""
        return self._wallet.balance()


class NoWallet:
    """Where there is no wallet: a price can be asked for without one."""

    name = "no wallet"
    network: Network | None = None
    capabilities: Capabilities = frozenset()

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Raises WalletError."""
        raise WalletError("there is no wallet")
        yield

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """Raises WalletError."""
        raise WalletError("there is no wallet")
        yield

    def balance(self) -> Conversation[Amount]:
        """Raises WalletError."""
        raise WalletError("there is no wallet")
        yield


def wait_for_outcome(
    unresolved: PaymentUnresolved,
    look_up: Callable[[], tuple[Purchase, ...]],
    *,
    within_s: float,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns when the payment is certainly made. Raises PaymentFailed when it certainly is not, else `unresolved`.

    look_up: looks up what is held, and returns it as it now stands.
    """
    payment_hash = str(unresolved.evidence.get("payment_hash", ""))
    until, pauses = clock() + within_s, iter(_PAUSES_S)
    pause_s = _PAUSES_S[-1]
    while clock() < until:
        pause_s = next(pauses, pause_s)
        pause(min(pause_s, max(0.0, until - clock())))
        try:
            mine = [purchase for purchase in look_up() if purchase.payment_hash.hex() == payment_hash]
        except StoreUnavailable:
            continue  # what the wallet says of it can't be written just now
        if not mine:
            break  # another process has found out; the purse tells what
        match mine[0].state:
            case DrawState.CAPTURED:
                return
            case DrawState.RELEASED:
                raise PaymentFailed(mine[0].reason, **unresolved.evidence)
            case DrawState.HELD:
                continue
    raise unresolved


def stopped(purse: Purse, request_digest: bytes | None) -> PurchaseError | None:
    """What Ctrl-C has left of a call; None when nothing of it is paid or held."""
    return broken_off(purse, request_digest, why="stopped")
