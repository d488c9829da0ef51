"""The command `farebox refund`; what it does is in `farebox.cli.refund`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farebox.cli.options import Json, State, folder
from farebox.cli.output import errors_told


def refund(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STORE] PAYMENT_HASH INVOICE",
            help="What is owed, and where it is to go; the store as for `farebox ledger`.",
            show_default=False,
        ),
    ] = None,
    wallet: Annotated[
        str | None,
        typer.Option(
            envvar="FAREBOX_REFUND_WALLET",
            help="What pays, such as phoenixd+http://:PASSWORD@127.0.0.1:9740. (default: a running sandbox's)",
            show_default=False,
        ),
    ] = None,
    owed: Annotated[bool, typer.Option("--list", help="What is owed to whom, and nothing else.")] = False,
    limit: Annotated[
        str | None, typer.Option("--fee-limit", help="For routing, such as 2sat. (default: 1 sat or 1 %)")
    ] = None,
    preimage: Annotated[
        str | None,
        typer.Option(help="What whoever asks has shown; nothing is paid if it is not the payment's.", metavar="HEX"),
    ] = None,
    same_wallet: Annotated[
        bool, typer.Option("--same-wallet", help="The wallet that it was begun with has another address now.")
    ] = False,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """Pay back what could not be delivered: an invoice of its payer, once. Made again, it never pays twice."""
    with errors_told(as_json=as_json, moved=None):
        from farebox.cli.refund import Wanted, read_words, refund_credit, show_credits
        from farebox.core.errors import MalformedValue

        store, named = read_words(words or ())
        if store is None and Path("farebox.toml").exists():
            store = "farebox.toml"
        place = folder(state_dir)
        if owed:
            show_credits(store, folder=place, as_json=as_json)
            return
        if named is None:
            raise MalformedValue("say what is refunded: farebox refund PAYMENT_HASH INVOICE, or --list")
        wanted = Wanted.read(*named, limit, preimage=preimage, same_wallet=same_wallet)
        raise SystemExit(refund_credit(wanted, store=store, wallet_url=wallet, folder=place, as_json=as_json))
