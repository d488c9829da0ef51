"""Proofs: the proof of payment in a request, read in whichever dialect it is, and checked."""

from __future__ import annotations

from collections.abc import Sequence

from farebox.core.errors import MalformedCredential
from farebox.core.exchange import Credential, Wire
from farebox.core.ports import Clock, Dialect
from farebox.core.secret import Keys
from farebox.gate.memory import VerifiedProofs


class Proofs:
    """Reads and checks proofs with several dialects.

    headers, fields: what carries nothing but a proof, in any of them. keys: as of the gate.
    """

    def __init__(self, dialects: Sequence[Dialect], clock: Clock, keys: Keys | None) -> None:
        self._dialects = tuple(dialects)
        self._clock = clock
        self._verified = VerifiedProofs(keys)
        self.headers = frozenset().union(*(dialect.proof_headers for dialect in dialects))
        self.fields = frozenset().union(*(dialect.proof_fields for dialect in dialects))

    def read(self, wire: Wire) -> Credential | None:
        """The one proof of a request, found good. Raises MalformedCredential, CredentialRejected."""
        shown = wire.all("authorization")
        key = shown[0] if len(shown) == 1 and not wire.query and not wire.body else None
        if key is not None and key in self._verified and not any(name in self.headers for name, _ in wire.headers):
            kept = self.recall(key)
            if kept is not None:
                return kept
        found: list[tuple[Dialect, Credential]] = []
        for dialect in self._dialects:
            credential = dialect.read_credential(wire)
            if credential is not None:
                found.append((dialect, credential))
        if not found:
            return None
        if len({credential.payment_hash for _, credential in found}) > 1:
            raise MalformedCredential("two different payments are shown; show one")
        # The same payment shown in two ways is one proof: judged by the one that proves more.
        dialect, credential = max(found, key=lambda pair: pair[1].preimage is not None)
        valid_until = dialect.verify(credential, now=self._clock())
        if key is not None and credential.preimage is not None:
            self._verified.keep(key, credential, valid_until)
        return credential

    def recall(self, authorization: str) -> Credential | None:
        """What an Authorization value was lately found to prove, while it does."""
        return self._verified.find(authorization, self._clock())

    def shown_by(self, authorization: str) -> bool:
        """Whether an Authorization value is meant as a proof, good or not."""
        if authorization in self._verified:
            return True
        wire = Wire(headers=(("authorization", authorization),))
        try:
            return any(dialect.read_credential(wire) is not None for dialect in self._dialects)
        except MalformedCredential:
            return True
