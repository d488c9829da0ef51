"""The roof: the command line, the only room that reads files and the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["main"]


def main() -> None:
    """Run the `farebox` command."""
    _have_streams()
    from farebox.cli.app import app

    if sys.stderr.isatty():
        app()
    from typer import TyperException

    from farebox.cli.output import errors_told
    from farebox.core.errors import UsageError

    with errors_told():  # a program is told of a wrong option as of any other error, instead of in a box
        try:
            raise SystemExit(app(standalone_mode=False))
        except TyperException as error:
            if not (message := error.format_message()):  # the help was all that was to be said
                raise SystemExit(error.exit_code) from None
            raise UsageError(message) from None


def _have_streams() -> None:
    """Have all three standard streams, of which Python has none where one is closed."""
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - for as long as the program runs
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stdout is None:
        from farebox.cli.output import Exit, complain, complaint_of
        from farebox.core.errors import OperatorError

        told = "standard output is closed; send it to a file, or to /dev/null"
        complain(complaint_of(OperatorError(told), moved=False), as_json=False)
        raise SystemExit(Exit.FAILED)
