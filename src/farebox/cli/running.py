"""Runs a shop in this process until a signal ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from farebox.cli.config import Config
from farebox.cli.logs import configure


def _loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def run_until_signal(
    config: Config, *, folder: Path, state_file: Path | None = None, log_level: str = "info", announce: bool = True
) -> None:
    """Serve a shop. Raises ConfigError, WalletError."""
    from farebox.cli.serve import run

    configure(log_level)
    with asyncio.Runner(loop_factory=_loop()) as runner:
        runner.run(run(config, folder=folder, state_file=state_file, announce=announce))
