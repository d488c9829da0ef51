"""The moves of core.payment as operations: each is one conditional statement, and what else belongs to it.

Rules
1. What belongs to a move (draw, entries, answer) follows in the same transaction, and only when the statement returned
   a row: the row says who won.
2. `held` among the accounts is what was received and neither earned nor owed yet: the open tabs. A payment's own `held`
   is the part of its tab that a running call has claimed.
3. When a tab is drained, what is left of it and less than a price is owed to its payer: credit.
4. An operation that was kept and is run again, because nobody could tell, says what it said the first time: the draw
   has the random name of the claim that won it, and then of the capture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable
from farebox.core.payment import Balance, DrawState, Hold, Payment, PaymentState
from farebox.stores.engine import Operation, from_ms, in_ms, span_in_ms
from farebox.stores.rows import payment_of, row_of
from farebox.stores.statements import statements

SQL: Final = statements("ledger")

NOBODY_CAME: Final = timedelta(seconds=30)  # after the end of its invoice, what is held goes back

Account = Literal["received", "held", "earned", "credit", "refunded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a caller asks for when it shows a proof; the fields are those of `Ledger.hold`. name: random, its own."""

    payment_hash: bytes
    name: bytes
    digest: bytes
    proven: bool
    lease: timedelta
    most_attempts: int
    rerun: bool


def find(payment_hash: bytes) -> Operation[Payment | None]:
    """The row of a payment, as it stands."""
    rows = yield SQL["find_payment"], {"payment_hash": payment_hash}
    return payment_of(rows[0]) if rows else None


def open_payment(
    payment: Payment, most: int | None, most_of_subnet: int | None, now_ms: int, seed: bytes | None = None
) -> Operation[bool]:
    """Remember a new invoice; False, with nothing done, when its client or the network around it has as many unpaid.

    seed: of one that is held in escrow. Raises StoreUnavailable when its hash is another one's.
    """
    new = row_of(payment)
    if most is not None or most_of_subnet is not None:
        [(of_client, of_subnet)] = yield SQL["count_unpaid_of"], {**new, "now_ms": now_ms}
        if not _less(of_client, most) or not _less(of_subnet, most_of_subnet):
            return False
    if not (yield SQL["open_payment"], new):
        raise StoreUnavailable("The node made two invoices with one payment hash.")
    if seed is not None:
        until_ms = in_ms(payment.expires_at + NOBODY_CAME)
        escrow = {"payment_hash": payment.payment_hash, "seed": seed, "lease_until_ms": until_ms}
        yield SQL["open_escrow"], escrow
    return True


def _less(count: int, most: int | None) -> bool:
    return most is None or count < most


def settle(payment_hash: bytes, received: Amount, now_ms: int) -> Operation[bool]:
    """OPEN or EXPIRED to FUNDED; False when it was not so, or less than the price was received."""
    settled = yield (
        SQL["settle"],
        {"payment_hash": payment_hash, "received_msat": received.msat, "now_ms": now_ms},
    )
    for payment_id, received_msat in settled:
        yield from _enter_received(payment_id, received_msat, now_ms)
    return bool(settled)


def hold(claim: Claim, now_ms: int) -> Operation[Hold | Payment | None]:
    """Claim the price of one call; the row as it stands where that was not won."""
    until_ms = now_ms + span_in_ms(claim.lease)
    asked: Mapping[str, object] = {
        "payment_hash": claim.payment_hash,
        "digest": claim.digest,
        "now_ms": now_ms,
        "lease_until_ms": until_ms,
        "most_attempts": claim.most_attempts,
        "rerun": claim.rerun,
        "claim": claim.name,
    }
    won = yield SQL["claim_proven" if claim.proven else "claim"], asked
    if not won:
        return (yield from _not_won(claim, asked, now_ms))
    payment_id, epoch, attempt, amount_msat, received_msat = won[0]
    if epoch > 1:
        yield from end_draw(payment_id, epoch - 1, DrawState.RELEASED, now_ms)
    elif claim.proven:
        yield from _enter_received(payment_id, received_msat, now_ms)
    draw = {"payment_id": payment_id, "epoch": epoch, "amount_msat": amount_msat, "now_ms": now_ms, "claim": claim.name}
    yield SQL["hold_draw"], draw
    return _held(claim, epoch, attempt, amount_msat, until_ms)


def _held(claim: Claim, epoch: int, attempt: int, amount_msat: int, until_ms: int) -> Hold:
    return Hold(
        payment_hash=claim.payment_hash,
        digest=claim.digest,
        epoch=epoch,
        attempt=attempt,
        amount=Amount(amount_msat),
        lease_until=from_ms(until_ms),
    )


