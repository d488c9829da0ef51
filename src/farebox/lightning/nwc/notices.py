"""Notices: what a wallet tells by itself that it received (NIP-47, Notification events).

Rules
1. A notice is believed for one thing, that its invoice is worth looking up: the look-up says whether it is paid.
2. A wallet tells once, and no relay keeps it. What was told while nobody listened, or could not be looked up, is found
   by whoever looks up open invoices. NIP-47 has a list too, `list_transactions`, but not every wallet has it, and some
   go by when an invoice was made and others by when it was paid: so it can't be read on from a cursor.
3. A wallet that reads both encryptions tells everything in both; it is looked up once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from farebox.core.errors import NodeUnavailable
from farebox.core.ports import Conversation, InvoiceState, InvoiceStatus
from farebox.core.settlement import Settlement
from farebox.lightning.nwc.connection import Connection, complaint

_MOST_AT_ONCE: Final = 5  # look-ups, so that what was found is told soon
_MOST_WAITING: Final = 200
_MOST_REMEMBERED: Final = 200


class Notices:
    """What one wallet told, and is not looked up yet."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: deque[bytes] = deque(maxlen=_MOST_WAITING)
        self._found: deque[bytes] = deque(maxlen=_MOST_REMEMBERED)

    def hear(
        self, look_up: Callable[[bytes], Conversation[InvoiceStatus]], *, wait: timedelta
    ) -> Conversation[tuple[Settlement, ...]]:
        """What a look-up calls paid of what the wallet tells. Raises NodeUnavailable when nobody can listen or look."""
        if not self._waiting:
            call = self._connection.listen(within=wait)
            reply = yield call
            if reply.status == 0:
                raise NodeUnavailable(complaint(reply))
            self._waiting += self._connection.read_notices(call, reply)
        settled: list[Settlement] = []
        for _ in range(min(_MOST_AT_ONCE, len(self._waiting))):
            payment_hash = self._waiting.popleft()
            if payment_hash in self._found:
                continue
            try:
                status = yield from look_up(payment_hash)
            except NodeUnavailable:
                if not settled:
                    raise
                break
            if status.state is InvoiceState.PAID:
                self._found.append(payment_hash)
                settled.append(Settlement(payment_hash=payment_hash, received=status.received))
        return tuple(settled)
