"""A ledger that fits on a page, and a machine that asks it and a real one the same things."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from farebox.core.amount import Amount
from farebox.core.payment import Answer, Hold, Payment, PaymentState
from farebox.core.ports import Clock
from farebox.stores.ledger import SqlLedger
from farebox.testing.ledger_stage import DIGEST, LEASE, MOST, OTHER_DIGEST, PRICE, TTL, invoice
from farebox.testing.market import StillClock

NOTHING: Final = Amount(0)
_payments: Final = st.integers(0, 2).map(lambda number: f"payment {number}")


class Model:
    """What a ledger does, without a database and for one caller at a time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rows: dict[bytes, Payment] = {}
        self.answers: dict[bytes, Answer] = {}

    def settle(self, payment_hash: bytes, received: Amount | None) -> bool:
        """`received` None is what a preimage proves: the price."""
        row = self.rows[payment_hash]
        came = row.price if received is None else received
        if row.state not in (PaymentState.OPEN, PaymentState.EXPIRED) or came < row.price:
            return False
        self._write(replace(row, state=PaymentState.FUNDED, received=came, settled_at=self.clock()))
        return True

    def hold(self, payment_hash: bytes, digest: bytes, *, proven: bool) -> Hold | Payment:
        """Claim one call."""
        if proven:
            self.settle(payment_hash, None)
        row, now = self.rows[payment_hash], self.clock()
        live = row.lease_until is not None and row.lease_until > now
        if row.state is not PaymentState.FUNDED or row.digest != digest or live:
            return row
        if row.attempts >= MOST:
            return self._write(replace(row, state=PaymentState.CREDIT, held=NOTHING, lease_until=None))
        row = self._write(
            replace(row, held=row.price, attempts=row.attempts + 1, epoch=row.epoch + 1, lease_until=now + LEASE)
        )
        return Hold(
            payment_hash=payment_hash,
            digest=digest,
            epoch=row.epoch,
            attempt=row.attempts,
            amount=row.price,
            lease_until=now + LEASE,
        )

    def ours(self, hold: Hold) -> bool:
        """Whether a hold is still the payment's own."""
        row = self.rows[hold.payment_hash]
        return row.epoch == hold.epoch and bool(row.held)

    def renew(self, hold: Hold) -> bool:
        """Another lease from now."""
        if not self.ours(hold):
            return False
        self._write(replace(self.rows[hold.payment_hash], lease_until=self.clock() + LEASE))
        return True

    def capture(self, hold: Hold, answer: Answer) -> bool:
        """Charge and answer."""
        if not self.ours(hold):
            return False
        row = self.rows[hold.payment_hash]
        row = replace(row, captured=row.captured + row.held, held=NOTHING, lease_until=None)
        more = row.received - row.captured >= row.price
        self._write(replace(row, attempts=0) if more else replace(row, state=PaymentState.SPENT))
        self.answers[hold.payment_hash] = answer
        return True

    def release(self, hold: Hold, most_attempts: int) -> Payment:
        """Give back, or up."""
        row = self.rows[hold.payment_hash]
        if not self.ours(hold):
            return row
        state = PaymentState.CREDIT if row.attempts >= most_attempts else PaymentState.FUNDED
        return self._write(replace(row, state=state, held=NOTHING, lease_until=None))

    def expire(self) -> int:
        """What is past its time."""
        late = [row for row in self.rows.values() if row.state is PaymentState.OPEN and row.expires_at < self.clock()]
        for row in late:
            self._write(replace(row, state=PaymentState.EXPIRED))
        return len(late)

    def _write(self, row: Payment) -> Payment:
        self.rows[row.payment_hash] = row
        return row


