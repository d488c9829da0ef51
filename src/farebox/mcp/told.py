"""What a model is told: an error it can act on, and what is left of a budget.

Rules
1. An error says what happened, whether money moved, what to do next, and what is left.
2. Nothing that a model can do raises a limit, so it is never told to.
3. No text of a seller's stands in an error but what the payer put there, and that is cut short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from mcp_types import CallToolResult, TextContent
from typing_extensions import TypedDict

from farebox.core.allowance import Allowance
from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.errors import (
    ApprovalNeeded,
    FareboxError,
    HostRefused,
    OriginInsecure,
    OverBudget,
    PayeeChanged,
    PriceJumped,
    PurchaseError,
)

_MOST_DETAIL: Final = 500
_MONEY: Final[Mapping[object, str]] = {
    True: "Money moved: this call was paid.",
    False: "No money moved.",
    None: "Nobody can tell yet whether money moved; the amount counts as spent until it is known.",
}
_FOR_A_PERSON: Final = (HostRefused, OriginInsecure, PayeeChanged, PriceJumped)
_OVER_BUDGET: Final = "Nothing you can call raises a limit. Wait, do without, or ask the person who set it."
_UNCHANGEABLE: Final = "Nothing you can call changes that. Do without, or ask the person who set it up."
_APPROVAL: Final = "Tell the person who set it up. When they have approved it, make exactly the same call again."


class Left(Protocol):
    """Where a window stands: `farebox.Buyer.left` tells it."""

    @property
    def window(self) -> Window:
        """The limit."""

    @property
    def spent(self) -> Amount:
        """What counts against it now."""

    @property
    def left(self) -> Amount:
        """What may still be spent."""

    @property
    def ends(self) -> datetime | None:
        """When a calendar's begins anew."""


class KnowsLimits(Protocol):
    """What is needed of a `farebox.Buyer`."""

    def left(self, allowance: Allowance) -> Sequence[Left]:
        """What every window has left, of the budget and of this allowance. Blocking; raises StoreUnavailable."""


class WindowLeft(TypedDict):
    """One limit of a budget, in millisatoshis, with what counts as spent in it now and what is left.

    ends: when a calendar's begins anew; None for one that rolls.
    """

    window: str
    limit_msat: int
    spent_msat: int
    left_msat: int
    ends: str | None


def windows_left(buyer: KnowsLimits, allowance: Allowance) -> list[WindowLeft]:
    """Where each window stands now. Blocking; raises StoreUnavailable."""
    return [
        WindowLeft(
            window=str(each.window),
            limit_msat=each.window.limit.msat,
            spent_msat=each.spent.msat,
            left_msat=each.left.msat,
            ends=each.ends.isoformat(timespec="seconds") if each.ends else None,
        )
        for each in buyer.left(allowance)
    ]


def error_result(error: FareboxError, left: Sequence[WindowLeft] = ()) -> CallToolResult:
    """An error as the result of a tool: a text for the model, and the same as structured content."""
    if not isinstance(error, PurchaseError):
        return nothing_paid(error.type, error.title, error.detail, left)
    return _result({**error.as_json(), "next_step": next_step(error)}, left)


def next_step(error: PurchaseError) -> str:
    """What a model can do about it."""
    match error:
        case OverBudget():
            return _OVER_BUDGET
        case ApprovalNeeded():
            return _APPROVAL
        case _ if isinstance(error, _FOR_A_PERSON):
            return _UNCHANGEABLE
    return error.next_step


def nothing_paid(kind: str, title: str, detail: str | None, left: Sequence[WindowLeft] = ()) -> CallToolResult:
    """Something that went wrong before anything was to be paid."""
    return _result({"type": kind, "title": title, "detail": detail, "money_moved": False}, left)


def _result(told: dict[str, object], left: Sequence[WindowLeft]) -> CallToolResult:
    if isinstance(told["detail"], str):
        told["detail"] = told["detail"][:_MOST_DETAIL]
    lines = [
        f"{told['title']}: {told['detail']}" if told["detail"] else f"{told['title']}.",
        _MONEY[told["money_moved"]],
    ]
    if payment_hash := told.get("payment_hash"):
        lines.append(f"The payment is {payment_hash}.")
    if step := told.get("next_step"):
        lines.append(f"Next: {step}")
    if left:
        told["budget"] = list(left)
        lines.append(told_left(left))
    return CallToolResult(
        content=[TextContent(type="text", text="\n".join(lines))], structured_content=told, is_error=True
    )


def told_left(left: Sequence[WindowLeft]) -> str:
    """A line for a model: what is left of each window."""
    if not left:
        return "What is left in the budget can't be told."
    return "Left in the budget: " + "; ".join(f"{Amount(each['left_msat'])} of {each['window']}" for each in left) + "."
