"""Options that most commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="JSON even on a terminal.")]
State = Annotated[
    Path | None,
    typer.Option("--state-dir", envvar="FAREBOX_STATE", help="Where farebox keeps things for you.", show_default=False),
]


def folder(chosen: Path | None) -> Path:
    """The state folder that was named, or a person's own."""
    from farebox.cli.state import state_dir

    return chosen or state_dir()


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
