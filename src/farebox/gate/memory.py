"""What one process keeps in mind to be quick; the ledger alone decides.

Rules
1. Forgetting any of it changes no answer. Everything is bounded.
2. Only what can't become wrong is kept: a proof with a preimage that was verified, until it runs out, and answers of
   payments that are spent, which never change.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from farebox.core.exchange import Credential, Wire
from farebox.core.payment import Answer
from farebox.gate.terms import Replay

_MOST_PROOFS: Final = 4096
_MOST_ANSWER_BYTES: Final = 16 * 2**20
_OVERHEAD_BYTES: Final = 1024


class VerifiedProofs:
    """Proofs that were verified lately, by the exact text of their Authorization header."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Credential, datetime]] = OrderedDict()

    def __contains__(self, authorization: str) -> bool:
        return authorization in self._kept

    def find(self, authorization: str, now: datetime) -> Credential | None:
        """The credential, while it is good."""
        kept = self._kept.get(authorization)
        return kept[0] if kept is not None and now < kept[1] else None

    def keep(self, authorization: str, credential: Credential, valid_until: datetime) -> None:
        """Remember it, and forget the oldest when there are too many."""
        self._kept[authorization] = (credential, valid_until)
        if len(self._kept) > _MOST_PROOFS:
            self._kept.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Given:
    digest: bytes
    replay: Replay
    size: int


class GivenAnswers:
    """Answers that were given lately, by payment hash."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, _Given] = OrderedDict()
        self._bytes = 0

    def find(self, payment_hash: bytes, digest: bytes) -> Replay | None:
        """The answer, for the request that it was bought for."""
        kept = self._kept.get(payment_hash)
        return kept.replay if kept is not None and kept.digest == digest else None

    def keep(self, payment_hash: bytes, digest: bytes, answer: Answer, receipt: Wire) -> Replay:
        """Remember it, and forget the oldest when there is too much."""
        given = _Given(digest, Replay(answer=answer, receipt=receipt), len(answer.body) + _OVERHEAD_BYTES)
        if payment_hash not in self._kept:
            self._kept[payment_hash] = given
            self._bytes += given.size
        while self._bytes > _MOST_ANSWER_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].size
        return given.replay

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0


class Pace:
    """So many in any second, counted from the first; the rest is refused."""

    def __init__(self, *, per_second: int) -> None:
        self._most = per_second
        self._began: datetime | None = None
        self._count = 0

    def allows(self, now: datetime) -> bool:
        """Whether one more is within the pace."""
        if self._began is None or not self._began <= now < self._began + timedelta(seconds=1):
            self._began, self._count = now, 0
        self._count += 1
        return self._count <= self._most
