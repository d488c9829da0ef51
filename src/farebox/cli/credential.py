"""What a shop's nodes let it do: a shop has to be paid, and must not be able to pay.

Rules
1. A credential that can spend is refused when the shop opens, unless the operator says that it is meant
   (reliability: 3.4, Node credential). Whoever breaks into a shop must not find a wallet there.
2. A node that does not answer keeps no shop closed: it is asked again until it does, and what it then says is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Protocol, TypeGuard

import structlog

from farebox.cli.output import tell
from farebox.core.errors import ConfigError
from farebox.core.ports import Receiver, SpendProbe
from farebox.http.selling import Gate

ASK_AGAIN_AFTER: Final = timedelta(minutes=1)

log = structlog.get_logger("farebox")


class _Probed(Receiver, SpendProbe, Protocol):
    """A receiver that can be asked whether its credential can spend."""


async def check_credentials(gate: Gate) -> Sequence[_Probed]:
    """Refuse a credential that can spend; the nodes that have not said, to be asked again. Raises ConfigError."""
    silent = []
    for receiver in gate.receivers:
        if not _is_probed(receiver):  # the sandbox, which has no money
            continue
        match await gate.converse(receiver.spends()):
            case True:
                raise ConfigError(
                    f"the credential for {receiver.name} can spend, and a shop need not: {receiver.narrow}; "
                    "or say --allow-spending-key if you mean it"
                )
            case None:
                tell(
                    f"warning: {receiver.name} does not say whether its credential can spend; it is asked again",
                    style="yellow",
                )
                silent.append(receiver)
    return silent


async def ask_again(gate: Gate, receiver: _Probed, *, after: timedelta = ASK_AGAIN_AFTER) -> None:
    """Ask until the node says whether its credential can spend, and tell the operator if it can."""
    spends = None
    while spends is None:
        await asyncio.sleep(after.total_seconds())
        spends = await gate.converse(receiver.spends())
    if spends:
        log.error("credential-can-spend", node=receiver.name, mend=receiver.narrow)


def _is_probed(receiver: Receiver) -> TypeGuard[_Probed]:
    return isinstance(receiver, SpendProbe)
