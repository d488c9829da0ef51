"""What a 402 tells beside its challenges: the invoice, and the price in its JSON body.

Prices out there are called `price_sats` or `amount_sats` and are satoshis; ours say `price_msat` as well, which is
exact.

Rules
1. Where no price is told, the invoice decides, and the buyer's budget with it.
2. A price that is there and can't be read, or two that differ by more than rounding, make a badly spoken challenge:
   whoever says one thing to some readers and another thing to others is not paid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.errors import MalformedAmount, MalformedChallenge, MalformedInvoice
from farebox.core.exchange import Json

_IN_MSATS: Final = ("price_msat", "amount_msat")
_IN_SATS: Final = ("price_sats", "amount_sats", "amount_sat")
_NUMBER: Final = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,19})?", re.ASCII)


def read_invoice(text: str) -> Invoice:
    """The invoice that a challenge carries. Raises MalformedChallenge."""
    try:
        return decode(text)
    except MalformedInvoice as error:
        raise MalformedChallenge(f"its invoice can't be read: {error.detail or error.title}") from None


def read_protocol(body: Mapping[str, Json], protocol: str) -> Mapping[str, Json]:
    """The members under `protocols` and the name of a protocol; nothing where there are none."""
    protocols = body.get("protocols")
    members = protocols.get(protocol) if isinstance(protocols, dict) else None
    return members if isinstance(members, dict) else {}


def read_price(*places: Mapping[str, Json]) -> Amount | None:
    """The price that these places tell, the exact one before a rounded one; None when none of them tells one.

    Raises MalformedChallenge for one that can't be read, and for prices that differ.
    """
    told = [
        (_read_amount(members[name], unit), unit)
        for members in places
        for names, unit in ((_IN_MSATS, "msat"), (_IN_SATS, "sat"))
        for name in names
        if members.get(name) is not None
    ]
    if not told:
        return None
    price = next((amount for amount, unit in told if unit == "msat"), told[0][0])
    for amount, unit in told:
        rounded = (Amount.sats(price.in_sats_floor()), Amount.sats(price.in_sats_ceil())) if unit == "sat" else ()
        if amount != price and amount not in rounded:
            raise MalformedChallenge(f"it asks for {price} in one place and for {amount} in another")
    return price


def _read_amount(value: Json, unit: str) -> Amount:
    """A number, or a text of digits only, as an amount: a fraction of a satoshi where it is of whole millisatoshis."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not _NUMBER.fullmatch(text := str(value)):
        raise MalformedChallenge("the price beside its invoice is no number")
    msats = Fraction(text) * (Amount.sats(1).msat if unit == "sat" else 1)
    try:
        return Amount.msats(int(msats) if msats.denominator == 1 else -1)
    except MalformedAmount:
        raise MalformedChallenge("the price beside its invoice is no amount") from None


def write_price(amount: Amount | None) -> dict[str, Json]:
    """The members that `read_price` reads; satoshis rounded up, millisatoshis exact."""
    return {} if amount is None else {"price_sats": amount.in_sats_ceil(), "price_msat": amount.msat}