def check_against_model(open_ledger: Callable[[Clock], SqlLedger], *, runs: int, steps: int = 30) -> None:
    """Open a ledger for each run, and ask it and the model the same, so many steps at most. Raises AssertionError."""
    machine = type("OpenedLedgerMachine", (LedgerMachine,), {"open_ledger": staticmethod(open_ledger)})
    bounded = settings(max_examples=runs, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(machine, settings=bounded)


class LedgerMachine(RuleBasedStateMachine):
    """Asks both, and compares."""

    open_ledger: ClassVar[Callable[[Clock], SqlLedger]]

    def __init__(self) -> None:
        super().__init__()
        self.clock = StillClock()
        self.model = Model(self.clock)
        self.loop = asyncio.Runner()
        self.ledger = type(self).open_ledger(self.clock)
        self.names: dict[str, bytes] = {}
        self.holds: list[Hold] = []

    def _hash(self, name: str) -> bytes:
        if name not in self.names:
            price = PRICE if name != "payment 0" else Amount.msats(1)
            payment = invoice(self.clock, name, price=price)
            self.names[name] = payment.payment_hash
            self.model.rows[payment.payment_hash] = payment
            self.loop.run(self.ledger.open_payment(payment))
        return self.names[name]

    @rule(name=_payments, sats=st.sampled_from((1, 20, 21, 42, 50)))
    def settle(self, name: str, sats: int) -> None:
        """Money arrives."""
        payment_hash, came = self._hash(name), Amount.sats(sats)
        expected = self.model.settle(payment_hash, came)
        assert expected == self.loop.run(self.ledger.settle(payment_hash, came))

    @rule(name=_payments, digest=st.sampled_from((DIGEST, DIGEST, DIGEST, OTHER_DIGEST)), proven=st.booleans())
    def hold(self, name: str, digest: bytes, *, proven: bool) -> None:
        """A call asks."""
        payment_hash = self._hash(name)
        expected = self.model.hold(payment_hash, digest, proven=proven)
        asked = self.ledger.hold(payment_hash, digest=digest, proven=proven, lease=LEASE, most_attempts=MOST)
        assert expected == self.loop.run(asked)
        if isinstance(expected, Hold):
            self.holds.append(expected)

    @rule(which=st.integers(0, 5), end=st.sampled_from(("capture", "release", "give up", "renew")))
    def end(self, which: int, end: str) -> None:
        """One of the newest holds, live or stale, is used."""
        if which >= len(self.holds):
            return
        held = self.holds[-1 - which]
        match end:
            case "capture":
                answer = Answer(status=200, headers=(), body=f"{held.payment_hash.hex()} {held.epoch}".encode())
                assert self.model.capture(held, answer) == self.loop.run(self.ledger.capture(held, answer))
            case "release":
                stands = self.loop.run(self.ledger.release(held, most_attempts=MOST))
                assert self.model.release(held, MOST) == stands
            case "give up":
                assert self.model.release(held, 0) == self.loop.run(self.ledger.give_up(held))
            case _:
                assert self.model.renew(held) == self.loop.run(self.ledger.renew(held, lease=LEASE))

    @rule(span=st.sampled_from((LEASE / 2, LEASE, TTL)))
    def pass_time(self, span: timedelta) -> None:
        """Time passes."""
        self.clock.pass_by(span)

    @rule()
    def expire(self) -> None:
        """The upkeep runs."""
        assert self.model.expire() == self.loop.run(self.ledger.expire_payments(grace=timedelta(0)))

    @invariant()
    def both_tell_the_same(self) -> None:
        """Every row, every answer, and books that balance."""
        for payment_hash, expected in self.model.rows.items():
            assert expected == self.loop.run(self.ledger.find_payment(payment_hash))
            answer = self.loop.run(self.ledger.find_answer(payment_hash))
            assert self.model.answers.get(payment_hash) == answer
        balance = self.loop.run(self.ledger.balance())
        rows = self.model.rows.values()
        funded = [row for row in rows if row.state is PaymentState.FUNDED]
        assert balance.balanced
        assert sum(row.received.msat for row in rows) == balance.received.msat
        assert sum(row.captured.msat for row in rows) == balance.earned.msat
        assert sum((row.received - row.captured).msat for row in funded) == balance.held.msat
        assert [] == self.loop.run(self.ledger.audit())

    def teardown(self) -> None:
        """Let go."""
        self.loop.run(self.ledger.close())
        self.loop.close()
