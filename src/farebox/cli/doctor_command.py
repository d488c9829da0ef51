"""The command `farebox doctor`; what it does is in `farebox.cli.doctor`."""

from __future__ import annotations

import typer

from farebox.cli.options import Json, ReceiverUrl
from farebox.cli.output import errors_told

doctor = typer.Typer(no_args_is_help=True, help="Find out what is wrong before a customer does.")


@doctor.callback()
def _doctor() -> None:
    """Find out what is wrong before a customer does."""


@doctor.command("node")
def doctor_node(receiver: ReceiverUrl = None, as_json: Json = False) -> None:
    """Whether nodes or wallets can be sold with: each makes one invoice and finds it again, and no money moves."""
    with errors_told(as_json=as_json):
        from farebox.cli.doctor import show_nodes
        from farebox.cli.environment import expanded
        from farebox.core.errors import MalformedValue
        from farebox.http.selling import opened_receivers

        if not receiver:
            raise MalformedValue("say which node: farebox doctor node --receiver URL, or FAREBOX_RECEIVER")
        try:
            urls = [expanded(each) for each in receiver]
        except ValueError as error:
            raise MalformedValue(str(error)) from None
        raise SystemExit(show_nodes(opened_receivers(urls), as_json=as_json))
