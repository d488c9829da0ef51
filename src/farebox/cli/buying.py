"""The buyer's commands `call`, `budget`, `history` and `resume`; what they do is in rooms of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farebox.cli.options import (
    ApprovalWait,
    ApproveAbove,
    BudgetText,
    Fields,
    Json,
    Prefer,
    PurchaseState,
    State,
    WalletUrl,
    Zone,
    folder,
    given_token,
)
from farebox.cli.output import errors_told

Data = Annotated[
    list[str] | None,
    typer.Option(
        "-d",
        "--data",
        help="The body, as it is; @FILE reads it from a file, @- from standard input. May be repeated: joined by `&`.",
    ),
]
Method = Annotated[str | None, typer.Option("-X", "--request", help="Default: GET, or POST with -d.")]
Headers = Annotated[list[str] | None, typer.Option("-H", "--header", help='"Name: value"; may be repeated.')]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Write the answer to a file; `FILE.part` until it is whole.", metavar="FILE"),
]
Resume = Annotated[
    bool,
    typer.Option(
        "-c", "--continue", help="With -o: go on with a download that broke off; nothing is paid anew for it."
    ),
]
Include = Annotated[bool, typer.Option("-i", "--include", help="Print the status line and headers as well.")]
Follow = Annotated[bool, typer.Option("-L", "--location", help="Follow redirects; only the origin named is paid.")]
Redirects = Annotated[int, typer.Option("--max-redirects", min=1, help="With -L.")]
Most = Annotated[str | None, typer.Option("--max", help="The most this call may cost, such as 21sat.")]
Preferred = Annotated[
    list[Prefer] | None, typer.Option(help="How to pay, at one price; may be repeated, the preferred one first.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Ask for the price, and pay nothing.")]
CallJson = Annotated[bool, typer.Option("--json", help="One JSON object: answer, price, receipt.")]
Quiet = Annotated[bool, typer.Option("-s", "--quiet", "--silent", help="Only what went wrong on standard error.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="The exchange on standard error, without its secrets.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds without a word from the server.")]
PaymentTimeout = Annotated[
    float, typer.Option("--payment-timeout", min=0, help="Seconds for a payment of which the wallet can't tell yet.")
]
MostFee = Annotated[str | None, typer.Option("--max-fee", help="The most for routing. (default: 1 sat or 1 %)")]
AcceptPrice = Annotated[
    str | None, typer.Option("--accept-price", help="A price that is fine, though it is far above the last one.")
]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="What it is counted under; may be repeated.")]
Token = Annotated[
    str | None,
    typer.Option(
        "--purse",
        envvar="FAREBOX_PURSE",
        help="The token of a sub-purse, which narrows it.",
        show_default=False,
        callback=given_token,
    ),
]
Limits = Annotated[str, typer.Argument(envvar="FAREBOX_BUDGET", help="Such as '500 sat/day, 50 sat/call'.")]


def call(
    url: Annotated[str, typer.Argument(help="What to call.")],
    data: Data = None,
    method: Method = None,
    header: Headers = None,
    output: Output = None,
    resume: Resume = False,
    include: Include = False,
    follow: Follow = False,
    max_redirects: Redirects = 10,
    wallet: WalletUrl = None,
    most: Most = None,
    budget: BudgetText = "500 sat/day",
    zone: Zone = None,
    max_fee: MostFee = None,
    accept_price: AcceptPrice = None,
    approve_above: ApproveAbove = None,
    approval_wait_s: ApprovalWait = 0.0,
    tag: Tags = None,
    purse: Token = None,
    prefer: Preferred = None,
    dry_run: DryRun = False,
    as_json: CallJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    timeout_s: Timeout = 120.0,
    payment_timeout_s: PaymentTimeout = 60.0,
    state_dir: State = None,
) -> None:
    """Call a URL and pay for it if it asks for money and your budget allows."""
    with errors_told(as_json=as_json):
        from farebox.cli.call import call_once
        from farebox.cli.call_request import Wanted
        from farebox.cli.dry_run import dry_run as ask_price

        wanted = Wanted(
            url=url,
            method=method,
            headers=tuple(header or ()),
            data=tuple(data or ()),
            output=None if output == Path("-") else output,
            resume=resume,
            include=include,
            most_redirects=max_redirects if follow else 0,
            most=most,
            budget=budget,
            time_zone=zone,
            most_fee=max_fee,
            accept_price=accept_price,
            approve_above=approve_above,
            approval_wait_s=approval_wait_s,
            tags=tuple(tag or ()),
            token=purse,
            prefer=tuple(prefer or ()),
            as_json=as_json,
            quiet=quiet, verbose=verbose,
            timeout_s=timeout_s, payment_timeout_s=payment_timeout_s,
        )  # fmt: skip
        raise SystemExit((ask_price if dry_run else call_once)(wanted, wallet_url=wallet, folder=folder(state_dir)))


def budget(
    limits: Limits = "500 sat/day",
    token: Token = None,
    zone: Zone = None,
    fields: Fields = None,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """What is spent and what is left of a budget and of each sub-purse, over all your calls."""
    with errors_told(as_json=as_json):
        from farebox.cli.buyer_books import show_budget

        show_budget(limits, folder=folder(state_dir), token=token, zone=zone, fields=fields, as_json=as_json)


def history(
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="So many of the newest purchases.")] = 20,
    host: Annotated[str | None, typer.Option(help="Only at this host.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only under this tag.")] = None,
    purse: Annotated[str | None, typer.Option(help="Only from this sub-purse.")] = None,
    state: Annotated[PurchaseState | None, typer.Option(help="Only those that stand so.")] = None,
    since: Annotated[str | None, typer.Option(help="A day such as 2026-11-01, or a span such as 12h or 7d.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values, for a table.")] = False,
    fields: Fields = None,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """What was bought, what it cost, and whether it was served."""
    with errors_told(as_json=as_json):
        from farebox.cli.buyer_books import Filter, show_history

        only = Filter.read(host=host, tag=tag, purse=purse, state=state, since=since)
        show_history(only, folder=folder(state_dir), limit=limit, as_csv=csv, fields=fields, as_json=as_json)


def resume(wallet: WalletUrl = None, as_json: Json = False, state_dir: State = None) -> None:
    """Look up every payment whose outcome is open, and tell what was paid and not served, and how to get it."""
    with errors_told(as_json=as_json):
        from farebox.cli.buyer_books import resume as look_up

        raise SystemExit(look_up(wallet, folder=folder(state_dir), as_json=as_json))
