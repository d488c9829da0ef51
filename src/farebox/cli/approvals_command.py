"""The commands `farebox approvals …`; what they do is in `farebox.cli.approvals`."""

from __future__ import annotations

from typing import Annotated

import typer

from farebox.cli.options import Fields, Json, State, folder
from farebox.cli.output import errors_told

approvals = typer.Typer(
    no_args_is_help=True, help="Calls that cost more than may be spent without your word: list, approve, deny, watch."
)

Number = Annotated[int, typer.Argument(help="As `farebox approvals list` tells it.")]


@approvals.command("list")
def list_approvals(
    every: Annotated[bool, typer.Option("--all", help="Also the last ones that were decided, or ran out.")] = False,
    fields: Fields = None,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """The calls that wait for your word, the newest first."""
    with errors_told(as_json=as_json):
        from farebox.cli.approvals import show_approvals

        show_approvals(folder=folder(state_dir), every=every, fields=fields, as_json=as_json)


@approvals.command("approve")
def approve(number: Number, as_json: Json = False, state_dir: State = None) -> None:
    """Let this call be paid, once, at this price or a lower one."""
    with errors_told(as_json=as_json):
        from farebox.cli.approvals import decide

        decide(number, approved=True, folder=folder(state_dir), as_json=as_json)


@approvals.command("deny")
def deny(number: Number, as_json: Json = False, state_dir: State = None) -> None:
    """Let this call not be paid."""
    with errors_told(as_json=as_json):
        from farebox.cli.approvals import decide

        decide(number, approved=False, folder=folder(state_dir), as_json=as_json)


@approvals.command("watch")
def watch(as_json: Json = False, state_dir: State = None) -> None:
    """Tell each call that is parked as it comes, until Ctrl-C."""
    with errors_told(as_json=as_json):
        from farebox.cli.approvals import watch_approvals

        watch_approvals(folder=folder(state_dir), as_json=as_json)
