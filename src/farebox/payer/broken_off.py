"""What is left of a call that was broken off from outside, such as by a limit of time or by Ctrl-C.

Only the purse can tell: what was held before paying stays held, and what was paid is found again by the same call.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Final

from farebox.core.errors import PaidNotServed, PaymentUnresolved, PurchaseError, StoreUnavailable
from farebox.core.payment import DrawState
from farebox.core.ports import Purse
from farebox.payer.purchase import digest_within
from farebox.payer.spending import allowance_here

WITHIN: Final = timedelta(minutes=3)  # a call of a model's, where it is not said how long it may take as a whole


def broken_off(purse: Purse, digest: bytes | None, *, why: str, blames_seller: bool = False) -> PurchaseError | None:
    """What is paid or held of the call, as an error to be told; None when nothing is. Blocking.

    digest: of the request, made within the allowance that holds here; of one that has none nothing was bought.
    why: what broke it off, such as `stopped`. blames_seller: whether the seller had its time, so that what is paid and
    not served by now counts as not delivered; not so where the caller went away.
    """
    if digest is None:
        return None
    try:
        unfinished = purse.unfinished(digest_within(digest, allowance_here().account))
    except StoreUnavailable:
        return PaymentUnresolved(f"{why}, and the purse can't be read just now; the payment may still go through")
    for purchase in unfinished if blames_seller else ():
        if purchase.state is DrawState.CAPTURED:
            with suppress(StoreUnavailable):  # what is told of it matters more than what is remembered
                purse.mark_undelivered(purchase.payment_hash)
    if not unfinished:
        return None
    held = [purchase for purchase in unfinished if purchase.state is DrawState.HELD]
    last = [*unfinished, *held][-1]  # of several, one of which nobody can tell yet
    evidence: dict[str, str | int] = {
        "origin": last.origin,
        "amount_msat": last.amount.msat,
        "payment_hash": last.payment_hash.hex(),
    }
    if held:
        return PaymentUnresolved(f"{why} while paying; the payment may still go through", **evidence)
    return PaidNotServed(f"{why} before the whole answer was here", **evidence)
