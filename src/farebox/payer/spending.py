"""What narrows the calls of a piece of code, whichever library makes them.

    with farebox.spending(max="21 sat", tags=["research"]):
        client.get(url)

It holds for the block, in this thread or task and in the tasks that are begun in it. Blocks within one another narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, tzinfo
from typing import Final

from farebox.core.allowance import UNNARROWED, Allowance, host_patterns
from farebox.core.amount import Amount
from farebox.core.budget import TAG, Budget, label_of

_allowance: Final[ContextVar[Allowance]] = ContextVar("farebox_allowance", default=UNNARROWED)


@contextmanager
def spending(
    *,
    max: str | Amount | None = None,
    tags: str | Iterable[str] = (),
    hosts: str | Iterable[str] | None = None,
    budget: str | Budget | None = None,
    accept_price: str | Amount | None = None,
    accept_payee: bytes | None = None,
    zone: tzinfo = UTC,
) -> Iterator[None]:
    """What the calls in this block may spend, besides the budget.

    max: the highest price of one call, such as `21 sat`. tags: what they are counted under, such as `research`.
    hosts: patterns of the only ones that are paid. budget: more windows, such as `100 sat/day tagged research`.
    accept_price: a price that is fine though it is far above the last one; accept_payee: another node's public key.
    Raises MalformedAmount, MalformedBudget, and MalformedValue for a tag or a host.
    """
    more = Allowance(
        windows=() if budget is None else Budget.of(budget, zone).windows,
        labels=frozenset(label_of(TAG, tag) for tag in ((tags,) if isinstance(tags, str) else tags)),
        most=None if max is None else Amount.of(max),
        hosts=() if hosts is None else (host_patterns(hosts),),
        accepts=None if accept_price is None else Amount.of(accept_price),
        payee=accept_payee,
    )
    with spending_under(more):
        yield


@contextmanager
def spending_under(allowance: Allowance) -> Iterator[None]:
    """The same, for what a purse token came to."""
    before = _allowance.set(_allowance.get().narrowed(allowance))
    try:
        yield
    finally:
        _allowance.reset(before)


def allowance_here() -> Allowance:
    """What narrows a call that is made here and now."""
    return _allowance.get()
