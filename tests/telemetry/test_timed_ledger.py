"""A timed ledger is the same ledger."""

from datetime import timedelta

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable
from farebox.stores import open_ledger
from farebox.telemetry.timed_ledger import timed

pytestmark = pytest.mark.anyio


class Told(list[tuple[str, str]]):
    def __call__(self, operation: str, took: timedelta, error: str) -> None:
        assert took > timedelta(0)
        self.append((operation, error))


async def test_each_operation_is_told_and_answers_as_before() -> None:
    told, plain = Told(), open_ledger("sqlite::memory:")
    ledger = timed(plain, told)
    assert (await plain.balance(), None) == (await ledger.balance(), await ledger.find_payment(bytes(32)))
    assert await ledger.settle(bytes(32), Amount.sats(1)) is False
    assert [("balance", ""), ("find_payment", ""), ("settle", "")] == told
    await ledger.close()


async def test_what_waits_and_what_is_no_operation_is_not_timed() -> None:
    told, plain = Told(), open_ledger("sqlite::memory:")
    ledger = timed(plain, told)
    assert abs(plain.now() - ledger.now()) < timedelta(minutes=1)
    await ledger.changed(bytes(32), within=timedelta(0))
    await ledger.close()
    assert [] == told


async def test_an_operation_that_fails_is_told_with_its_error() -> None:
    told, plain = Told(), open_ledger("sqlite::memory:")
    ledger = timed(plain, told)
    await ledger.close()
    with pytest.raises(StoreUnavailable):
        await ledger.balance()
    assert [("balance", "store-unavailable")] == told
