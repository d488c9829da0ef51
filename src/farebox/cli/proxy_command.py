"""The command `farebox proxy`; what it does is in `farebox.cli.proxy`."""

from __future__ import annotations

from pathlib import Path
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
)
from farebox.cli.output import errors_told


def proxy(
    wallet: WalletUrl = None,
    purse: Annotated[str, typer.Option(help="The sub-purse that is spent from; made if it is not there.")] = "proxy",
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="Of that purse from now on, such as '100 sat/day'; may be repeated. (default: as it was, or --budget)"
        ),
    ] = None,
    budget: BudgetText = "500 sat/day",
    zone: Zone = None,
    most: MostOfEach = None,
    approve_above: ApproveAbove = None,
    approval_wait_s: ApprovalWait = 0.0,
    listen: Annotated[str, typer.Option(help="host:port.")] = "127.0.0.1:8403",
    public: Annotated[bool, typer.Option("--public", help="Yes, others than this machine may reach it.")] = False,
    authority: Annotated[
        bool, typer.Option("--ca", help="Pay for https through HTTPS_PROXY too, by an authority that callers trust.")
    ] = False,
    domains: Annotated[
        list[str] | None, typer.Option("--ca-for", help="The authority is for this domain alone; may be repeated.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="A private host or network that may be reached; may be repeated.")
    ] = None,
    allow_private: Annotated[bool, typer.Option("--allow-private", help="All of them may.")] = False,
    deny: Annotated[list[str] | None, typer.Option(help="A host, *.domain or network that may not be.")] = None,
    upstream_ca: Annotated[
        Path | None, typer.Option(help="Believe these authorities of servers too, a PEM file.")
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds that a server may be silent.")
    ] = 120.0,
    state: Annotated[
        Path | None, typer.Option("--state", help="Also write URL and token to this file, as JSON.")
    ] = None,
    log_level: Annotated[str, typer.Option(help="What is worth a line: debug, info, warning or error.")] = "info",
    state_dir: State = None,
) -> None:
    """A local proxy that pays: programs that go through it hold a token with a limit instead of a wallet."""
    with errors_told():
        from farebox.cli.proxy import Wanted, run_proxy

        wanted = Wanted(
            purse=purse, limit=", ".join(limit) if limit else None, budget=budget, time_zone=zone, most=most,
            approve_above=approve_above, approval_wait_s=approval_wait_s, listen=listen,
            public=public, authority=authority or bool(domains), domains=tuple(domains or ()), allow=tuple(allow or ()),
            allow_private=allow_private, deny=tuple(deny or ()), upstream_ca=upstream_ca, timeout_s=timeout_s,
            state_file=state,
        )  # fmt: skip
        run_proxy(wanted, wallet_url=wallet, folder=folder(state_dir), log_level=log_level)