def _not_won(claim: Claim, asked: Mapping[str, object], now_ms: int) -> Operation[Hold | Payment | None]:
    for epoch, attempt, amount_msat in (yield SQL["own_claim"], asked):
        return _held(claim, epoch, attempt, amount_msat, now_ms + span_in_ms(claim.lease))
    if claim.proven:
        for payment_id, received_msat in (yield SQL["settle_proven"], asked):
            yield from _enter_received(payment_id, received_msat, now_ms)
    for payment_id, epoch, owed_msat in (yield SQL["give_up_exhausted"], asked):
        yield from end_draw(payment_id, epoch, DrawState.RELEASED, now_ms)
        yield from enter(payment_id, epoch, "held", "credit", owed_msat, now_ms)
    return (yield from find(claim.payment_hash))


def renew(hold: Hold, lease: timedelta, now_ms: int) -> Operation[bool]:
    """Extend a lease; False when the hold is no longer its holder's."""
    until_ms = now_ms + span_in_ms(lease)
    asked = {"payment_hash": hold.payment_hash, "epoch": hold.epoch, "lease_until_ms": until_ms}
    return bool((yield SQL["renew"], asked))


def capture(hold: Hold, answer: Mapping[str, object] | None, name: bytes, now_ms: int) -> Operation[bool]:
    """Charge and keep the answer; False, with nothing done, when the hold is no longer its holder's.

    name: random, this capture's own.
    """
    asked = {"payment_hash": hold.payment_hash, "epoch": hold.epoch, "claim": name}
    drawn = yield SQL["capture"], asked
    if not drawn:
        return bool((yield SQL["own_capture"], asked))
    payment_id, state, left_msat = drawn[0]
    yield SQL["capture_draw"], {"payment_id": payment_id, "epoch": hold.epoch, "claim": name, "now_ms": now_ms}
    if answer is not None:
        kept = {"payment_id": payment_id, "epoch": hold.epoch, "now_ms": now_ms, **answer}
        yield SQL["keep_answer"], kept
    yield from enter(payment_id, hold.epoch, "held", "earned", hold.amount.msat, now_ms)
    if left_msat and state == PaymentState.SPENT:
        yield from enter(payment_id, hold.epoch, "held", "credit", left_msat, now_ms)
    return True


def release(hold: Hold, most_attempts: int, ran: bool, now_ms: int) -> Operation[Payment]:  # noqa: FBT001 - as in SQL
    """Give the amount back to the tab, or to its payer after the last attempt; the row as it then stands."""
    asked = {"payment_hash": hold.payment_hash, "epoch": hold.epoch, "most_attempts": most_attempts, "ran": ran}
    released = yield SQL["release"], asked
    for payment_id, state, left_msat in released:
        yield from end_draw(payment_id, hold.epoch, DrawState.RELEASED, now_ms)
        if state == PaymentState.CREDIT:
            yield from enter(payment_id, hold.epoch, "held", "credit", left_msat, now_ms)
    payment = yield from find(hold.payment_hash)
    if payment is None:
        raise StoreUnavailable("The ledger no longer knows the payment of this hold.")
    return payment


def balance() -> Operation[Balance]:
    """The books: what came in by the payments, where it went by the entries."""
    [(received_msat,)] = yield SQL["received"], {}
    accounts: dict[str, int] = dict((yield SQL["accounts"], {}))
    return Balance(
        received=Amount(received_msat),
        earned=Amount(accounts.get("earned", 0)),
        held=Amount(accounts.get("held", 0)),
        credit=Amount(accounts.get("credit", 0)),
        refunded=Amount(accounts.get("refunded", 0)),
    )


def end_draw(payment_id: int, epoch: int, state: DrawState, now_ms: int) -> Operation[None]:
    """End the draw of this epoch, if it is held."""
    yield SQL["end_draw"], {"payment_id": payment_id, "epoch": epoch, "state": state.value, "now_ms": now_ms}


def _enter_received(payment_id: int, received_msat: int, now_ms: int) -> Operation[None]:
    yield SQL["enter_received"], {"payment_id": payment_id, "received_msat": received_msat, "now_ms": now_ms}


def enter(
    payment_id: int, epoch: int, source: Account, target: Account, amount_msat: int, now_ms: int
) -> Operation[None]:
    """Take an amount from one account of a payment and give it to another; once for each epoch."""
    entry = {
        "payment_id": payment_id,
        "epoch": epoch,
        "from_account": source,
        "to_account": target,
        "amount_msat": amount_msat,
        "now_ms": now_ms,
    }
    yield SQL["enter"], entry
