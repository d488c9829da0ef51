"""The roof: the command line, the only room that reads files and the environment."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the `farebox` command."""
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
