"""Runs a shop, in this process or in several, until a signal ends it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from farebox.cli.config import Config, Source
from farebox.cli.logs import configure, log_what_nobody_catches
from farebox.cli.output import tell
from farebox.core.errors import ConfigError


def event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop of a process that answers calls; None for the standard one."""
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def warn_of_visible_secrets(config: Config, arguments: Sequence[str]) -> None:
    """A line when a password or key of the shop stands among the arguments of this process, where `ps` shows it."""
    if any(secret.reveal() in argument for argument in arguments for secret in config.secrets):
        tell(
            "warning: everyone on this machine can read a password on the command line (ps); put it into the "
            "environment, or name a variable of yours in its place: --receiver '$MY_NODE'",
            style="yellow",
        )


def run_until_signal(
    config: Config, *, folder: Path, state_file: Path | None = None, log_level: str = "info", announce: bool = True
) -> None:
    """Serve a shop. Raises ConfigError, WalletError."""
    from farebox.cli.serve import run

    configure(log_level, known=config.secrets)
    warn_of_visible_secrets(config, sys.argv[1:])
    log_what_nobody_catches()
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        runner.run(run(config, folder=folder, state_file=state_file, announced=announce))


def supervise_until_signal(
    config: Config, source: Source, *, folder: Path, state_file: Path | None, log_level: str, sandbox_allowed: bool
) -> None:
    """Serve a shop with several processes, which this one starts. Raises OperatorError."""
    if os.name != "posix":
        raise ConfigError("workers share sockets, which this system can't; serve without --workers")
    from farebox.cli.workers import Plan, supervise

    configure(log_level, known=config.secrets)
    warn_of_visible_secrets(config, sys.argv[1:])
    log_what_nobody_catches()
    plan = Plan(
        source=source, folder=folder, state_file=state_file, log_level=log_level, sandbox_allowed=sandbox_allowed
    )
    asyncio.run(supervise(plan, config))
