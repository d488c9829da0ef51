"""What a purse keeps beside its purchases: prices that were seen, calls that are parked, and sub-purses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, tzinfo
from typing import Final, TypeVar

from farebox.core.allowance import account_of, priced_for
from farebox.core.amount import Amount
from farebox.core.budget import Budget, Window
from farebox.core.errors import ApprovalDenied, ApprovalNeeded, ConfigError, DecisionRefused, MalformedBudget
from farebox.core.purse import Approval, ApprovalState, Guards, Purchase, Seen, SubPurse
from farebox.core.purse_token import checked_name
from farebox.core.secret import Secret
from farebox.stores.engine import Connection, from_ms, in_ms, span_in_ms
from farebox.stores.purchases import NO_ACCOUNT, account_text, approval_of, row_of, sub_purse_of

T = TypeVar("T")

MOST_PARKED: Final = 100  # calls of each account that wait for a word
MOST_PRICES: Final = 256  # of an origin that each account remembers


def needs_approval(purchase: Purchase, guards: Guards) -> bool:
    """Whether a person has to say yes to this price."""
    return guards.approval_above is not None and purchase.amount > guards.approval_above


class Parking(ABC):
    """The half of a purse that is not its purchases; see core.purse.Purse for what each method promises."""

    SQL: Mapping[str, str]
    zone: tzinfo

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """The connection, for reading."""

    @abstractmethod
    def writing(self, *, lasting: bool = True) -> AbstractContextManager[Connection]:
        """The connection in a transaction that is alone with the purse.

        lasting: it is durable at the end; what a machine may forget when its power fails need not be.
        """

    def write(self, work: Callable[[Connection], T], *, lasting: bool = True) -> T:
        """What the work returns, once it is durable; whatever it raises, with nothing done. It may be run twice."""
        with self.writing(lasting=lasting) as tx:
            return work(tx)

    @abstractmethod
    def now(self, tx: Connection) -> datetime:
        """The purse's time."""

    # --- prices -------------------------------------------------------------------------------------------------------

    def seen(self, origin: str, resource: str) -> Seen:
        """The last price of this resource, and who was paid first at this origin."""
        with self.reading() as tx:
            [(price_msat, at_ms, payee)] = tx.execute(
                self.SQL["seen"], {"origin": origin, "resource": resource}
            ).fetchall()
        return Seen(
            price=None if price_msat is None else Amount(price_msat),
            since=None if at_ms is None else from_ms(at_ms),
            payee=None if payee is None else bytes(payee),
        )

    def note_price(self, origin: str, resource: str, price: Amount, payee: bytes) -> None:
        """Remember a price that was asked and found good."""
        self.write(lambda tx: self.note(tx, origin, resource, price, payee, self.now(tx)))

    def note(self, tx: Connection, origin: str, resource: str, price: Amount, payee: bytes, now: datetime) -> None:
        """The same within a transaction."""
        row = {"origin": origin, "resource": resource, "price_msat": price.msat, "payee": payee, "now_ms": in_ms(now)}
        [(known_msat, _, known_payee)] = tx.execute(self.SQL["seen"], row).fetchall()
        if known_msat is None:
            account = {"account": account_text(priced_for(resource)), "no_account": NO_ACCOUNT}
            tx.execute(self.SQL["replace_oldest_price"], {**row, **account, "newer": MOST_PRICES - 1})
        if known_msat != price.msat:
            tx.execute(self.SQL["note_price"], row)
        if payee and known_payee is None:
            tx.execute(self.SQL["note_payee"], row)

    def change_payee(self, origin: str, payee: bytes) -> None:
        """Another node is paid at this origin from now on."""
        row = {"origin": origin, "payee": payee}
        self.write(lambda tx: tx.execute(self.SQL["change_payee"], {**row, "now_ms": in_ms(self.now(tx))}))

    # --- parked calls -------------------------------------------------------------------------------------------------

    def take_approval(self, tx: Connection, purchase: Purchase, now: datetime) -> None:
        """Use up the yes that was said to this call. Raises ApprovalNeeded when there is none."""
        row = {**row_of(purchase), "now_ms": in_ms(now)}
        if tx.execute(self.SQL["use_approval"], row).fetchone() is None:
            raise ApprovalNeeded(f"it costs {purchase.amount}", asked_msat=purchase.amount.msat)

    def park(self, purchase: Purchase, guards: Guards) -> ApprovalNeeded | ApprovalDenied:
        """Have a person asked, unless one was asked already; what to tell the caller."""

        def park(tx: Connection) -> Approval | None:
            now_ms = in_ms(self.now(tx))
            row = {**row_of(purchase), "now_ms": now_ms, "expires_at_ms": now_ms + span_in_ms(guards.approval_for)}
            account = {"account": account_text(account_of(purchase.labels)), "no_account": NO_ACCOUNT}
            tx.execute(self.SQL["park"], {**row, **account, "most": MOST_PARKED})
            return self._parked(tx, purchase)

        parked = self.write(park)
        if parked is None:
            told = f"it costs {purchase.amount}, and {MOST_PARKED} calls wait for a person's word already"
            return ApprovalNeeded(told, asked_msat=purchase.amount.msat)
        return _answer(purchase, guards, parked)

    def find_parked(self, purchase: Purchase, guards: Guards) -> ApprovalNeeded | ApprovalDenied:
        """What to tell the caller of a call that needs a person's word; nobody is asked."""
        with self.reading() as tx:
            return _answer(purchase, guards, self._parked(tx, purchase))

    def _parked(self, tx: Connection, purchase: Purchase) -> Approval | None:
        now = self.now(tx)
        found = tx.execute(self.SQL["parked"], {**row_of(purchase), "now_ms": in_ms(now)}).fetchone()
        return None if found is None else approval_of(found, now)

    def approvals(self, *, pending: bool) -> Sequence[Approval]:
        """Parked calls, the newest first; only those that wait for a word, or the last hundred."""
        with self.reading() as tx:
            now = self.now(tx)
            name = "pending_approvals" if pending else "approvals"
            return [approval_of(row, now) for row in tx.execute(self.SQL[name], {"now_ms": in_ms(now)}).fetchall()]

    def decide(self, number: int, *, approved: bool) -> Approval:
        """Give the word on a parked call. Raises DecisionRefused for one that does not wait for it any more."""
        state = ApprovalState.APPROVED if approved else ApprovalState.DENIED

        def decide(tx: Connection) -> Approval:
            now = self.now(tx)
            row = {"number": number, "state": state.value, "now_ms": in_ms(now)}
            decided = tx.execute(self.SQL["decide"], row).fetchone()
            if decided is None:
                found = tx.execute(self.SQL["approval"], {"number": number}).fetchone()
                stands = approval_of(found, now).state.value if found else "not known"
                raise DecisionRefused(f"{number} is {stands}")
            return approval_of(decided, now)

        return self.write(decide)

    # --- sub-purses ---------------------------------------------------------------------------------------------------

    def add_purse(self, name: str, limits: Sequence[Window], key: Secret[bytes]) -> SubPurse:
        """A new sub-purse, or the one of this name with these limits from now on and its key as it was."""
        if not limits or any(window.label for window in limits):
            raise MalformedBudget("a purse needs a limit for all that is spent from it, such as 100 sat/day")
        row = {"name": checked_name(name), "limits": str(Budget(tuple(limits))), "signing_key": key.reveal()}
        made = self.write(
            lambda tx: tx.execute(self.SQL["add_purse"], {**row, "now_ms": in_ms(self.now(tx))}).fetchone()
        )
        if made is None:
            raise ConfigError(f"the purse {name} was revoked; choose another name")
        return sub_purse_of(made, self.zone)

    def purses(self) -> Sequence[SubPurse]:
        """Every sub-purse, by name."""
        with self.reading() as tx:
            return [sub_purse_of(row, self.zone) for row in tx.execute(self.SQL["purses"]).fetchall()]

    def revoke_purse(self, name: str) -> SubPurse:
        """Nothing more is spent with its tokens. Raises ConfigError for an unknown one."""
        row = self.write(
            lambda tx: tx.execute(self.SQL["revoke_purse"], {"name": name, "now_ms": in_ms(self.now(tx))}).fetchone()
        )
        if row is None:
            raise ConfigError(f"there is no purse {name}; `farebox purse list` tells them")
        return sub_purse_of(row, self.zone)


def _answer(purchase: Purchase, guards: Guards, parked: Approval | None) -> ApprovalNeeded | ApprovalDenied:
    cost, asked_msat = f"it costs {purchase.amount}", purchase.amount.msat
    if parked is not None and parked.state is ApprovalState.DENIED:
        return ApprovalDenied(cost, asked_msat=asked_msat, approval=parked.number)
    told = f"{cost}, and above {guards.approval_above} a person is asked"
    if parked is None:
        return ApprovalNeeded(told, asked_msat=asked_msat)
    expires_at = parked.expires_at.isoformat(timespec="seconds")
    return ApprovalNeeded(told, asked_msat=asked_msat, approval=parked.number, expires_at=expires_at)
