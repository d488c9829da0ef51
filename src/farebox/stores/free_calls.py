"""The free tier's memory: who had how many free calls in the window that ends now, and how many there were today.

Rules
1. A caller has as many slots as there are free calls in a window. Taking a slot is one conditional statement.
2. A day's calls are counted for the network around a caller and for everyone, each by one conditional statement, in the
   transaction that takes the slot. Whatever refuses last takes back what was counted before it.
3. A caller is remembered as a keyed hash of its address, with a key that never leaves the file.
4. Nothing is written for a call that is refused, as long as that can be seen before.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from farebox.core.client_prefix import subnet_of
from farebox.core.payment import FreeCall, FreeScope
from farebox.stores.engine import Operation, from_ms, span_in_ms
from farebox.stores.statements import statements

SQL: Final = statements("ledger")

_PURPOSE: Final = "free calls"
_SALT_BYTES: Final = 32
_DAY_MS: Final = span_in_ms(timedelta(days=1))
_MOST_FORGOTTEN: Final = 64
_EVERYONE: Final = b"everyone"  # as long as no keyed hash


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeLimits:
    """How many calls are free; the fields are those of `Ledger.take_free_call`."""

    calls: int
    window: timedelta
    calls_of_subnet: int | None = None
    calls_of_all: int | None = None


def take_free_call(client: str, limits: FreeLimits, now_ms: int) -> Operation[FreeCall]:
    """Take a slot where one is free and the day allows it, and say what is left either way."""
    frees_at_ms = now_ms + span_in_ms(limits.window)
    salt = yield from _salt()
    asked = {"bucket": _hashed(client, salt), "now_ms": now_ms, "frees_at_ms": frees_at_ms}
    taken: dict[int, int] = dict((yield SQL["taken_slots"], asked))
    freeing = sorted(taken.values())
    if len(taken) < limits.calls:
        day = now_ms // _DAY_MS
        totals = _totals(client, limits, salt)
        run_out = yield from _count(totals, day)
        if run_out is not None:
            return FreeCall(
                granted=False,
                limit=limits.calls,
                remaining=0,
                resets_at=from_ms((day + 1) * _DAY_MS),
                scope=run_out,
            )
        if (yield from _take_slot(asked, taken, limits.calls)):
            freeing.append(frees_at_ms)
            yield SQL["forget_free_calls"], {"now_ms": now_ms, "most": _MOST_FORGOTTEN}
            yield SQL["forget_free_totals"], {"day": day, "most": _MOST_FORGOTTEN}
            return _told(limits, freeing, frees_at_ms, granted=True)
        yield from _uncount(totals, day)
    return _told(limits, freeing, frees_at_ms, granted=False)


_Totals = tuple[tuple[FreeScope, bytes, int], ...]  # whose, its bucket, how many a day


def _totals(client: str, limits: FreeLimits, salt: bytes) -> _Totals:
    """What counts this call. Everyone's first: where transactions wait for each other, all wait in the same order."""
    totals = []
    if limits.calls_of_all is not None:
        totals.append((FreeScope.EVERYONE, _EVERYONE, limits.calls_of_all))
    subnet = subnet_of(client)
    if limits.calls_of_subnet is not None and subnet is not None:
        totals.append((FreeScope.SUBNET, _hashed(subnet, salt), limits.calls_of_subnet))
    return tuple(totals)


def _count(totals: _Totals, day: int) -> Operation[FreeScope | None]:
    """Count one call everywhere; where that is not possible nowhere, and whose calls have run out."""
    for scope, bucket, most in totals:
        counted = yield SQL["free_total"], {"bucket": bucket, "day": day}
        if most <= (counted[0][0] if counted else 0):
            return scope
    for at, (scope, bucket, most) in enumerate(totals):
        if not (yield SQL["count_free_call"], {"bucket": bucket, "day": day, "most": most}):
            yield from _uncount(totals[:at], day)
            return scope
    return None


def _uncount(totals: _Totals, day: int) -> Operation[None]:
    for _, bucket, _ in totals:
        yield SQL["uncount_free_call"], {"bucket": bucket, "day": day}


def _take_slot(asked: dict[str, object], taken: dict[int, int], calls: int) -> Operation[bool]:
    for slot in range(calls):
        if slot not in taken and (yield SQL["take_slot"], {**asked, "slot": slot}):
            return True
    return False


def _told(limits: FreeLimits, freeing: list[int], never_ms: int, *, granted: bool) -> FreeCall:
    return FreeCall(
        granted=granted,
        limit=limits.calls,
        remaining=max(0, limits.calls - len(freeing)),
        resets_at=from_ms(_next_free_ms(freeing, limits.calls, never_ms)),
    )


def _next_free_ms(freeing: list[int], limit: int, never_ms: int) -> int:
    if not limit or not freeing:
        return never_ms
    return freeing[max(0, len(freeing) - limit)]  # a limit that was lowered waits for more than one slot to free


def _hashed(prefix: str, salt: bytes) -> bytes:
    return hmac.digest(salt, prefix.encode(), "sha256")


def _salt() -> Operation[bytes]:
    while not (rows := (yield SQL["find_salt"], {"purpose": _PURPOSE})):
        yield SQL["keep_salt"], {"purpose": _PURPOSE, "salt": secrets.token_bytes(_SALT_BYTES)}
    salt: bytes = rows[0][0]
    return salt
