"""What one process keeps in mind to be quick; the ledger alone decides.

Rules
1. Forgetting any of it changes no answer. Everything is bounded.
2. Only what can't become wrong is kept: a proof with a preimage that was verified, until it runs out or the keys that
   verified it change; answers of payments that are spent, and what those were spent on, which never change; and that
   a client has no free call until an instant that the ledger named.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from farebox.core.client_prefix import subnet_of
from farebox.core.exchange import Credential, Wire
from farebox.core.payment import Answer, FreeCall, FreeScope
from farebox.core.secret import KeyRing, Keys
from farebox.gate.events import AnswerReplayed
from farebox.gate.terms import Replay

_MOST_PROOFS: Final = 4096
_MOST_RUN_OUT: Final = 16_384
_EVERYONE: Final = "everyone"  # no client's prefix
_MOST_ANSWER_BYTES: Final = 16 * 2**20
_OVERHEAD_BYTES: Final = 1024


class VerifiedProofs:
    """Proofs that were verified lately, by the exact text of their Authorization header.

    keys: what they are verified with; all are forgotten when a key is added or revoked. None for keys that stay.
    """

    def __init__(self, keys: Keys | None = None) -> None:
        self._kept: OrderedDict[str, tuple[Credential, datetime]] = OrderedDict()
        self._keys = keys
        self._ring: KeyRing | None = None

    def __contains__(self, authorization: str) -> bool:
        return authorization in self._kept

    def find(self, authorization: str, now: datetime) -> Credential | None:
        """The credential, while it is good."""
        if self._keys is not None and (ring := self._keys.ring()) is not self._ring:
            self._kept.clear()
            self._ring = ring
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

    def keep(self, payment_hash: bytes, digest: bytes, answer: Answer, receipt: Wire, resource: str = "") -> Replay:
        """Remember it, and forget the oldest when there is too much."""
        replay = Replay(answer=answer, receipt=receipt, replayed=AnswerReplayed(resource=resource, remembered=True))
        given = _Given(digest, replay, len(answer.body) + _OVERHEAD_BYTES)
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


class SpentProofs:
    """Proofs that were spent, and on which request: what they can't buy any more."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def bought_another(self, payment_hash: bytes, digest: bytes) -> bool:
        """Whether this payment is known to be spent on another request than this."""
        return self._kept.get(payment_hash, digest) != digest

    def keep(self, payment_hash: bytes, digest: bytes) -> None:
        """Remember it, and forget the oldest when there are too many."""
        self._kept[payment_hash] = digest
        if len(self._kept) > _MOST_PROOFS:
            self._kept.popitem(last=False)


class RunOut:
    """Whose free calls have run out until when, so that the ledger need not be asked again and again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, FreeCall] = OrderedDict()

    def find(self, client: str, now: datetime) -> FreeCall | None:
        """What the ledger said of this client, of its network or of everyone, while that is so."""
        for key in (client, subnet_of(client), _EVERYONE):
            call = None if key is None else self._kept.get(key)
            if call is not None and now < call.resets_at:
                return call
        return None

    def keep(self, client: str, call: FreeCall) -> None:
        """Remember a call that was not granted, and forget the oldest when there are too many."""
        subnet = subnet_of(client) or client
        keys = {FreeScope.CLIENT: client, FreeScope.SUBNET: subnet, FreeScope.EVERYONE: _EVERYONE}
        self._kept[keys[call.scope]] = call
        if len(self._kept) > _MOST_RUN_OUT:
            self._kept.popitem(last=False)
