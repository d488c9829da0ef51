"""What a 402 tells beside its challenges: the invoice, and the price in its JSON body.

Prices out there are called `price_sats` or `amount_sats` and are whole satoshis; ours say `price_msat` as well, which
is exact. A price that can't be read tells nothing: the invoice decides, and the buyer's budget with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.errors import MalformedAmount, MalformedChallenge, MalformedInvoice
from farebox.core.exchange import Json

_IN_MSATS: Final = ("price_msat", "amount_msat")
_IN_SATS: Final = ("price_sats", "amount_sats", "amount_sat")


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
    """The price that the first of these places tells; None when none of them tells one."""
    for members in places:
        for names, count in ((_IN_MSATS, Amount.msats), (_IN_SATS, Amount.sats)):
            for name in names:
                value = members.get(name)
                if isinstance(value, int) and not isinstance(value, bool):
                    try:
                        return count(value)
                    except MalformedAmount:
                        continue
    return None


def write_price(amount: Amount | None) -> dict[str, Json]:
    """The members that `read_price` reads; satoshis rounded up, millisatoshis exact."""
    return {} if amount is None else {"price_sats": amount.in_sats_ceil(), "price_msat": amount.msat}
