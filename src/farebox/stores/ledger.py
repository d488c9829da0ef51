"""The seller's ledger: the moves of core.payment, on any engine.

Rules
1. Each method is one transaction; `stores.moves` says what happens in it.
2. What ended in doubt is asked for again under the same name, so that it is not in its own way.
3. Nothing here can be shown as a proof of payment: no preimage, no token.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from farebox.core.amount import Amount
from farebox.core.errors import ConfigError
from farebox.core.payment import DRAW_MOVES, PAYMENT_MOVES, Answer, Balance, FreeCall, Hold, Payment
from farebox.core.ports import Clock
from farebox.stores import moves
from farebox.stores.engine import Engine, Operation, edges, rows_of, span_in_ms, utc_now
from farebox.stores.free_calls import take_free_call
from farebox.stores.names import Names
from farebox.stores.rows import answer_of, payment_of
from farebox.stores.sqlite import SqliteEngine
from farebox.stores.statements import statements

SQL: Final = statements("ledger")

KEEP_ANSWERS: Final = timedelta(days=1)
_MEMORY: Final = ":memory:"
_HOUSEKEEPING: Final = b"housekeeping"


def open_ledger(url: str, clock: Clock | None = None, *, keep_answers: timedelta = KEEP_ANSWERS) -> SqlLedger:
    """The ledger at a URL, made and migrated as needed.

    `sqlite:///shop.db` is relative, `sqlite:////var/lib/shop.db` absolute, `sqlite::memory:` is gone when closed.
    clock: None for that of the machine the database is on. keep_answers: how long an answer is kept to be given again.
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
    machines = {"payment_moves": edges(PAYMENT_MOVES), "draw_moves": edges(DRAW_MOVES)}
    engine = SqliteEngine(path, room="ledger", moves=machines, clock=clock or utc_now)
    return SqlLedger(engine, keep_answers=keep_answers)


class SqlLedger:
    """A core.ports.Ledger on an engine; see there for what each method promises."""

    def __init__(self, engine: Engine, *, keep_answers: timedelta) -> None:
        self.engine = engine
        self._keep_answers = keep_answers
        self._names = Names()

    def now(self) -> datetime:
        """The time that everybody who shares this ledger goes by."""
        return self.engine.now()

    # --- opening and looking ------------------------------------------------------------------------------------------

    async def open_payment(self, payment: Payment) -> None:
        """Remember a new invoice; durable before the 402 leaves."""
        await self.engine.write(lambda _: moves.open_payment(payment), about=payment.payment_hash)

    async def reusable_payment(self, *, client: str, digest: bytes, price: Amount) -> Payment | None:
        """This caller's own unpaid invoice for the same request and price, with more than half its time left."""
        asked = {"client": client, "digest": digest, "price_msat": price.msat}
        rows = await self.engine.read(lambda now_ms: rows_of(SQL["reusable_payment"], {**asked, "now_ms": now_ms}))
        return payment_of(rows[0]) if rows else None

    async def find_payment(self, payment_hash: bytes) -> Payment | None:
        """The row, as it stands."""
        return await self.engine.read(lambda _: moves.find(payment_hash))

    async def find_answer(self, payment_hash: bytes) -> Answer | None:
        """The kept answer; None when it is no longer, or never was, kept."""
        kept_ms = span_in_ms(self._keep_answers)
        asked = {"payment_hash": payment_hash}
        rows = await self.engine.read(
            lambda now_ms: rows_of(SQL["find_answer"], {**asked, "before_ms": now_ms - kept_ms})
        )
        return answer_of(rows[0]) if rows else None

    async def changed(self, payment_hash: bytes, *, within: timedelta) -> None:
        """Returns when the call that holds this payment may have ended, at the latest after so long."""
        await self.engine.changed(payment_hash, within=within)

    # --- the moves of a payment ---------------------------------------------------------------------------------------

    async def settle(self, payment_hash: bytes, received: Amount) -> bool:
        """OPEN or EXPIRED to FUNDED, once; False when it was not so (a duplicate, or less than the price)."""
        return await self.engine.write(lambda now_ms: moves.settle(payment_hash, received, now_ms), about=payment_hash)

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
        with self._names.name(payment_hash) as name:
            claim = moves.Claim(
                payment_hash=payment_hash,
                name=name,
                digest=digest,
                proven=proven,
                lease=lease,
                most_attempts=most_attempts,
                rerun=rerun,
            )
            return await self.engine.write(lambda now_ms: moves.hold(claim, now_ms), about=payment_hash)

    async def renew(self, hold: Hold, *, lease: timedelta) -> bool:
        """Extend the lease; False when the hold is no longer ours."""
        return await self.engine.write(lambda now_ms: moves.renew(hold, lease, now_ms), about=hold.payment_hash)

    async def capture(self, hold: Hold, answer: Answer | None) -> bool:
        """The charge and the decision to answer in one step: keep the answer, draw the amount.

        False, with nothing done, when the hold is no longer ours. `None` for an answer too large to be kept.
        """
        with self._names.name(b"%b capture %d" % (hold.payment_hash, hold.epoch)) as name:
            return await self.engine.write(
                lambda now_ms: moves.capture(hold, answer, name, now_ms), about=hold.payment_hash, tells=True
            )

    async def release(self, hold: Hold, *, most_attempts: int, ran: bool = True) -> Payment:
        """The call failed: give the amount back to the tab; CREDIT when this was the last attempt. Returns the row."""
        return await self.engine.write(
            lambda now_ms: moves.release(hold, most_attempts, ran, now_ms), about=hold.payment_hash, tells=True
        )

    async def give_up(self, hold: Hold) -> Payment:
        """Nobody knows whether the call ran, and it must not run twice: to CREDIT at once. Returns the row."""
        return await self.release(hold, most_attempts=0)

    async def expire_payments(self, *, grace: timedelta) -> int:
        """OPEN to EXPIRED for every invoice past its time and the grace; how many.

        Also forgets the answers that were kept long enough.
        """

        def move(now_ms: int) -> Operation[int]:
            yield SQL["forget_answers"], {"before_ms": now_ms - span_in_ms(self._keep_answers)}
            return len((yield SQL["expire"], {"before_ms": now_ms - span_in_ms(grace)}))

        return await self.engine.write(move, about=_HOUSEKEEPING)

    # --- the free tier ------------------------------------------------------------------------------------------------

    async def take_free_call(self, client: str, *, limit: int, window: timedelta) -> FreeCall:
        """One free call of so many per rolling window, with one conditional statement; durable when it returns."""
        return await self.engine.write(
            lambda now_ms: take_free_call(client, limit=limit, window=window, now_ms=now_ms), about=client.encode()
        )

    # --- the books ----------------------------------------------------------------------------------------------------

    async def balance(self) -> Balance:
        """The books: what came in by the payments, where it went by the entries."""
        return await self.engine.read(lambda _: moves.balance())

    async def audit(self) -> Sequence[str]:
        """One line for every payment whose row, draws, entries and answers do not tell one story."""
        rows = await self.engine.read(lambda _: rows_of(SQL["audit"], {}))
        return [
            f"{'no payment' if payment_hash is None else payment_hash.hex()}: {what}: {one} and {other}"
            for payment_hash, what, one, other in rows
        ]

    async def recent_payments(self, limit: int) -> Sequence[Payment]:
        """The newest payments first."""
        rows = await self.engine.read(lambda _: rows_of(SQL["recent_payments"], {"most": limit}))
        return [payment_of(row) for row in rows]

    async def close(self) -> None:
        """Finish what is under way and let go of the file."""
        await self.engine.close()
