"""What an operator is told when a shop opens, and what is written down for others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from farebox.catalog.price import Price
from farebox.catalog.routes import FREE
from farebox.cli.config import Config, Settle
from farebox.cli.output import tell
from farebox.cli.sandbox_api import Wallets
from farebox.cli.state import write_private
from farebox.core.ports import Capability, Receiver

log = structlog.get_logger("farebox")


def announce(config: Config, url: str, wallets: Wallets | None) -> None:
    """Lines for a person: what is sold where, at which price."""
    if wallets is not None:
        tell(
            "SANDBOX: no real money moves here. Set `receiver` (or --receiver) to your node to be paid.",
            style="bold red",
        )
    if config.public_url is None and (config.store or "").startswith("postgres"):
        tell(
            "warning: without `public_url` a payment is bound to the address that was called, so another gateway on "
            "this ledger takes it only under the same one",
            style="yellow",
        )
    for line in config.route:
        key = f"{line.method or ('POST' if line.upstream is None else 'any')} {url}{line.path}"
        price = line.price if line.price == FREE else str(Price.read(line.price))
        settled = ", on success" if line.settle is Settle.ON_SUCCESS and line.price != FREE else ""
        tell(f"  {key}  {price}{settled}", style="bold")
    tell(f"  prices at {url}/pricing; stop with Ctrl-C")
    log.info("serving", url=url, routes=len(config.route), sandbox=wallets is not None)


def write_state(file: Path, *, url: str, wallets: Wallets | None, store: str) -> None:
    """The URLs of an open shop, as JSON for its owner alone. Raises ConfigError."""
    state = {
        "shop": url,
        "buyer_wallet": wallets.buyer.reveal() if wallets else None,
        "seller_wallet": wallets.seller.reveal() if wallets else None,
        "refund_wallet": wallets.refunds.reveal() if wallets else None,
        "store": store,
    }
    write_private(file, json.dumps(state))


def warn_of_what_is_not_held(config: Config, receivers: Sequence[Receiver]) -> None:
    """A line for each node that can't hold what it is paid, where a route is to be paid on success."""
    routes = [line.path for line in config.route if line.settle is Settle.ON_SUCCESS]
    for receiver in receivers if routes else ():
        if Capability.HOLD not in receiver.capabilities:
            tell(
                f"warning: {receiver.name} can't hold what it is paid, so {', '.join(routes)} is paid first there "
                "(docs/pay-on-success.md)",
                style="yellow",
            )


async def warn_of_silent_upstreams(config: Config) -> None:
    """A line for each service that does not answer now; it may come up later, so the shop opens all the same."""
    for url in {line.upstream or line.openai for line in config.route} - {None}:
        parts = urlsplit(url or "")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(2):
                _, writer = await asyncio.open_connection(parts.hostname, port)
            writer.close()
        except (OSError, TimeoutError) as error:
            reason = "connection refused" if isinstance(error, ConnectionRefusedError) else type(error).__name__
            tell(
                f"warning: {parts.hostname}:{port} does not answer ({reason}); calls fail, unpaid, until it does",
                style="yellow",
            )
