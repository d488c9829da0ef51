"""The free tier's memory: who had how many free calls in the window that ends now.

Rules
1. A caller has as many slots as there are free calls in a window. Taking a slot is one conditional statement.
2. A caller is remembered as a keyed hash of its address, with a key that never leaves the file.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import datetime, timedelta
from typing import Final

from farebox.core.payment import FreeCall
from farebox.stores.engine import Connection, from_ms, in_ms
from farebox.stores.statements import statements

SQL: Final = statements("ledger")

_PURPOSE: Final = "free calls"
_SALT_BYTES: Final = 32


def take_free_call(tx: Connection, client: str, *, limit: int, window: timedelta, now: datetime) -> FreeCall:
    """Take a slot where one is free, and say what is left either way."""
    now_ms, frees_at_ms = in_ms(now), in_ms(now + window)
    bucket = hmac.digest(_salt(tx), client.encode(), "sha256")
    asked = {"bucket": bucket, "now_ms": now_ms, "frees_at_ms": frees_at_ms}
    taken: dict[int, int] = dict(tx.execute(SQL["taken_slots"], asked).fetchall())
    granted = len(taken) < limit and any(
        tx.execute(SQL["take_slot"], {**asked, "slot": slot}).fetchone() is not None
        for slot in range(limit)
        if slot not in taken
    )
    freeing = sorted(taken.values())
    if granted:
        freeing.append(frees_at_ms)
        tx.execute(SQL["forget_free_calls"], asked)
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


def _salt(tx: Connection) -> bytes:
    row = tx.execute(SQL["find_salt"], {"purpose": _PURPOSE}).fetchone()
    if row is None:
        tx.execute(SQL["keep_salt"], {"purpose": _PURPOSE, "salt": secrets.token_bytes(_SALT_BYTES)})
        return _salt(tx)
    salt: bytes = row[0]
    return salt
