"""Carry a RelayCall or a ListenCall: one question over relays, as a conversation yields it.

Rules
1. The reply is an HttpReply: 200 with the JSON of the verified event that answers.
2. Status 0 and not sent: no relay took the event, so nobody has seen it. Status 0 and sent: it may have been seen.
3. A call without an event only reads what relays keep: the newest of it, or 404 when those that answer have none.
4. What an event is believed for is decided here, once: `accepts`.
5. Whoever listens over relays of its own, for one call only, hears only what comes while it lasts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.core.conversation import HttpReply, ListenCall, RelayCall
from farebox.nostr.event import Event

if TYPE_CHECKING:
    from farebox.nostr.relay import BlockingRelays, Relays


def accepts(call: RelayCall | ListenCall, event: Event) -> bool:
    """Whether a verified event is an answer to a call."""
    if event.author != call.author or event.kind not in call.kinds:
        return False
    if isinstance(call, ListenCall):
        return call.addressed in event.tagged("p")
    return call.answers is None or call.answers in event.tagged("e")


def carry(call: RelayCall | ListenCall, relays: BlockingRelays | None = None) -> HttpReply:
    """The reply to a call, waiting for it; over relays that stay connected, or for this call only."""
    if relays is not None:
        return relays.ask(call)
    from farebox.nostr.relay import BlockingRelays

    with BlockingRelays() as own:
        return own.ask(call)


async def acarry(call: RelayCall | ListenCall, relays: Relays | None = None) -> HttpReply:
    """The reply to a call, awaiting it; over relays that stay connected, or for this call only."""
    if relays is not None:
        return await relays.ask(call)
    from farebox.nostr.relay import Relays

    async with Relays() as own:
        return await own.ask(call)
