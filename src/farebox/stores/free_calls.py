"""The free tier's memory: who had how many free calls in the window that ends now.

Rules
1. A caller has as many slots as there are free calls in a window. Taking a slot is one conditional statement.
2. A caller is remembered as a keyed hash of its address, with a key that never leaves the file.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import timedelta
from typing import Final

from farebox.core.payment import FreeCall
from farebox.stores.engine import Operation, from_ms, span_in_ms
from farebox.stores.statements import statements

SQL: Final = statements("ledger")

_PURPOSE: Final = "free calls"
_SALT_BYTES: Final = 32


def take_free_call(client: str, *, limit: int, window: timedelta, now_ms: int) -> Operation[FreeCall]:
    """Take a slot where one is free, and say what is left either way."""
    frees_at_ms = now_ms + span_in_ms(window)
    bucket = hmac.digest((yield from _salt()), client.encode(), "sha256")
    asked = {"bucket": bucket, "now_ms": now_ms, "frees_at_ms": frees_at_ms}
    taken: dict[int, int] = dict((yield SQL["taken_slots"], asked))
    granted = False
    for slot in range(limit if len(taken) < limit else 0):
        if slot not in taken and (yield SQL["take_slot"], {**asked, "slot": slot}):
            granted = True
            break
    freeing = sorted(taken.values())
    if granted:
        freeing.append(frees_at_ms)
        yield SQL["forget_free_calls"], asked
    return FreeCall(
        granted=granted,
        limit=limit,
        remaining=max(0, limit - len(freeing)),
        resets_at=from_ms(_next_free_ms(freeing, limit, frees_at_ms)),
    )


def _next_free_ms(freeing: list[int], limit: int, never_ms: int) -> int:
    if not limit or not freeing:
        return never_ms
    return freeing[max(0, len(freeing) - limit)]  # a limit that was lowered waits for more than one slot to free


def _salt() -> Operation[bytes]:
    while not (rows := (yield SQL["find_salt"], {"purpose": _PURPOSE})):
        yield SQL["keep_salt"], {"purpose": _PURPOSE, "salt": secrets.token_bytes(_SALT_BYTES)}
    salt: bytes = rows[0][0]
    return salt
