"""The commands `farebox purse …`: parts of your budget for others; what they do is in `farebox.cli.sub_purses`."""

from __future__ import annotations

from typing import Annotated

import typer

from farebox.cli.options import Fields, Json, State, Zone, folder
from farebox.cli.output import errors_told

purse = typer.Typer(
    no_args_is_help=True, help="Sub-purses: a part of your budget and a token, for an agent that gets no wallet."
)


def _known_names() -> list[str]:
    from farebox.cli.sub_purses import known_names

    return known_names(folder(None))


Name = Annotated[str, typer.Argument(help="Lower-case letters, digits and -.", autocompletion=_known_names)]
LimitList = Annotated[list[str] | None, typer.Option("--limit", help="Such as '100 sat/day'; may be repeated.")]


@purse.command("add")
def add(name: Name, limit: LimitList = None, zone: Zone = None, as_json: Json = False, state_dir: State = None) -> None:
    """A sub-purse and its token; of one that is there already, the limits are replaced and the token stays."""
    with errors_told(as_json=as_json):
        from farebox.cli.sub_purses import add_purse

        add_purse(name, tuple(limit or ()), folder=folder(state_dir), zone=zone, as_json=as_json)


@purse.command("list")
def list_purses(fields: Fields = None, zone: Zone = None, as_json: Json = False, state_dir: State = None) -> None:
    """Every sub-purse and what it has left; never a token."""
    with errors_told(as_json=as_json):
        from farebox.cli.sub_purses import show_purses

        show_purses(folder=folder(state_dir), zone=zone, fields=fields, as_json=as_json)


@purse.command("show")
def show(
    name: Name,
    token: Annotated[
        bool, typer.Option("--token", help="Only the token, which whoever has it can spend with.")
    ] = False,
    zone: Zone = None,
    as_json: Json = False,
    state_dir: State = None,
) -> None:
    """What a sub-purse has left, or with --token its token."""
    with errors_told(as_json=as_json):
        from farebox.cli.sub_purses import show_purse

        show_purse(name, token=token, folder=folder(state_dir), zone=zone, as_json=as_json)


@purse.command("attenuate")
def attenuate(
    token: Annotated[str | None, typer.Argument(help="A token; left out, it is read from standard input.")] = None,
    limit: LimitList = None,
    host: Annotated[list[str] | None, typer.Option(help="Only these, such as *.example.com; may be repeated.")] = None,
    until: Annotated[
        str | None, typer.Option(help="A day to come such as 2026-12-24, or a span such as 12h or 7d.")
    ] = None,
    as_json: Json = False,
) -> None:
    """A token that may less, for somebody further on; made here, without asking anybody."""
    with errors_told(as_json=as_json):
        from farebox.cli.sub_purses import attenuate_token

        attenuate_token(token, limits=tuple(limit or ()), hosts=tuple(host or ()), until=until, as_json=as_json)


@purse.command("revoke")
def revoke(name: Name, zone: Zone = None, as_json: Json = False, state_dir: State = None) -> None:
    """Nothing more is spent with the tokens of this sub-purse."""
    with errors_told(as_json=as_json):
        from farebox.cli.sub_purses import revoke_purse

        revoke_purse(name, folder=folder(state_dir), zone=zone, as_json=as_json)


@purse.command("repair")
def repair(as_json: Json = False, state_dir: State = None) -> None:
    """After this machine's clock was ahead: what was spent then counts from now. Only when the clock is right again."""
    with errors_told(as_json=as_json):
        from farebox.cli.sub_purses import repair_purse

        repair_purse(folder=folder(state_dir), as_json=as_json)
