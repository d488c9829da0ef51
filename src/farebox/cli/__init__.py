"""The roof: the command line, the only room that reads files and the environment."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the `farebox` command."""
    from farebox.cli.app import app

    app()
