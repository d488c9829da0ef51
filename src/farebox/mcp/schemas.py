"""The structured content of the wallet's tools. Nothing in it is required, because an error has other members."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from farebox.mcp.told import WindowLeft


class Problem(TypedDict, total=False):
    """What an error tells, in the structured content of a result that is one."""

    type: str
    title: str
    detail: str | None
    money_moved: bool | None
    next_step: str


class Fetched(Problem, total=False):
    """An answer and what it cost. Of `json`, `text` and `base64` there is one at most.

    kept: the seller refuses the call and keeps what was paid for it; exactly the same call pays nothing anew.
    """

    status: int | None
    headers: dict[str, str]
    size: int
    truncated: bool
    json: Any
    text: str
    base64: str
    paid_msat: int
    fee_msat: int
    payment_hash: str | None
    replayed: bool
    reused: bool
    kept: bool
    budget: list[WindowLeft]


class Priced(Problem, total=False):
    """What a call costs now, and whether it would be paid."""

    free: bool
    price_msat: int
    fee_limit_msat: int
    payee: str
    network: str
    dialect: str
    expires: str
    last_price_msat: int | None
    fits: bool
    budget: list[WindowLeft]


class BudgetTold(Problem, total=False):
    """Every window of the budget; the least that is left is what may be spent."""

    budget: list[WindowLeft]
    most_per_call_msat: int | None


class PurchaseTold(TypedDict):
    """One purchase."""

    when: str | None
    url: str
    paid_msat: int
    fee_msat: int
    state: str
    served: bool
    payment_hash: str


class History(Problem, total=False):
    """The newest purchases first."""

    purchases: list[PurchaseTold]
