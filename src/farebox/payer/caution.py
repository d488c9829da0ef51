"""Caution: what is looked at before the money is held, besides the invoice itself.

Rules
1. Who is paid goes by the origin that the caller named, and that origin is the one that asks.
2. Nothing is paid over plain HTTP to another machine, where anybody between can put an invoice of his own.
3. A price far above the last one, and another payee where that is pinned, need somebody's word.
"""

from __future__ import annotations

from typing import Final

from farebox.core.allowance import Allowance, matches
from farebox.core.bolt11 import Network
from farebox.core.budget import HOST
from farebox.core.errors import (
    BodyNotReplayable,
    HostRefused,
    OriginChanged,
    OriginInsecure,
    OverBudget,
    PayeeChanged,
    PriceJumped,
)
from farebox.core.host import is_loopback
from farebox.core.purse import Guards, Seen
from farebox.payer.offer import Limits, Offer
from farebox.payer.steps import Answered, OutgoingCall

_HOME: Final = ("*.onion", "*.test")  # a name whose address is its key, and one that is reserved


def check_seller(call: OutgoingCall, answer: Answered, limits: Limits, allowance: Allowance) -> None:
    """Whether whoever asks may be paid at all. Raises OriginChanged, BodyNotReplayable, HostRefused."""
    if answer.origin != call.named:
        raise OriginChanged(f"{answer.origin} asks", asked_by=answer.origin)
    if call.digest is None:
        raise BodyNotReplayable
    host = call.host
    if matches(host, limits.deny) or not matches(host, limits.allow) or not allowance.admits(host):
        raise HostRefused(f"{host} is not among those that may be paid", host=host)


def check_price(call: OutgoingCall, offer: Offer, limits: Limits, allowance: Allowance) -> None:
    """Whether the price may be paid, and over this line. Raises OverBudget, OriginInsecure."""
    mosts = [most for most in (limits.most, allowance.most) if most is not None]
    most = min(mosts, default=None)
    if most is not None and offer.amount > most:
        told = f"it costs {offer.amount}, and the most for one call is {most}"
        raise OverBudget(told, asked_msat=offer.amount.msat, limit_msat=most.msat)
    if offer.invoice.network is Network.MAINNET and not is_private(call) and not matches(call.host, limits.plain_http):
        raise OriginInsecure(f"{call.origin} is not https", host=call.host)


def check_change(offer: Offer, seen: Seen, limits: Limits, allowance: Allowance) -> None:
    """Whether it is much like what was asked before. Raises PriceJumped, PayeeChanged."""
    if seen.price and limits.price_jump is not None and offer.amount > seen.price * limits.price_jump:
        accepted = allowance.accepts is not None and offer.amount <= allowance.accepts
        if not accepted:
            told = f"it costs {offer.amount}, and the last price was {seen.price}"
            raise PriceJumped(told, asked_msat=offer.amount.msat, last_msat=seen.price.msat)
    payee = offer.invoice.payee
    if limits.pin_payee and seen.payee not in (None, payee) and allowance.payee != payee:
        raise PayeeChanged(f"{payee.hex()} asks now", payee=payee.hex())


def is_private(call: OutgoingCall) -> bool:
    """Whether nobody between can read or change what is sent: https, this machine, or a name that is a key."""
    return not call.origin.startswith("http://") or matches(call.host, _HOME) or is_loopback(call.host)


def guards_for(call: OutgoingCall, limits: Limits) -> Guards:
    """What the purchase of a call must get past in the purse.

    This machine is many sellers, one at each port; any other host is one, or it would only have to change the port.
    """
    return Guards(
        seller=HOST + call.host,
        origin=call.origin if is_loopback(call.host) else "",
        approval_above=limits.approval_above,
        approval_for=limits.approval_for,
    )
