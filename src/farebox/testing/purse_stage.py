"""What the parts of the purse's suite have in common: a purse for each test, and purchases to put into it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from hashlib import sha256
from typing import Final

import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Window
from farebox.core.exchange import Challenge
from farebox.core.ports import Clock, Purchase, Purse
from farebox.core.secret import Secret
from farebox.testing.market import StillClock

DAILY: Final = Window.read("500 sat/day")
HOURLY: Final = Window.read("100 sat/hour")
PER_CALL: Final = Window.read("50 sat/call")
DAY: Final = timedelta(days=1)
DIGEST: Final = sha256(b"a request").digest()
PAYEE: Final = b"\2" + bytes(32)
PREIMAGE: Final = Secret(bytes(range(32)))


def purchase(
    clock: Clock,
    name: str = "a call",
    sats: int = 21,
    fee_sats: int = 0,
    digest: bytes = DIGEST,
    labels: Iterable[str] = (),
) -> Purchase:
    """A purchase that is about to be made."""
    payment_hash = sha256(name.encode()).digest()
    return Purchase(
        payment_hash=payment_hash,
        request_digest=digest,
        origin="https://shop.example:443",
        url="https://shop.example/api/dvm?q=1",
        amount=Amount.sats(sats),
        fee_limit=Amount.sats(fee_sats),
        challenge=Challenge(
            dialect="Payment",
            invoice="lnbcrt210n1…",
            payment_hash=payment_hash,
            amount=Amount.sats(sats),
            token="AgEB",
            parameters=(("id", "ü"), ("realm", 'a "b"'), ("id", "again")),
            expires_at=clock() + timedelta(minutes=5),
        ),
        invoice_expires_at=clock() + timedelta(minutes=10),
        resource="GET /api/dvm",
        payee=PAYEE,
        labels=frozenset(labels),
    )


def buy(purse: Purse, bought: Purchase, limits: Iterable[Window] = ()) -> None:
    """Hold it, and have it paid without a fee."""
    assert purse.hold(bought, tuple(limits)) is None
    purse.capture(bought.payment_hash, preimage=PREIMAGE, fee=NOTHING)


def at_once(count: int, work: Callable[[int], None]) -> None:
    """Do it in so many threads, each with its number."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class PurseStage(ABC):
    """A purse for each test."""

    @abstractmethod
    def open_purse(self, clock: Clock) -> Purse:
        """A purse that remembers nothing yet, apart from every other one."""

    @pytest.fixture
    def clock(self) -> StillClock:
        """A clock that the test moves."""
        return StillClock()

    @pytest.fixture
    def purse(self, clock: StillClock) -> Iterator[Purse]:
        """An empty purse."""
        purse = self.open_purse(clock)
        yield purse
        purse.close()
