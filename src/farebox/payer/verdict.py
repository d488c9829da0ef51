"""The verdict on what a seller answers to a proof: it served, the proof may be good in a moment, or it does not help.

Rules
1. An answer serves unless it says something else: 2xx, 3xx and the caller's own 4xx are what the money bought.
2. A 402 for the same payment means that the seller has not seen it arrive yet. For another payment it is a refusal.
3. A server's failure never serves; where asking again is right, it is asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from farebox.core.errors import MalformedValue
from farebox.core.exchange import Wire
from farebox.core.ports import Dialect
from farebox.payer.steps import Answered

_COME_AGAIN: Final = frozenset((408, 425, 429, 502, 503, 504))
_REFUSALS: Final = frozenset(
    ("credential-rejected", "malformed-credential", "request-mismatch")
)  # types of problems (core.errors) under whatever status
_MOST_DELAY_DIGITS: Final = 6
_FOR_EVER: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComeAgain:
    """The same proof may be good in a moment. `costly`: each try is one of few that the seller makes."""

    reason: str
    after: timedelta = timedelta(0)
    costly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The proof does not help.

    spent: because its answer was given before and is no longer kept. credit: because the seller can't deliver it.
    location: what was bought is a redirect, and this is where it leads, from where no answer is to be had for it.
    """

    reason: str
    status: int | None = None
    spent: bool = False
    credit: bool = False
    location: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether there is nothing more to ask for."""
        return self.spent or self.credit


def judge(
    answer: Answered, payment_hash: bytes, *, dialects: Sequence[Dialect], now: datetime
) -> ComeAgain | Refused | None:
    """What the answer to a proof means; None when it is the answer that was bought (reliability: Answer table)."""
    status, problem = answer.status, _problem(answer.wire)
    told = _retry_after(answer.wire, now)
    come_again = ComeAgain(
        reason=f"the seller answers {status}", after=told or timedelta(0), costly=problem == "upstream-failed"
    )
    match status:
        case 402:
            asked = _payments_asked_for(answer.wire, dialects)
            if payment_hash in asked or (not asked and told is not None):
                return come_again
            if answer.location is not None:
                return Refused(reason=f"{answer.location} costs by itself", status=status, location=answer.location)
            return Refused(reason="the seller has the money and asks for more", status=status)
        case 409 if told is not None or problem == "call-in-progress":
            return come_again
        case _ if status in _COME_AGAIN:
            return come_again
        case 401:
            return Refused(reason="the seller does not accept the proof", status=status)
        case _ if status >= 500:
            return Refused(reason="the server failed", status=status)
        case _ if problem == "answer-gone":
            return Refused(reason="the answer was given before and is no longer kept", status=status, spent=True)
        case _ if problem == "call-undeliverable":
            return Refused(reason="the call failed too often", status=status, credit=True)
        case _ if problem in _REFUSALS:
            return Refused(reason=f"the seller says {problem}", status=status)
    return None


def is_failure(status: int) -> bool:
    """Whether an answer of this status, whatever else it says, is none that anybody paid for."""
    return status in (401, 402) or status in _COME_AGAIN or status >= 500


def _payments_asked_for(told: Wire, dialects: Sequence[Dialect]) -> frozenset[bytes]:
    asked: set[bytes] = set()
    for dialect in dialects:
        with suppress(MalformedValue):
            asked.update(challenge.payment_hash for challenge in dialect.read_challenges(told))
    return frozenset(asked)


def _problem(wire: Wire) -> str:
    """The last word of a problem's type, such as `call-in-progress` (RFC 9457)."""
    kind = wire.body.get("type")
    return kind.replace(":", "/").rpartition("/")[2] if isinstance(kind, str) else ""


def _retry_after(wire: Wire, now: datetime) -> timedelta | None:
    """Seconds or a date (RFC 9110, 10.2.3); None when there is none that can be read."""
    text = next(iter(wire.all("retry-after")), "").strip()
    if text.isascii() and text.isdigit():
        return timedelta(seconds=int(text)) if len(text) <= _MOST_DELAY_DIGITS else _FOR_EVER
    try:
        at = parsedate_to_datetime(text)
        return min(max(at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC) - now, timedelta(0)), _FOR_EVER)
    except (ValueError, OverflowError):
        return None
