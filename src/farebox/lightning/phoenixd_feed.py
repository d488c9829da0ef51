"""phoenixd's websocket in front of the sandbox: it says what a node was paid, from when it was opened on.

Rules
1. A message has the members of phoenixd's. What was paid while nobody was connected is not said again.
2. It is opened with the password, as the API is; a browser, which can't, gives it as `Sec-WebSocket-Protocol`.
3. It ends when the sandbox's node can't be reached. The sandbox calls nobody, and another process may have been paid:
   so its book is looked at, all the time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from farebox.core.errors import NodeUnavailable
from farebox.core.ports import Conversation
from farebox.core.settlement import Settlements
from farebox.lightning.sandbox import SandboxNode
from farebox.lightning.sandbox.transfer import to_ms

T = TypeVar("T")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOOK_EVERY: Final = timedelta(milliseconds=50)
_NO_WAIT: Final = timedelta(0)
_END_OF_TIME: Final = datetime(9999, 1, 1, tzinfo=UTC)
_GOING_AWAY: Final = 1001


async def feed(node: SandboxNode, receive: Receive, send: Send) -> None:
    """Say what this node is paid, until whoever listens is gone."""
    await receive()  # `websocket.connect`
    await send({"type": "websocket.accept"})
    listener = asyncio.ensure_future(_gone(receive))
    try:
        cursor = _outcome(node.cursor_at(_END_OF_TIME))
        while not listener.done():
            told: Settlements = _outcome(node.settlements(cursor, wait=_NO_WAIT))
            for settlement in told.settled:
                await send({"type": "websocket.send", "text": _message(node, settlement.payment_hash)})
            cursor = told.cursor
            await asyncio.wait((listener,), timeout=0 if told.more else LOOK_EVERY.total_seconds())
    except NodeUnavailable:
        await send({"type": "websocket.close", "code": _GOING_AWAY})
    finally:
        listener.cancel()


async def refuse(receive: Receive, send: Send) -> None:
    """Open no websocket."""
    await receive()
    await send({"type": "websocket.close"})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


def _message(node: SandboxNode, payment_hash: bytes) -> str:
    receipt = node.find_receipt(payment_hash)
    said = {
        "type": "payment_received",
        "amountSat": 0 if receipt is None else receipt.sent.in_sats_floor(),
        "paymentHash": payment_hash.hex(),
        "timestamp": 0 if receipt is None or receipt.completed_at is None else to_ms(receipt.completed_at),
    }
    return json.dumps(said)


def _outcome(conversation: Conversation[T]) -> T:
    try:
        next(conversation)
    except StopIteration as end:
        outcome: T = end.value
        return outcome
    raise AssertionError("the sandbox asks nobody")
