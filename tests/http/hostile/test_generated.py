"""Generated invoices (target B1): those that are sound are paid, and none that is not."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Network, sign
from farebox.core.errors import NothingPaid
from farebox.core.signature import public_key
from farebox.testing.buyers import NODE_KEY
from farebox.testing.hostile import Seller
from farebox.testing.hostile.stage import BUDGET, HOME, altered, check_fee_limits
from farebox.testing.shopping import Face

MOST: Final = Amount.sats(100)
OWN_KEY: Final = bytes(31) + b"\x02"
SECONDS: Final = timedelta(seconds=1)
WAYS: Final = ("l402", "bare", "payment", "x402")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a seller asks, and whether it may be paid."""

    ask: Any
    is_sound: bool
    what: str


def draw(chance: random.Random, seller: Seller, now: datetime) -> Drawn:
    """An invoice that is as it should be in most things, and a price beside it that often is its own."""
    few = lambda usual, *others: usual if chance.random() < 0.85 else chance.choice(others)  # noqa: E731
    amount = few(
        Amount.sats(chance.randint(1, 100)), None, Amount.msats(chance.randint(1, 200_000)), Amount.sats(10**6)
    )
    expires_in = few(600, 0, 1, 20, 59, 86_400) * SECONDS
    age = few(0, 1, 569, 570, 571, 600, 601, -599, -600, -601, -86_400) * SECONDS
    cltv = few(18, 0, 160, 161, 2016)
    network = few(Network.REGTEST, Network.MAINNET, Network.TESTNET, Network.SIGNET)
    key = few(NODE_KEY, OWN_KEY)
    preimage = chance.randbytes(32)
    payment_hash = sha256(preimage).digest()
    seller.mint.preimages[payment_hash] = preimage
    invoice = sign(
        secret_key=key,
        network=network,
        amount=amount,
        payment_hash=payment_hash,
        payment_secret=bytes(32),
        description="a test",
        created_at=now - age,
        expires_in=expires_in,
        min_final_cltv=cltv,
    )
    spoilt = few("", "mixed", "changed", "cut", "twice", "unsigned", "capitals")
    msat = 0 if amount is None else amount.msat
    told = few(msat, msat + 1, msat - 1, msat + 1000, 0, -msat, 1, 10**12)
    way = chance.choice(WAYS)
    is_sound = (
        amount is not None
        and amount <= MOST
        and network is Network.REGTEST
        and key is NODE_KEY
        and spoilt in ("", "capitals")
        and cltv <= 160
        and age >= timedelta(minutes=-10)
        and now + min(30 * SECONDS, expires_in / 2) < now - age + expires_in
        and (told == msat)
        and (way != "payment" or msat % 1000 == 0)
    )
    text = spoil(chance, invoice.text, spoilt)
    ask = asks(seller, way, text, told, invoice)
    return Drawn(ask=ask, is_sound=is_sound, what=f"{way}, {told} msat told, {spoilt or 'not'} spoilt: {text}")


def spoil(chance: random.Random, text: str, how: str) -> str:
    at = chance.randrange(10, len(text) - 1)
    match how:
        case "mixed":
            return text[:5] + text[5:].upper()
        case "changed":
            return text[:at] + ("q" if text[at] != "q" else "p") + text[at + 1 :]
        case "cut":
            return text[:at]
        case "twice":
            return altered(text, chance.choice("psxc9"), b"0" * 52)
        case "unsigned":
            return altered(text, "m", b"0", signature=b"0" * 104)
        case "capitals":
            return text.upper()
    return text


def asks(seller: Seller, way: str, text: str, told: int, invoice: Any) -> Any:
    match way:
        case "l402":
            return seller.l402(text, {"price_msat": told})
        case "bare":
            return seller.bare(text, price_msat=told, payment_hash=invoice.payment_hash.hex())
        case "payment":
            sats = told // 1000 if told % 1000 == 0 else told / 1000
            return seller.payment(invoice, details={"invoice": text}, amount=str(sats))
    return seller.x402(invoice, extra={"invoice": text}, amount=str(told))


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("client", 300),
        ("async client", 100),
        pytest.param("client", 20_000, marks=pytest.mark.full),
    ],
)
def test_of_generated_invoices_the_sound_ones_are_paid_and_no_other(
    kind: str, count: int, seed: int, tell: Any
) -> None:
    chance, sound = random.Random(seed), 0
    for number in range(count):
        if number % 500 == 0:
            face = Face(kind)
            face.shop = seller = Seller(face)  # type: ignore[assignment]  # all that a face needs of it is that it answers
            face.wallet.public_key = public_key(OWN_KEY)  # type: ignore[attr-defined]  # not every wallet tells
            client = face.open(budget=BUDGET, max=str(MOST))
        drawn = draw(chance, seller, face.clock())
        seller.acts, before = [drawn.ask, seller.serves()], len(face.wallet.payments)
        seller.seen.clear()
        if drawn.is_sound:
            assert face.call(url=f"{HOME}/{number}", client=client).status_code == 200, (seed, drawn.what)
        else:
            with pytest.raises(NothingPaid):
                raise AssertionError(f"{seed}, {drawn.what}: {face.call(url=f'{HOME}/{number}', client=client)}")
        assert before + drawn.is_sound == len(face.wallet.payments), (seed, drawn.what)
        check_fee_limits(face)
        sound += drawn.is_sound
    assert count / 10 < sound < count * 9 / 10
    tell(f"seed {seed}: of {count} generated invoices {sound} were sound and paid, and none of the others was")
