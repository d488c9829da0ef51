"""A purse in a dictionary, for tests of what buys: it remembers and refuses as every purse does, for one thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from farebox.core.allowance import account_of, priced_as
from farebox.core.amount import NOTHING, Amount
from farebox.core.budget import Window
from farebox.core.errors import (
    ApprovalDenied,
    ApprovalNeeded,
    DecisionRefused,
    OverBudget,
    SellerShunned,
    StoreUnavailable,
    TooManyInFlight,
)
from farebox.core.payment import DrawState
from farebox.core.ports import Clock
from farebox.core.purse import KEPT, NO_GUARDS, Approval, ApprovalState, Guards, Purchase, Seen, SubPurse
from farebox.core.secret import Secret
from farebox.stores.parked import MOST_PARKED


class KeptPurse:
    """See core.purse.Purse. `full` makes every write fail."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.rows: dict[bytes, Purchase] = {}
        self.prices: dict[tuple[str, str], Seen] = {}
        self.payees: dict[str, bytes] = {}
        self.parked: list[Approval] = []
        self.subs: dict[str, SubPurse] = {}
        self.taken: set[bytes] = set()
        self.full = False
        self.closed = False

    def hold(self, purchase: Purchase, limits: Sequence[Window], guards: Guards = NO_GUARDS) -> Purchase | None:
        """See core.purse.Purse."""
        known = self._check(purchase, limits, guards)
        if known is not None and known.state is not DrawState.RELEASED:
            return known
        if guards.approval_above is not None and purchase.amount > guards.approval_above:
            self._take_approval(purchase, guards)
        attempt = 0 if known is None else known.attempt + 1
        self.rows[purchase.payment_hash] = replace(purchase, held_at=self._clock(), attempt=attempt)
        resource = priced_as(purchase.resource, purchase.labels)
        self.note_price(purchase.origin, resource, purchase.amount, purchase.payee)
        return None

    def weigh(self, purchase: Purchase, limits: Sequence[Window], guards: Guards = NO_GUARDS) -> None:
        """See core.purse.Purse."""
        self._check(purchase, limits, guards)
        if guards.approval_above is not None and purchase.amount > guards.approval_above:
            raise ApprovalNeeded

    def _check(self, purchase: Purchase, limits: Sequence[Window], guards: Guards) -> Purchase | None:
        self._check_room()
        known = self.rows.get(purchase.payment_hash)
        if known is not None and known.state is not DrawState.RELEASED:
            return known
        theirs = [
            row
            for row in self.rows.values()
            if guards.seller and guards.seller in row.labels and guards.origin in ("", row.origin)
        ]
        since, account = self._clock() - guards.unserved_for, account_of(purchase.labels)
        unserved = [row for row in theirs if row.undelivered_at and row.undelivered_at > since]
        unserved = [row for row in unserved if account_of(row.labels) == account]
        if len(unserved) >= guards.most_unserved:
            raise SellerShunned(unserved=len(unserved))
        for window in limits:
            left = window.limit.less(self.spent(window))
            if purchase.amount + purchase.fee_limit > left:
                raise OverBudget(f"{window} has {left} left", window=str(window), left_msat=left.msat)
        if len([row for row in theirs if row.state is DrawState.HELD]) >= guards.most_in_flight:
            raise TooManyInFlight
        return known

    def _take_approval(self, purchase: Purchase, guards: Guards) -> None:
        for place, approval in enumerate(self.parked):
            if approval.request_digest == purchase.request_digest and approval.amount >= purchase.amount:
                if approval.state is ApprovalState.APPROVED:
                    self.parked[place] = replace(approval, state=ApprovalState.USED)
                    return
                if approval.state is ApprovalState.DENIED:
                    raise ApprovalDenied(approval=approval.number)
                if approval.state is ApprovalState.PENDING:
                    raise ApprovalNeeded(approval=approval.number)
        if MOST_PARKED <= len(self.approvals(pending=True)):
            raise ApprovalNeeded(f"{MOST_PARKED} calls wait for a person's word already")
        number = len(self.parked) + 1
        self.parked.append(
            Approval(
                number=number,
                state=ApprovalState.PENDING,
                request_digest=purchase.request_digest,
                origin=purchase.origin,
                resource=purchase.resource,
                url=purchase.url,
                amount=purchase.amount,
                payee=purchase.payee,
                labels=purchase.labels,
                asked_at=self._clock(),
                expires_at=self._clock() + guards.approval_for,
            )
        )
        raise ApprovalNeeded(approval=number)

    def take_over(self, payment_hash: bytes, *, held_for: timedelta) -> Purchase | None:
        """See core.purse.Purse."""
        row = self.rows[payment_hash]
        if row.state is not DrawState.HELD or row.held_at is None or self._clock() - row.held_at < held_for:
            return None
        self._change(payment_hash, held_at=self._clock())
        self.taken.add(payment_hash)
        return self.rows[payment_hash]

    def capture(self, payment_hash: bytes, *, preimage: Secret[bytes], fee: Amount) -> None:
        """See core.purse.Purse."""
        self._change(payment_hash, state=DrawState.CAPTURED, preimage=preimage, fee=fee, reason="")

    def release(self, payment_hash: bytes, *, reason: str) -> Purchase | None:
        """See core.purse.Purse."""
        row = self.rows[payment_hash]
        if payment_hash in self.taken and self._clock() < row.invoice_expires_at + timedelta(minutes=10):
            return row
        self._change(payment_hash, state=DrawState.RELEASED, reason=reason)
        return None

    def mark_kept(self, payment_hash: bytes) -> None:
        """See core.purse.Purse."""
        self._change(payment_hash, reason=KEPT)

    def mark_served(self, payment_hash: bytes) -> None:
        """See core.purse.Purse."""
        self._change(payment_hash, served=True, lost=False, undelivered_at=None)

    def mark_undelivered(self, payment_hash: bytes) -> None:
        """See core.purse.Purse."""
        first = self.rows[payment_hash].undelivered_at
        self._change(payment_hash, undelivered_at=first or self._clock())

    def mark_lost(self, payment_hash: bytes, *, reason: str) -> None:
        """See core.purse.Purse."""
        first = self.rows[payment_hash].undelivered_at
        self._change(payment_hash, lost=True, undelivered_at=first or self._clock(), reason=reason)

    def forget_proof(self, payment_hash: bytes) -> None:
        """See core.purse.Purse."""
        self._change(payment_hash, reusable_until=None)

    def unfinished(self, request_digest: bytes | None = None) -> Sequence[Purchase]:
        """See core.purse.Purse."""
        return [
            row
            for row in self.rows.values()
            if (row.state is DrawState.HELD or (row.state is DrawState.CAPTURED and not (row.served or row.lost)))
            and request_digest in (None, row.request_digest)
        ]

    def reusable(self, origin: str, resource: str) -> Sequence[Purchase]:
        """See core.purse.Purse."""
        rows = [row for row in self.rows.values() if (row.origin, row.resource) == (origin, resource)]
        return [row for row in rows if row.served and row.reusable_until and row.reusable_until > self._clock()][::-1]

    def spent(self, window: Window) -> Amount:
        """See core.purse.Purse."""
        if window.span is None:
            return NOTHING
        rows = [row for row in self.rows.values() if not window.label or window.label in row.labels]
        return sum((row.counted for row in rows), NOTHING)

    def history(self, limit: int, *, label: str = "", since: datetime | None = None) -> Sequence[Purchase]:
        """See core.purse.Purse."""
        return [row for row in self.rows.values() if not label or label in row.labels][::-1][:limit]

    def repair_time(self) -> datetime | None:
        """See core.purse.Purse; its time is its clock's."""
        return None

    def seen(self, origin: str, resource: str) -> Seen:
        """See core.purse.Purse."""
        return replace(self.prices.get((origin, resource), Seen()), payee=self.payees.get(origin))

    def note_price(self, origin: str, resource: str, price: Amount, payee: bytes) -> None:
        """See core.purse.Purse."""
        self._check_room()
        if self.prices.get((origin, resource), Seen()).price != price:
            self.prices[origin, resource] = Seen(price=price, since=self._clock())
        self.payees.setdefault(origin, payee)

    def change_payee(self, origin: str, payee: bytes) -> None:
        """See core.purse.Purse."""
        self._check_room()
        self.payees[origin] = payee

    def approvals(self, *, pending: bool) -> Sequence[Approval]:
        """See core.purse.Purse."""
        return [one for one in self.parked[::-1] if not pending or one.state is ApprovalState.PENDING]

    def decide(self, number: int, *, approved: bool) -> Approval:
        """See core.purse.Purse."""
        approval = self.parked[number - 1]
        if approval.state is not ApprovalState.PENDING:
            raise DecisionRefused(f"{number} is {approval.state}")
        state = ApprovalState.APPROVED if approved else ApprovalState.DENIED
        decided = self.parked[number - 1] = replace(approval, state=state)
        return decided

    def add_purse(self, name: str, limits: Sequence[Window], key: Secret[bytes]) -> SubPurse:
        """See core.purse.Purse."""
        known = self.subs.get(name)
        made = SubPurse(name=name, limits=tuple(limits), key=known.key if known else key, made_at=self._clock())
        self.subs[name] = made
        return made

    def purses(self) -> Sequence[SubPurse]:
        """See core.purse.Purse."""
        return [self.subs[name] for name in sorted(self.subs)]

    def revoke_purse(self, name: str) -> SubPurse:
        """See core.purse.Purse."""
        self.subs[name] = replace(self.subs[name], revoked_at=self._clock())
        return self.subs[name]

    def close(self) -> None:
        """See core.purse.Purse."""
        self.closed = True

    def _change(self, payment_hash: bytes, **changed: object) -> None:
        self._check_room()
        self.rows[payment_hash] = replace(self.rows[payment_hash], **changed)  # type: ignore[arg-type] # as each says

    def _check_room(self) -> None:
        if self.full:
            raise StoreUnavailable("the disk is full")
