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
