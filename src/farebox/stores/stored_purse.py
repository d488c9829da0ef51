"""What every purse does with its rows, whatever database keeps them.

Rules
1. The intent is written, and its amount and fee limit held, before a wallet is asked to pay.
2. A budget is kept by one conditional statement in a transaction that no other one can be in the middle of, so any
   number of processes share it.
3. The purse's time never runs backwards: setting a clock back frees nothing. One that was ahead of the clock stands
   still until the clock is there, and refusals say so; only a person's word sets it right.
4. What is held counts in every window however old it is; what was paid counts a whole window from when that was known.
5. Money that moved is counted, also of a payment that was told to have failed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from farebox.core.allowance import account_of, priced_as
from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.errors import (
    ApprovalNeeded,
    OverBudget,
    SellerShunned,
    StoreUnavailable,
    TooManyInFlight,
)
from farebox.core.payment import DrawState
from farebox.core.purse import KEPT, NO_GUARDS, Guards, Purchase
from farebox.core.secret import Secret
from farebox.stores.engine import Connection, from_ms, in_ms, span_in_ms
from farebox.stores.parked import Parking, needs_approval
from farebox.stores.purchases import NO_ACCOUNT, account_text, label_text, purchase_of, row_of
from farebox.stores.statements import statements

_SKEW: Final = timedelta(minutes=10)  # between our clock and the seller's
_PER_CALL_MS: Final = -1  # no instant of a purse: marks a window that counts nothing but the call itself
# Their types are said, because nothing else in such a row tells them.
_WINDOW: Final = "(CAST(:since_{0}_ms AS BIGINT), CAST(:limit_{0}_msat AS BIGINT), CAST(:label_{0} AS TEXT))"
_NO_WINDOW: Final = "(CAST(NULL AS BIGINT), CAST(NULL AS BIGINT), '')"  # a row of nothing is violated by nothing
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


class StoredPurse(Parking, ABC):
    """A core.purse.Purse over a database; see there for what each method promises."""

    SQL: Mapping[str, str] = statements("purse")

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """The connection, for reading. Its errors become StoreUnavailable."""

    @abstractmethod
    def writing(self, *, lasting: bool = True) -> AbstractContextManager[Connection]:
        """The connection in a transaction that is alone with the purse; undone when it is left by an error."""

    @abstractmethod
    def wall(self) -> datetime:
        """The time, as the purse's clock tells it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the database."""

    # --- moves --------------------------------------------------------------------------------------------------------

    def hold(self, purchase: Purchase, limits: Sequence[Window], guards: Guards = NO_GUARDS) -> Purchase | None:
        """Write the intent and hold amount + fee limit, in one conditional statement. None when it is held."""
        try:
            return self.write(lambda tx: self._hold(tx, purchase, limits, guards))
        except ApprovalNeeded:
            raise self.park(purchase, guards) from None

    def weigh(self, purchase: Purchase, limits: Sequence[Window], guards: Guards = NO_GUARDS) -> None:
        """Whether it would be held now; nothing is written."""

        def hold_and_undo(tx: Connection) -> None:
            self._hold(tx, purchase, limits, guards)
            raise _Weighed

        try:
            self.write(hold_and_undo)
        except _Weighed:
            return
        except ApprovalNeeded:
            raise self.find_parked(purchase, guards) from None

    def _hold(self, tx: Connection, purchase: Purchase, limits: Sequence[Window], guards: Guards) -> Purchase | None:
        now = self.now(tx)
        row, rows = self._asked(purchase, limits, guards, now)
        if tx.execute(self.SQL["hold"].replace(":windows", rows), row).fetchone() is None:
            known = tx.execute(self.SQL["find"], {"payment_hash": purchase.payment_hash}).fetchone()
            if known is not None and (stands := purchase_of(known)).state is not DrawState.RELEASED:
                return stands
            raise self._refusal(tx, row, limits, guards, now)
        if needs_approval(purchase, guards):
            self.take_approval(tx, purchase, now)
        resource = priced_as(purchase.resource, purchase.labels)
        self.note(tx, purchase.origin, resource, purchase.amount, purchase.payee, now)
        return None

    def _asked(
        self, purchase: Purchase, limits: Sequence[Window], guards: Guards, now: datetime
    ) -> tuple[Mapping[str, object], str]:
        """The parameters of `hold`, and the rows that `:windows` stands for."""
        asked: dict[str, object] = {
            **row_of(purchase),
            "asked_msat": (purchase.amount + purchase.fee_limit).msat,
            "now_ms": in_ms(now),
            "per_call": _PER_CALL_MS,
            "seller": label_text(guards.seller),
            "seller_origin": guards.origin,
            "account": account_text(account_of(purchase.labels)),
            "no_account": NO_ACCOUNT,
            "most_in_flight": guards.most_in_flight,
            "most_unserved": guards.most_unserved,
            "unserved_since_ms": in_ms(now) - span_in_ms(guards.unserved_for),
        }
        for number, window in enumerate(limits):
            asked[f"since_{number}_ms"] = _since_ms(window, now)
            asked[f"limit_{number}_msat"] = window.limit.msat
            asked[f"label_{number}"] = label_text(window.label)
        rows = ", ".join(_WINDOW.format(number) for number in range(len(limits)))
        return asked, rows or _NO_WINDOW

    def _refusal(
        self, tx: Connection, row: Mapping[str, object], limits: Sequence[Window], guards: Guards, now: datetime
    ) -> OverBudget | SellerShunned | TooManyInFlight:
        """Why `hold` wrote nothing."""
        asked = Amount(_number(row["asked_msat"]))
        if guards.seller:
            unserved = tx.execute(self.SQL["unserved"], row).fetchall()
            if len(unserved) >= guards.most_unserved:
                counted = [(Amount(int(msat)), from_ms(at_ms)) for msat, at_ms in unserved]
                return _shunned(guards, counted, self._ahead(now))
        left = [(window, window.limit.less(self._spent(tx, window, now))) for window in limits]
        full = next(((window, rest) for window, rest in left if rest < asked), None)
        if full is None:
            return TooManyInFlight(f"{guards.most_in_flight} are on their way to {_name_of(guards)}")
        window, rest = full
        return OverBudget(
            f"{window} has {rest} left, and this may cost {asked}.{self._ahead(now)}",
            window=str(window),
            limit_msat=window.limit.msat,
            left_msat=rest.msat,
            asked_msat=asked.msat,
        )

    def _ahead(self, now: datetime) -> str:
        """What else to say where the purse's time stands still."""
        wall = self.wall()
        if now - wall < _SKEW:
            return ""
        ahead = timedelta(seconds=(now - wall) // timedelta(seconds=1))
        return (
            f" The purse was last written at {now.isoformat(timespec='seconds')}, which is {ahead} ahead of this clock:"
            " nothing is free again until then. If that was a wrong clock, `farebox purse repair`."
        )

    def take_over(self, payment_hash: bytes, *, held_for: timedelta) -> Purchase | None:
        """Hold anew what was held so long ago; None when it is held no more, or somebody else has just done so."""

        def take(tx: Connection) -> Purchase | None:
            now_ms = in_ms(self.now(tx))
            asked = {"payment_hash": payment_hash, "now_ms": now_ms, "before_ms": now_ms - span_in_ms(held_for)}
            if tx.execute(self.SQL["take_over"], asked).fetchone() is None:
                return None
            return purchase_of(tx.execute(self.SQL["find"], {"payment_hash": payment_hash}).fetchall()[0])

        return self.write(take)

    def capture(self, payment_hash: bytes, *, preimage: Secret[bytes], fee: Amount) -> None:
        """It was paid; keep the proof until it is served. Saying it twice changes nothing.

        What was released before counts from now on. Raises StoreUnavailable, also for what was never held.
        """
        said = {"preimage": preimage.reveal(), "fee_msat": fee.msat}
        self._move("capture", payment_hash, DrawState.CAPTURED, said, is_dated=True)

    def release(self, payment_hash: bytes, *, reason: str) -> Purchase | None:
        """It certainly was not paid; free the amount. Saying it twice changes nothing.

        What was taken over stays held until ten minutes after its invoice, and is told. Raises StoreUnavailable, also
        for what was captured or never held.
        """

        def free(tx: Connection) -> Purchase | None:
            # By the clock alone: a purse that is ahead of it would take every invoice to have run out.
            over_ms = in_ms(self.wall()) - span_in_ms(_SKEW)
            row = {"payment_hash": payment_hash, "reason": _kept_text(reason), "over_ms": over_ms}
            if tx.execute(self.SQL["release"], row).fetchone() is None:
                found = tx.execute(self.SQL["find"], {"payment_hash": payment_hash}).fetchone()
                if found is not None and (stands := purchase_of(found)).state is DrawState.HELD:
                    return stands
                self._must_be(tx, payment_hash, DrawState.RELEASED)
            return None

        return self.write(free)

    def mark_served(self, payment_hash: bytes) -> None:
        """The paid answer arrived. Raises StoreUnavailable, also for what was not paid."""
        # If power fails, the proof is shown once more.
        self._move("mark_served", payment_hash, DrawState.CAPTURED, lasting=False)

    def mark_kept(self, payment_hash: bytes) -> None:
        """The seller keeps the payment for its call. Raises StoreUnavailable, also for what was not paid."""
        self._move("mark_kept", payment_hash, DrawState.CAPTURED, {"reason": KEPT})

    def mark_undelivered(self, payment_hash: bytes) -> None:
        """The seller has the money, and did not serve. Raises StoreUnavailable, also for what was not paid."""
        self._move("mark_undelivered", payment_hash, DrawState.CAPTURED, is_dated=True)

    def mark_lost(self, payment_hash: bytes, *, reason: str) -> None:
        """No answer is to be had any more. Raises StoreUnavailable, also for what was not paid."""
        self._move("mark_lost", payment_hash, DrawState.CAPTURED, {"reason": _kept_text(reason)}, is_dated=True)

    def _move(
        self,
        name: str,
        payment_hash: bytes,
        state: DrawState,
        said: Mapping[str, object] = MappingProxyType({}),
        *,
        is_dated: bool = False,
        lasting: bool = True,
    ) -> None:
        """One conditional statement; what it did not change must be in this state already. is_dated: it says when."""

        def move(tx: Connection) -> None:
            row = {"payment_hash": payment_hash, **said}
            if is_dated:
                row["now_ms"] = in_ms(self.now(tx))
            if tx.execute(self.SQL[name], row).fetchone() is None:
                self._must_be(tx, payment_hash, state)

        self.write(move, lasting=lasting)

    def forget_proof(self, payment_hash: bytes) -> None:
        """The proof is good for nothing more."""
        self.write(lambda tx: tx.execute(self.SQL["forget_proof"], {"payment_hash": payment_hash}))

    # --- reading ------------------------------------------------------------------------------------------------------

    def unfinished(self, request_digest: bytes | None = None) -> Sequence[Purchase]:
        """HELD, or paid and neither served nor lost; oldest first; of one request or of all."""
        name = "unfinished" if request_digest is None else "unfinished_of_request"
        return self._purchases(name, {"request_digest": request_digest})

    def spent(self, window: Window) -> Amount:
        """What counts against a window now: captured with fees, and everything held."""
        with self.reading() as tx:
            return self._spent(tx, window, self.now(tx))

    def history(self, limit: int, *, label: str = "", since: datetime | None = None) -> Sequence[Purchase]:
        """The newest purchases first, of one label or of all, made after an instant."""
        asked = {"most": limit, "label": label_text(label), "since_ms": in_ms(since or _LONG_AGO)}
        return self._purchases("history", asked)

    def reusable(self, origin: str, resource: str) -> Sequence[Purchase]:
        """Purchases there that were served and whose proof may still be good, the newest first."""
        asked = {"origin": origin, "resource": resource, "now_ms": in_ms(self.wall())}
        return self._purchases("reusable", asked)

    def now(self, tx: Connection) -> datetime:
        """The purse's time: its clock, or the latest instant that it has seen."""
        [(newest_ms,)] = tx.execute(self.SQL["newest"]).fetchall()
        return from_ms(max(in_ms(self.wall()), int(newest_ms)))

    def repair_time(self) -> datetime | None:
        """Take what was written at a time that has not come yet as written now, and let every open approval run out.

        The latest such time; None for none, and nothing is changed.
        """

        def repair(tx: Connection) -> datetime | None:
            now_ms = in_ms(self.wall())
            [(latest_ms,)] = tx.execute(self.SQL["latest"]).fetchall()
            if latest_ms <= now_ms:
                return None
            tx.execute(self.SQL["repair_purchases"], {"now_ms": now_ms})
            tx.execute(self.SQL["repair_approvals"], {"now_ms": now_ms})
            return from_ms(latest_ms)

        return self.write(repair)

    def _purchases(self, name: str, asked: Mapping[str, object]) -> Sequence[Purchase]:
        with self.reading() as tx:
            return [purchase_of(row) for row in tx.execute(self.SQL[name], asked).fetchall()]

    def _spent(self, tx: Connection, window: Window, now: datetime) -> Amount:
        if window.span is None:
            return Amount(0)
        asked = {"since_ms": _since_ms(window, now), "label": label_text(window.label)}
        [(spent_msat,)] = tx.execute(self.SQL["spent"], asked).fetchall()
        return Amount(int(spent_msat))

    def _must_be(self, tx: Connection, payment_hash: bytes, state: DrawState) -> None:
        """A move that changed nothing was done before; anything else contradicts what is written."""
        row = tx.execute(self.SQL["find"], {"payment_hash": payment_hash}).fetchone()
        found = None if row is None else purchase_of(row).state
        if found is not state:
            raise StoreUnavailable(f"A purchase that is {found or 'unknown'} can't become {state}.")


class _Weighed(Exception):
    """Leaves a transaction so that it is undone."""


def _name_of(guards: Guards) -> str:
    """The seller, with the port where another one is another seller."""
    return guards.origin.partition("://")[2] or guards.seller.partition(":")[2]


def _shunned(guards: Guards, unserved: Sequence[tuple[Amount, datetime]], more: str) -> SellerShunned:
    """unserved: what was paid and since when it is known not to be served, the newest first."""
    paid = sum((amount for amount, _ in unserved), Amount(0))
    until = (unserved[guards.most_unserved - 1][1] + guards.unserved_for).isoformat(timespec="seconds")
    calls = f"{len(unserved)} calls to {_name_of(guards)} were paid, {paid} in all, and not served"
    told = f"{calls}; until {until} no other is paid from here{more and '.' + more}"
    return SellerShunned(told, host=_name_of(guards), unserved=len(unserved), paid_msat=paid.msat, until=until)


def _since_ms(window: Window, now: datetime) -> int:
    since = window.since(now)
    return _PER_CALL_MS if since is None else max(0, in_ms(since))


def _kept_text(text: str) -> str:
    """A wallet's words as any database can keep them: without NUL, and without halves of characters."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value
