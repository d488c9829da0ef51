"""The seller's ledger: the moves of core.payment, on any engine.

Rules
1. Each method is one transaction; `stores.moves` says what happens in it.
2. What ended in doubt is asked for again under the same name, so that it is not in its own way.
3. Nothing here can be shown as a proof of payment: no preimage, no token.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from farebox.core.amount import Amount
from farebox.core.client_prefix import subnet_of
from farebox.core.errors import SealBroken
from farebox.core.payment import Answer, Balance, FreeCall, Hold, Payment
from farebox.core.ports import Clock
from farebox.core.secret import Keys
from farebox.stores import moves
from farebox.stores.engine import Engine, Operation, rows_of, span_in_ms
from farebox.stores.escrows import EscrowStore
from farebox.stores.free_calls import FreeLimits, take_free_call
from farebox.stores.names import Names, capturing, claiming
from farebox.stores.places import open_engine
from farebox.stores.refunds import RefundStore
from farebox.stores.rows import answer_of, payment_of, row_of_answer
from farebox.stores.settlements import SettlementStore
from farebox.stores.statements import statements

if TYPE_CHECKING:
    from farebox.stores.sealing import Sealer

log = structlog.get_logger("farebox")

SQL: Final = statements("ledger")

KEEP_ANSWERS: Final = timedelta(days=1)
MOST_AT_ONCE: Final = 500
_HOUSEKEEPING: Final = b"housekeeping"


def open_ledger(
    url: str, clock: Clock | None = None, *, keep_answers: timedelta = KEEP_ANSWERS, keys: Keys | None = None
) -> SqlLedger:
    """The ledger at a URL, made and migrated as needed.

    `sqlite:///shop.db` is relative, `sqlite:////var/lib/shop.db` absolute, `sqlite::memory:` is gone when closed;
    `postgresql://user:password@host:port/database` is shared by any number of gateways on any machines.
    clock: None for that of the machine the database is on. keep_answers: how long an answer is kept to be given again.
    keys: what answers are sealed with, so that the database alone does not tell them; without any they are kept as they
    are, and sealed ones can't be given again.
    Raises ConfigError, in one line, for any other URL, a place that can't be written to, and a place that is not a
    ledger or of a farebox newer than this one can live with; StoreUnavailable when other processes keep a file locked,
    and when a server does not answer.
    """
    engine = open_engine(url, clock)
    if keys is None:
        return SqlLedger(engine, keep_answers=keep_answers)
    from farebox.stores.sealing import Sealer

    return SqlLedger(engine, keep_answers=keep_answers, sealer=Sealer(keys))


class SqlLedger(SettlementStore, EscrowStore, RefundStore):
    """A core.ports.Ledger on an engine; see there for what each method promises."""

    def __init__(self, engine: Engine, *, keep_answers: timedelta, sealer: Sealer | None = None) -> None:
        self.engine = engine
        self._sealer = sealer
        self._keep_answers = keep_answers
        self._names = Names()

    def now(self) -> datetime:
        """The time that everybody who shares this ledger goes by."""
        return self.engine.now()

    # --- opening and looking ------------------------------------------------------------------------------------------

    async def open_payment(
        self,
        payment: Payment,
        *,
        most_unpaid: int | None = None,
        most_unpaid_of_subnet: int | None = None,
        seed: bytes | None = None,
    ) -> bool:
        """Remember a new invoice; durable before the 402 leaves. With a seed it is held in escrow.

        False, with nothing done, when its client has as many unpaid ones already, or the /48 around it.
        """
        return await self.engine.write(
            lambda now_ms: moves.open_payment(payment, most_unpaid, most_unpaid_of_subnet, now_ms, seed),
            about=payment.client.encode(),
        )

    async def count_unpaid(self) -> int:
        """How many invoices are unpaid and not called expired yet; a quick look."""
        [(count,)] = await self.engine.read(lambda _: rows_of(SQL["count_unpaid"], {}))
        return int(count)

    async def count_unpaid_of(self, client: str) -> tuple[int, int]:
        """How many invoices can still be paid, of one client and of the /48 around it."""
        asked = {"client": client, "subnet": subnet_of(client), "payment_hash": b""}
        [(of_client, of_subnet)] = await self.engine.read(
            lambda now_ms: rows_of(SQL["count_unpaid_of"], {**asked, "now_ms": now_ms})
        )
        return int(of_client), int(of_subnet)

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
        try:
            return answer_of(rows[0], payment_hash, self._sealer) if rows else None
        except SealBroken:
            log.critical("kept-answer-changed")  # somebody else has written to the ledger
            return None

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
        name: bytes | None = None,
    ) -> Hold | Payment | None:
        """Claim the price of one call with one conditional statement; the row as it stands where that was not won.

        A payment whose last attempt lapsed without a word is moved to CREDIT, so that it can't hang.
        name: of a caller that remembers itself under which one it asked in doubt (`stores.names`).
        """
        with self._names.name(claiming(payment_hash, digest), name) as own:
            claim = moves.Claim(
                payment_hash=payment_hash,
                name=own,
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

    async def capture(self, hold: Hold, answer: Answer | None, *, name: bytes | None = None) -> bool:
        """The charge and the decision to answer in one step: keep the answer, draw the amount.

        False, with nothing done, when the hold is no longer ours. `None` for an answer too large to be kept.
        name: as for `hold`.
        """
        kept = None if answer is None else row_of_answer(answer, hold.payment_hash, hold.epoch, self._sealer)
        with self._names.name(capturing(hold), name) as own:
            return await self.engine.write(
                lambda now_ms: moves.capture(hold, kept, own, now_ms), about=hold.payment_hash, tells=True
            )

    async def release(self, hold: Hold, *, most_attempts: int, ran: bool = True) -> Payment:
        """The call failed: give the amount back to the tab; CREDIT when this was the last attempt. Returns the row."""
        return await self.engine.write(
            lambda now_ms: moves.release(hold, most_attempts, ran, now_ms), about=hold.payment_hash, tells=True
        )

    async def give_up(self, hold: Hold) -> Payment:
        """Nobody knows whether the call ran, and it must not run twice: to CREDIT at once. Returns the row."""
        return await self.release(hold, most_attempts=0)

    async def expire_payments(self, *, grace: timedelta, most: int = MOST_AT_ONCE) -> int:
        """OPEN to EXPIRED for invoices past their time and the grace; how many, at most `most`."""

        def expire(now_ms: int) -> Operation[int]:
            return len((yield SQL["expire"], {"before_ms": now_ms - span_in_ms(grace), "most": most}))

        return await self.engine.write(expire, about=_HOUSEKEEPING)

    async def forget_unpaid(self, *, ended_for: timedelta, most: int = MOST_AT_ONCE) -> int:
        """Forget EXPIRED payments whose invoice ended so long ago; how many, at most `most`."""

        def forget(now_ms: int) -> Operation[int]:
            return len((yield SQL["forget_unpaid"], {"before_ms": now_ms - span_in_ms(ended_for), "most": most}))

        return await self.engine.write(forget, about=_HOUSEKEEPING)

    async def forget_answers(self, *, most: int = MOST_AT_ONCE) -> int:
        """Forget answers that were kept long enough; how many, at most `most`."""

        def forget(now_ms: int) -> Operation[int]:
            before_ms = now_ms - span_in_ms(self._keep_answers)
            return len((yield SQL["forget_answers"], {"before_ms": before_ms, "most": most}))

        return await self.engine.write(forget, about=_HOUSEKEEPING)

    # --- the free tier ------------------------------------------------------------------------------------------------

    async def take_free_call(
        self,
        client: str,
        *,
        limit: int,
        window: timedelta,
        subnet_limit: int | None = None,
        ceiling: int | None = None,
    ) -> FreeCall:
        """One free call of so many per rolling window, claimed in one transaction; durable when it returns."""
        asked = FreeLimits(calls=limit, window=window, calls_of_subnet=subnet_limit, calls_of_all=ceiling)
        return await self.engine.write(lambda now_ms: take_free_call(client, asked, now_ms), about=client.encode())

    # --- the books ----------------------------------------------------------------------------------------------------

    async def balance(self) -> Balance:
        """The books: what came in by the payments, where it went by the entries."""
        return await self.engine.read(lambda _: moves.balance(), thorough=True)

    async def audit(self) -> Sequence[str]:
        """One line for every payment whose row, draws, entries and answers do not tell one story."""
        rows = await self.engine.read(lambda _: rows_of(SQL["audit"], {}), thorough=True)
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
