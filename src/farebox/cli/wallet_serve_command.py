"""`farebox wallet serve`: its options."""

from __future__ import annotations

from typing import Annotated

import typer

from farebox.cli.options import (
    ApprovalWait,
    ApproveAbove,
    BudgetText,
    MostOfEach,
    State,
    WalletUrl,
    Zone,
    folder,
    given_token,
)
from farebox.cli.output import errors_told


def serve_wallet(
    http: Annotated[
        str | None,
        typer.Option(help="Serve over HTTP at host:port, such as 127.0.0.1:8404. (default: over standard input)"),
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(help="With --http: what others call it, where it is not only for this machine.")
    ] = None,
    wallet: WalletUrl = None,
    budget: BudgetText = "500 sat/day",
    zone: Zone = None,
    most: MostOfEach = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FAREBOX_PURSE",
            help="Over standard input: the token of a purse, which narrows all that is bought.",
            show_default=False,
            callback=given_token,
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="A host or network that may be called though it is not public; may be repeated."
        ),
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Whatever this machine can reach may be called, itself included.")
    ] = False,
    approve_above: ApproveAbove = None,
    approval_wait_s: ApprovalWait = 0.0,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one HTTP exchange.")] = 120.0,
    state_dir: State = None,
) -> None:
    """An MCP server through which a model buys within a budget that it can't raise: fetch, price, budget, history."""
    with errors_told():
        from farebox.cli.wallet_serve import Wanted, serve

        serve(
            Wanted(
                http=http, public_url=public_url, budget=budget, time_zone=zone, most=most, token=token,
                allow=tuple(allow or ()), allow_private=allow_private, approve_above=approve_above,
                approval_wait_s=approval_wait_s, timeout_s=timeout_s,
            ),
            wallet_url=wallet,
            folder=folder(state_dir),
        )  # fmt: skip
