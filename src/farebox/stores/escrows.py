"""Escrows in the ledger: what a node holds for calls, until each has succeeded.

Rules
1. The answer waits sealed for its epoch: the first, for as long as there is an escrow nobody else can claim.
2. Taking the money in the books, the charge and the answer are one transaction, which ends the escrow.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable
from farebox.core.escrow import Escrow, EscrowState
from farebox.core.payment import Answer, Hold, Payment, PaymentState
from farebox.stores import moves
from farebox.stores.engine import Engine, Operation, rows_of, span_in_ms
from farebox.stores.rows import row_of_answer
from farebox.stores.statements import statements

if TYPE_CHECKING:
    from farebox.stores.sealing import Sealer

SQL: Final = statements("ledger")

_DUE: Final = b"escrows"
_OF_ANSWER: Final = 1
_NAME_BYTES: Final = 16


class EscrowStore:
    """The part of a core.ports.Ledger that is about escrows; see there for what each method promises."""

    engine: Engine
    _sealer: Sealer | None

    async def begin_escrow(self, payment_hash: bytes, *, digest: bytes, lease: timedelta) -> Escrow | None:
        """WAITING to RUNNING, once, for this request; None when it was not so."""

        def begin(now_ms: int) -> Operation[Escrow | None]:
            asked = {"payment_hash": payment_hash, "digest": digest, "lease_until_ms": now_ms + span_in_ms(lease)}
            for state, seed in (yield SQL["begin_escrow"], asked):
                return (yield from self._found(payment_hash, state, seed))
            return None

        return await self.engine.write(begin, about=payment_hash)

    async def find_escrow(self, payment_hash: bytes) -> EscrowState | None:
        """Where an escrow stands; None when there is none, or it has ended."""
        asked = {"payment_hash": payment_hash}
        rows = await self.engine.read(lambda _: rows_of(SQL["find_escrow"], asked))
        return EscrowState(rows[0][0]) if rows else None

    async def renew_escrow(self, payment_hash: bytes, *, lease: timedelta) -> bool:
        """Extend the lease of a running call; False when it is no longer its own."""

        def renew(now_ms: int) -> Operation[bool]:
            asked = {"payment_hash": payment_hash, "lease_until_ms": now_ms + span_in_ms(lease)}
            return bool((yield SQL["renew_escrow"], asked))

        return await self.engine.write(renew, about=payment_hash)

    async def keep_escrowed(self, payment_hash: bytes, answer: Answer, *, lease: timedelta) -> bool:
        """RUNNING to READY with the answer; False, with nothing done, when the money is on its way back."""
        kept = row_of_answer(answer, payment_hash, _OF_ANSWER, self._sealer)

        def keep(now_ms: int) -> Operation[bool]:
            asked = {"payment_hash": payment_hash, "lease_until_ms": now_ms + span_in_ms(lease), **kept}
            return bool((yield SQL["keep_escrowed"], asked))

        return await self.engine.write(keep, about=payment_hash)

    async def return_escrow(self, payment_hash: bytes, *, lease: timedelta) -> bool:
        """RUNNING to RETURNING, and its payment to EXPIRED; False when it was not running."""

        def give_back(now_ms: int) -> Operation[bool]:
            asked = {"payment_hash": payment_hash, "lease_until_ms": now_ms + span_in_ms(lease)}
            for (payment_id,) in (yield SQL["return_escrow"], asked):
                yield SQL["expire_escrowed"], {"payment_id": payment_id}
                return True
            return False

        return await self.engine.write(give_back, about=payment_hash, tells=True)

    async def take_due_escrows(self, *, lease: timedelta, most: int) -> Sequence[Escrow]:
        """Those whose lease ran out, the oldest first; what has no answer is RETURNING, and its payment EXPIRED."""

        due = await self.engine.read(lambda now_ms: rows_of(SQL["due_escrows"], {"now_ms": now_ms, "most": most}))
        if not due:
            return []

        def take(now_ms: int) -> Operation[list[Escrow]]:
            taken = []
            for payment_hash, payment_id in due:
                asked = {"payment_id": payment_id, "now_ms": now_ms, "lease_until_ms": now_ms + span_in_ms(lease)}
                for state, seed in (yield SQL["take_escrow"], asked):
                    if state == EscrowState.RETURNING:
                        yield SQL["expire_escrowed"], {"payment_id": payment_id}
                    taken.append((yield from self._found(payment_hash, state, seed)))
            return taken

        return await self.engine.write(take, about=_DUE)

    async def end_escrow(self, payment_hash: bytes, received: Amount | None) -> bool:
        """The node has said where the money is; False when it had ended."""
        name = secrets.token_bytes(_NAME_BYTES)
        return await self.engine.write(
            lambda now_ms: _end(payment_hash, received, name, now_ms), about=payment_hash, tells=True
        )

    def _found(self, payment_hash: bytes, state: str, seed: bytes) -> Operation[Escrow]:
        payment = yield from moves.find(payment_hash)
        if payment is None:
            raise StoreUnavailable("The ledger no longer knows the payment of this escrow.")
        return Escrow(payment=payment, state=EscrowState(state), seed=seed)


def _end(payment_hash: bytes, received: Amount | None, name: bytes, now_ms: int) -> Operation[bool]:
    ended = yield SQL["end_escrow"], {"payment_hash": payment_hash}
    for payment_id, state, status, headers_json, body in ended:
        if received is None:
            yield SQL["expire_escrowed"], {"payment_id": payment_id}
            return True
        yield from moves.settle(payment_hash, received, now_ms)
        if state == EscrowState.READY:
            answer = {"status": status, "headers_json": headers_json, "body": body}
            yield from _charge(payment_hash, answer, name, now_ms)
        return True
    return False


def _charge(payment_hash: bytes, answer: dict[str, object], name: bytes, now_ms: int) -> Operation[None]:
    """Claim what was just settled, and give its answer, unless a gateway that knows no escrows was before us."""
    payment = yield from moves.find(payment_hash)
    if payment is None or payment.state is not PaymentState.FUNDED:
        return
    claim = moves.Claim(
        payment_hash=payment_hash,
        name=name,
        digest=payment.digest,
        proven=False,
        lease=timedelta(seconds=1),
        most_attempts=1,
        rerun=False,
    )
    held = yield from moves.hold(claim, now_ms)
    if isinstance(held, Hold):
        yield from moves.capture(held, answer if held.epoch == _OF_ANSWER else None, name, now_ms)
    elif isinstance(held, Payment) and held.state is PaymentState.FUNDED:
        raise StoreUnavailable("Another call holds this payment; it is tried again.")
