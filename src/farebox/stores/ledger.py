"""The seller's ledger: the moves of core.payment as transactions, on any engine.

Rules
1. A move is one conditional statement. What else belongs to it (draw, entries, answer) follows in the same transaction,
   and only when the statement returned a row.
2. `held` among the accounts is what was received and neither earned nor owed yet: the open tabs. A payment's own `held`
   is the part of its tab that a running call has claimed.
3. When a tab is drained, what is left of it and less than a price is owed to its payer: credit.
4. Nothing here can be shown as a proof of payment: no preimage, no token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, StoreUnavailable
from farebox.core.payment import (
    DRAW_MOVES,
    PAYMENT_MOVES,
    Answer,
    Balance,
    DrawState,
    FreeCall,
    Hold,
    Payment,
    PaymentState,
)
from farebox.core.ports import Clock
from farebox.stores.engine import Connection, Engine, edges, from_ms, in_ms, span_in_ms, utc_now
from farebox.stores.free_calls import take_free_call
from farebox.stores.rows import answer_of, payment_of, row_of, row_of_answer
from farebox.stores.sqlite import SqliteEngine
from farebox.stores.statements import statements

SQL: Final = statements("ledger")

KEEP_ANSWERS: Final = timedelta(days=1)
_MEMORY: Final = ":memory:"

Account = Literal["held", "earned", "credit", "refunded"]


def open_ledger(url: str, clock: Clock = utc_now, *, keep_answers: timedelta = KEEP_ANSWERS) -> SqlLedger:
    """The ledger at a URL, made and migrated as needed.

    `sqlite:///shop.db` is relative, `sqlite:////var/lib/shop.db` absolute, `sqlite::memory:` is gone when closed.
    keep_answers: how long an answer is kept to be given again.
    Raises ConfigError, in one line, for any other URL, a place that can't be written to, and a file that is not a
    ledger or is newer than this farebox; StoreUnavailable when other processes keep the file locked.
    """
    scheme, _, rest = url.partition(":")
    if scheme != "sqlite":
        raise ConfigError("a ledger is kept at a URL; for a file write sqlite:/// in front of its path")
    if rest == _MEMORY:
        path = None
    elif rest.startswith("///") and len(rest) > len("///"):
        path = Path(rest.removeprefix("///")).expanduser()
    else:
        raise ConfigError("A ledger in SQLite is sqlite:///relative/path, sqlite:////absolute/path or sqlite::memory:.")
    moves = {"payment_moves": edges(PAYMENT_MOVES), "draw_moves": edges(DRAW_MOVES)}
    return SqlLedger(SqliteEngine(path, room="ledger", moves=moves), clock, keep_answers=keep_answers)


class SqlLedger:
    """A core.ports.Ledger on an engine; see there for what each method promises."""

    def __init__(self, engine: Engine, clock: Clock, *, keep_answers: timedelta) -> None:
        self.engine = engine
        self._clock = clock
        self._keep_answers = keep_answers

    # --- opening and looking ------------------------------------------------------------------------------------------

    async def open_payment(self, payment: Payment) -> None:
        """Remember a new invoice; durable before the 402 leaves."""
        await self.engine.write(lambda tx: tx.execute(SQL["open_payment"], row_of(payment)).rowcount)

    async def reusable_payment(self, *, client: str, digest: bytes, price: Amount) -> Payment | None:
        """This caller's own unpaid invoice for the same request and price, with more than half its time left."""
        asked = {"client": client, "digest": digest, "price_msat": price.msat, "now_ms": in_ms(self._clock())}
        row = await self.engine.read(lambda tx: tx.execute(SQL["reusable_payment"], asked).fetchone())
        return None if row is None else payment_of(row)

    async def find_payment(self, payment_hash: bytes) -> Payment | None:
        """The row, as it stands."""
        return await self.engine.read(lambda tx: _find(tx, payment_hash))

    async def find_answer(self, payment_hash: bytes) -> Answer | None:
        """The kept answer; None when it is no longer, or never was, kept."""
        asked = {"payment_hash": payment_hash, "before_ms": in_ms(self._clock() - self._keep_answers)}
        row = await self.engine.read(lambda tx: tx.execute(SQL["find_answer"], asked).fetchone())
        return None if row is None else answer_of(row)

    # --- the moves of a payment ---------------------------------------------------------------------------------------

    async def settle(self, payment_hash: bytes, received: Amount) -> bool:
        """OPEN or EXPIRED to FUNDED, once; False when it was not so (a duplicate, or less than the price)."""

        def move(tx: Connection) -> bool:
            now_ms = in_ms(self._clock())
            asked = {"payment_hash": payment_hash, "received_msat": received.msat, "now_ms": now_ms}
            settled = tx.execute(SQL["settle"], asked).fetchone()
            if settled is None:
                return False
            payment_id, received_msat = settled
            _enter_received(tx, payment_id, received_msat, now_ms)
            return True

        return await self.engine.write(move)

    async def hold(
        self,
        payment_hash: bytes,
        *,
        digest: bytes,
        proven: bool,
        lease: timedelta,
        most_attempts: int,
        rerun: bool = True,
    ) -> Hold | Payment | None:
        """Claim the price of one call with one conditional statement; the row as it stands where that was not won.

        A payment whose last attempt lapsed without a word is moved to CREDIT, so that it can't hang.
        """

        def move(tx: Connection) -> Hold | Payment | None:
            now_ms = in_ms(self._clock())
            until_ms = now_ms + span_in_ms(lease)
            claim: Mapping[str, object] = {
                "payment_hash": payment_hash,
                "digest": digest,
                "now_ms": now_ms,
                "lease_until_ms": until_ms,
                "most_attempts": most_attempts,
                "rerun": rerun,
            }
            won = tx.execute(SQL["claim_proven" if proven else "claim"], claim).fetchone()
            if won is None:
                return _not_won(tx, payment_hash, claim, now_ms, proven=proven)
            payment_id, epoch, attempt, amount_msat, received_msat = won
            if epoch > 1:
                _end_draw(tx, payment_id, epoch - 1, DrawState.RELEASED, now_ms)
            elif proven:
                _enter_received(tx, payment_id, received_msat, now_ms)
            draw = {"payment_id": payment_id, "epoch": epoch, "amount_msat": amount_msat, "now_ms": now_ms}
            tx.execute(SQL["hold_draw"], draw)
            return Hold(
                payment_hash=payment_hash,
                digest=digest,
                epoch=epoch,
                attempt=attempt,
                amount=Amount(amount_msat),
                lease_until=from_ms(until_ms),
            )

        return await self.engine.write(move)

    async def renew(self, hold: Hold, *, lease: timedelta) -> bool:
        """Extend the lease; False when the hold is no longer ours."""

        def move(tx: Connection) -> bool:
            until_ms = in_ms(self._clock()) + span_in_ms(lease)
            asked = {"payment_hash": hold.payment_hash, "epoch": hold.epoch, "lease_until_ms": until_ms}
            return tx.execute(SQL["renew"], asked).fetchone() is not None

        return await self.engine.write(move)

    async def capture(self, hold: Hold, answer: Answer | None) -> bool:
        """The charge and the decision to answer in one step: keep the answer, draw the amount.

        False, with nothing done, when the hold is no longer ours. `None` for an answer too large to be kept.
        """

        def move(tx: Connection) -> bool:
            now_ms = in_ms(self._clock())
            asked = {"payment_hash": hold.payment_hash, "epoch": hold.epoch, "now_ms": now_ms}
            drawn = tx.execute(SQL["capture"], asked).fetchone()
            if drawn is None:
                return False
            payment_id, state, left_msat = drawn
            _end_draw(tx, payment_id, hold.epoch, DrawState.CAPTURED, now_ms)
            if answer is not None:
                kept = {"payment_id": payment_id, "epoch": hold.epoch, "now_ms": now_ms, **row_of_answer(answer)}
                tx.execute(SQL["keep_answer"], kept)
            _enter(tx, payment_id, hold.epoch, "held", "earned", hold.amount.msat, now_ms)
            if left_msat and state == PaymentState.SPENT:
                _enter(tx, payment_id, hold.epoch, "held", "credit", left_msat, now_ms)
            return True

        return await self.engine.write(move)

    async def release(self, hold: Hold, *, most_attempts: int, ran: bool = True) -> Payment:
        """The call failed: give the amount back to the tab; CREDIT when this was the last attempt. Returns the row."""

        def move(tx: Connection) -> Payment:
            now_ms = in_ms(self._clock())
            asked = {"payment_hash": hold.payment_hash, "epoch": hold.epoch, "now_ms": now_ms}
            released = tx.execute(SQL["release"], {**asked, "most_attempts": most_attempts, "ran": ran}).fetchone()
            if released is not None:
                payment_id, state, left_msat = released
                _end_draw(tx, payment_id, hold.epoch, DrawState.RELEASED, now_ms)
                if state == PaymentState.CREDIT:
                    _enter(tx, payment_id, hold.epoch, "held", "credit", left_msat, now_ms)
            payment = _find(tx, hold.payment_hash)
            if payment is None:
                raise StoreUnavailable("The ledger no longer knows the payment of this hold.")
            return payment

        return await self.engine.write(move)

    async def give_up(self, hold: Hold) -> Payment:
        """Nobody knows whether the call ran, and it must not run twice: to CREDIT at once. Returns the row."""
        return await self.release(hold, most_attempts=0)

    async def expire_payments(self, *, grace: timedelta) -> int:
        """OPEN to EXPIRED for every invoice past its time and the grace; how many.

        Also forgets the answers that were kept long enough.
        """

        def move(tx: Connection) -> int:
            now = self._clock()
            tx.execute(SQL["forget_answers"], {"before_ms": in_ms(now - self._keep_answers)})
            return len(tx.execute(SQL["expire"], {"before_ms": in_ms(now - grace)}).fetchall())

        return await self.engine.write(move)

    # --- the free tier ------------------------------------------------------------------------------------------------

    async def take_free_call(self, client: str, *, limit: int, window: timedelta) -> FreeCall:
        """One free call of so many per rolling window, with one conditional statement; durable when it returns."""

        return await self.engine.write(
            lambda tx: take_free_call(tx, client, limit=limit, window=window, now=self._clock())
        )

    # --- the books ----------------------------------------------------------------------------------------------------

    async def balance(self) -> Balance:
        """The books: what came in by the payments, where it went by the entries."""
        return await self.engine.read(_balance)

    async def audit(self) -> Sequence[str]:
        """One line for every payment whose row, draws, entries and answers do not tell one story."""
        rows = await self.engine.read(lambda tx: tx.execute(SQL["audit"], {}).fetchall())
        return [
            f"{'no payment' if payment_hash is None else payment_hash.hex()}: {what}: {one} and {other}"
            for payment_hash, what, one, other in rows
        ]

    async def recent_payments(self, limit: int) -> Sequence[Payment]:
        """The newest payments first."""
        rows = await self.engine.read(lambda tx: tx.execute(SQL["recent_payments"], {"most": limit}).fetchall())
        return [payment_of(row) for row in rows]

    async def close(self) -> None:
        """Finish what is under way and let go of the file."""
        await self.engine.close()


