"""Options that most commands have."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="JSON even on a terminal.")]
State = Annotated[
    Path | None,
    typer.Option("--state-dir", envvar="FAREBOX_STATE", help="Where farebox keeps things for you.", show_default=False),
]


def folder(chosen: Path | None) -> Path:
    """The state folder that was named, or a person's own. Raises UsageError."""
    from farebox.cli.output import as_usage
    from farebox.cli.state import state_dir

    with as_usage():
        return state_dir(chosen)


ReceiverUrl = Annotated[
    list[str] | None,
    typer.Option(
        envvar="FAREBOX_RECEIVER",
        help="The node or wallet that is paid, such as phoenixd+http://:PASSWORD@127.0.0.1:9740; "
        "or '$NAME' for what the environment has, where `ps` does not show it. Several, the preferred one first, where "
        "the next stands in for one that is away.",
        show_default=False,
    ),
]

WalletUrl = Annotated[
    str | None,
    typer.Option(
        envvar="FAREBOX_WALLET",
        help="What pays, such as phoenixd+http://:PASSWORD@127.0.0.1:9740. (default: a running sandbox's)",
        show_default=False,
    ),
]


def given_token(given: str | None) -> str | None:
    """A token, as it was given. Raises BadParameter for an empty one: without one all of the budget is spent from."""
    if given == "" or (given is None and os.environ.get("FAREBOX_PURSE") == ""):
        raise typer.BadParameter("the token is empty; unset FAREBOX_PURSE to buy without one")
    return given


BudgetText = Annotated[
    str, typer.Option(envvar="FAREBOX_BUDGET", help="Over all your calls, such as '500 sat/day, 50 sat/call'.")
]
MostOfEach = Annotated[str | None, typer.Option("--max", help="The most one call may cost, such as 21sat.")]

Zone = Annotated[
    str | None,
    typer.Option(
        "--time-zone",
        envvar="FAREBOX_TIME_ZONE",
        help="Where a calendar's day begins, such as Europe/Paris. (default: this machine's)",
        show_default=False,
    ),
]

Fields = Annotated[str | None, typer.Option("--fields", help="Only these, such as amount_msat,url.", metavar="A,B")]

ApproveAbove = Annotated[
    str | None,
    typer.Option(envvar="FAREBOX_APPROVE_ABOVE", help="What costs more waits for `farebox approvals`, such as 100sat."),
]
ApprovalWait = Annotated[
    float, typer.Option("--wait-for-approval", min=0, help="Seconds to wait for it, instead of refusing the call.")
]


class Prefer(StrEnum):
    """How to pay, where one price can be paid in several ways."""

    L402 = "l402"
    PAYMENT = "payment"
    X402 = "x402"
    HASH = "hash"

    @property
    def dialect(self) -> str:
        """The name of the dialect."""
        return {"l402": "L402", "payment": "Payment", "x402": "x402", "hash": "payment_hash"}[self]


class PurchaseState(StrEnum):
    """Where a purchase stands."""

    HELD = "held"  # nobody can tell yet whether it was paid
    CAPTURED = "captured"
    RELEASED = "released"  # certainly not paid
    UNSERVED = "unserved"  # paid, and the answer did not come
