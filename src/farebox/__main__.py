"""`python -m farebox` is the `farebox` command."""

from farebox.cli import main

main()
