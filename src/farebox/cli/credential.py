"""What the shop's node lets it do: a shop has to be paid, and must not be able to pay.

Rules
1. A credential that can spend is refused when the shop opens, unless the operator says that it is meant
   (reliability: 3.4, Node credential). Whoever breaks into a shop must not find a wallet there.
2. A node that does not answer keeps no shop closed: it is asked again until it does, and what it then says is told.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import structlog

from farebox.cli.output import tell
from farebox.core.errors import ConfigError
from farebox.core.ports import SpendProbe
from farebox.http.selling import Gate

ASK_AGAIN_AFTER: Final = timedelta(minutes=1)

log = structlog.get_logger("farebox")


async def check_credential(gate: Gate) -> bool:
    """Refuse a node's credential that can spend; whether the node has said. Raises ConfigError."""
    if not isinstance(gate.receiver, SpendProbe):  # the sandbox, which has no money
        return True
    match await gate.converse(gate.receiver.spends()):
        case True:
            raise ConfigError(
                f"the credential for {gate.receiver.name} can spend, and a shop need not: {gate.receiver.narrow}; "
                "or say --allow-spending-key if you mean it"
            )
        case False:
            return True
        case None:
            tell(
                f"warning: {gate.receiver.name} does not say whether its credential can spend; it is asked again",
                style="yellow",
            )
            return False


async def ask_again(gate: Gate, *, after: timedelta = ASK_AGAIN_AFTER) -> None:
    """Ask until the node says whether its credential can spend, and tell the operator if it can."""
    while isinstance(gate.receiver, SpendProbe):
        await asyncio.sleep(after.total_seconds())
        spends = await gate.converse(gate.receiver.spends())
        if spends is not None:
            if spends:
                log.error("credential-can-spend", node=gate.receiver.name, mend=gate.receiver.narrow)
            return