# --- parts of a transaction -------------------------------------------------------------------------------------------


def _find(tx: Connection, payment_hash: bytes) -> Payment | None:
    row = tx.execute(SQL["find_payment"], {"payment_hash": payment_hash}).fetchone()
    return None if row is None else payment_of(row)


def _not_won(
    tx: Connection, payment_hash: bytes, claim: Mapping[str, object], now_ms: int, *, proven: bool
) -> Payment | None:
    settled = tx.execute(SQL["settle_proven"], claim).fetchone() if proven else None
    if settled is not None:
        payment_id, received_msat = settled
        _enter_received(tx, payment_id, received_msat, now_ms)
    exhausted = tx.execute(SQL["give_up_exhausted"], claim).fetchone()
    if exhausted is not None:
        payment_id, epoch, owed_msat = exhausted
        _end_draw(tx, payment_id, epoch, DrawState.RELEASED, now_ms)
        _enter(tx, payment_id, epoch, "held", "credit", owed_msat, now_ms)
    return _find(tx, payment_hash)


def _end_draw(tx: Connection, payment_id: int, epoch: int, state: DrawState, now_ms: int) -> None:
    ended = {"payment_id": payment_id, "epoch": epoch, "state": state.value, "now_ms": now_ms}
    tx.execute(SQL["end_draw"], ended)


def _enter_received(tx: Connection, payment_id: int, received_msat: int, now_ms: int) -> None:
    received = {"payment_id": payment_id, "received_msat": received_msat, "now_ms": now_ms}
    tx.execute(SQL["enter_received"], received)


def _enter(
    tx: Connection, payment_id: int, epoch: int, source: Account, target: Account, amount_msat: int, now_ms: int
) -> None:
    entry = {
        "payment_id": payment_id,
        "epoch": epoch,
        "from_account": source,
        "to_account": target,
        "amount_msat": amount_msat,
        "now_ms": now_ms,
    }
    tx.execute(SQL["enter"], entry)


def _balance(tx: Connection) -> Balance:
    received = tx.execute(SQL["received"], {}).fetchone()
    accounts: dict[str, int] = dict(tx.execute(SQL["accounts"], {}).fetchall())
    return Balance(
        received=Amount(0 if received is None else received[0]),
        earned=Amount(accounts.get("earned", 0)),
        held=Amount(accounts.get("held", 0)),
        credit=Amount(accounts.get("credit", 0)),
        refunded=Amount(accounts.get("refunded", 0)),
    )
