"""What is left of a call that was broken off from outside, such as by a limit of time or by Ctrl-C.

Only the purse can tell: what was held before paying stays held, and what was paid is found again by the same call.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from farebox.core.errors import PaidNotServed, PaymentUnresolved, PurchaseError, StoreUnavailable
from farebox.core.payment import DrawState
from farebox.core.ports import Purchase, Purse
from farebox.payer.purchase import digest_within
from farebox.payer.spending import allowance_here

WITHIN: Final = timedelta(minutes=3)  # a call of a model's, where it is not said how long it may take as a whole


def broken_off(
    purse: Purse, digest: bytes | None, *, why: str, is_of_it: Callable[[Purchase], bool] = lambda _: True
) -> PurchaseError | None:
    """What is paid or held of the call, as an error to be told; None when nothing is. Blocking.

    digest: of the request, made within the allowance that holds here; None where it is not known. why: what broke it
    off, such as `stopped`.
    is_of_it: whether an unfinished purchase may be of this call.
    """
    try:
        of_purse = None if digest is None else digest_within(digest, allowance_here().account)
        unfinished = [purchase for purchase in purse.unfinished(of_purse) if is_of_it(purchase)]
    except StoreUnavailable:
        return PaymentUnresolved(f"{why}, and the purse can't be read just now; the payment may still go through")
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
