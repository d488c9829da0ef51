"""Nostr: signed events, two ways to encrypt, and relays that carry them. It knows nothing of payment."""

from farebox.core.conversation import ListenCall, RelayCall
from farebox.nostr.event import Event, read_event, sign_event

__all__ = ["Event", "ListenCall", "RelayCall", "read_event", "sign_event"]
