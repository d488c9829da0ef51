"""The heartbeat of running calls: it keeps their leases, knows when one was lost, and does not end unnoticed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable, UpstreamFailed
from farebox.core.payment import Hold
from farebox.gate.running import RunningCalls

pytestmark = pytest.mark.anyio

LEASE = timedelta(milliseconds=30)


class Ledger:
    """A ledger that only renews; `answer` is what it does then."""

    def __init__(self) -> None:
        self.renewed: list[bytes] = []
        self.at_once = self.most_at_once = 0
        self.answer: Callable[[Hold], bool] = lambda _: True
        self.beaten = asyncio.Event()

    async def renew(self, hold: Hold, *, lease: timedelta) -> bool:
        assert LEASE == lease
        self.renewed.append(hold.payment_hash)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        self.beaten.set()
        return self.answer(hold)

    async def beats(self, count: int = 1) -> None:
        """Returns after so many renewals more."""
        seen = len(self.renewed)
        async with asyncio.timeout(5):
            while len(self.renewed) < seen + count:
                self.beaten.clear()
                await self.beaten.wait()

    async def changed(self, payment_hash: bytes, *, within: timedelta) -> None:
        """There is no other process."""


def a_hold(number: int = 1, *, epoch: int = 1) -> Hold:
    return Hold(
        payment_hash=number.to_bytes(32, "big"),
        digest=bytes(32),
        epoch=epoch,
        attempt=epoch,
        amount=Amount.sats(21),
        lease_until=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture
async def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def running(ledger: Any) -> AsyncIterator[RunningCalls]:
    running = RunningCalls(ledger, LEASE)
    yield running
    running.close()


async def test_a_long_call_is_renewed_again_and_again_until_it_ends(running: RunningCalls, ledger: Ledger) -> None:
    other = a_hold(2)
    running.begin(a_hold())
    running.begin(other)
    await ledger.beats(6)
    running.end(a_hold(), failed=False)
    ledger.renewed.clear()
    await ledger.beats(2)
    assert {other.payment_hash} == set(ledger.renewed)


async def test_many_calls_are_all_renewed_and_only_so_many_at_once(running: RunningCalls, ledger: Ledger) -> None:
    holds = [a_hold(number) for number in range(300)]
    for hold in holds:
        running.begin(hold)
    await ledger.beats(300)
    assert {hold.payment_hash for hold in holds} == set(ledger.renewed)
    assert 64 == ledger.most_at_once


async def test_a_call_that_lost_its_hold_is_told_and_may_not_capture(running: RunningCalls, ledger: Ledger) -> None:
    lost, kept = a_hold(1), a_hold(2)
    ledger.answer = lambda hold: hold != lost
    running.begin(lost)
    running.begin(kept)
    with capture_logs() as logs:
        await ledger.beats(4)
    assert [("lease-lost", 1)] == [(line["event"], line["epoch"]) for line in logs]
    assert (False, True) == (running.ending(lost), running.ending(kept))
    ledger.renewed.clear()
    running.begin(a_hold(3))
    await ledger.beats(1)
    assert lost.payment_hash not in ledger.renewed


async def test_whoever_takes_over_a_payment_in_this_process_takes_it_from_the_one_before(running: RunningCalls) -> None:
    running.begin(a_hold(epoch=1))
    running.begin(a_hold(epoch=2))
    assert (False, True) == (running.ending(a_hold(epoch=1)), running.ending(a_hold(epoch=2)))
    running.end(a_hold(epoch=1), failed=True)
    waiting = asyncio.ensure_future(running.wait(a_hold().payment_hash, asyncio.get_running_loop().time() + 5))
    await asyncio.sleep(0)
    running.end(a_hold(epoch=2), failed=True)
    with pytest.raises(UpstreamFailed):
        await waiting


async def test_whoever_waits_for_a_call_that_was_taken_over_asks_again(running: RunningCalls) -> None:
    running.begin(a_hold(epoch=1))
    waiting = asyncio.ensure_future(running.wait(a_hold().payment_hash, asyncio.get_running_loop().time() + 5))
    await asyncio.sleep(0)
    running.begin(a_hold(epoch=2))
    assert await waiting


async def test_a_hold_that_ends_while_it_is_renewed_was_not_lost(running: RunningCalls, ledger: Ledger) -> None:
    def captured_meanwhile(hold: Hold) -> bool:
        assert running.ending(hold)
        return False

    ledger.answer = captured_meanwhile
    running.begin(a_hold())
    with capture_logs() as logs:
        await ledger.beats()
        await asyncio.sleep(0)
    assert [] == logs


async def test_a_ledger_that_can_not_be_reached_is_tried_again_and_nothing_is_lost_by_it(
    running: RunningCalls, ledger: Ledger
) -> None:
    def unreachable(hold: Hold) -> bool:
        raise StoreUnavailable("away")

    ledger.answer = unreachable
    for number in range(3):
        running.begin(a_hold(number))
    with capture_logs() as logs:
        await ledger.beats(6)
        ledger.answer = lambda _: True
        await ledger.beats(3)
    assert {"leases-not-renewed"} == {line["event"] for line in logs}
    assert [3] == list({line["calls"] for line in logs})
    assert [True] * 3 == [running.ending(a_hold(number)) for number in range(3)]


async def test_a_heartbeat_that_dies_is_told_as_an_error_and_another_begins(
    running: RunningCalls, ledger: Ledger
) -> None:
    def broken(hold: Hold) -> bool:
        raise ZeroDivisionError

    ledger.answer = broken
    running.begin(a_hold())
    with capture_logs() as logs:
        await ledger.beats()
        ledger.answer = lambda _: True
        await ledger.beats(2)
    assert [("heartbeat-died", "error", 1)] == [(line["event"], line["log_level"], line["calls"]) for line in logs]
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)


async def test_nothing_is_renewed_any_more_once_it_is_closed(running: RunningCalls, ledger: Ledger) -> None:
    running.begin(a_hold())
    await ledger.beats()
    with capture_logs() as logs:
        running.close()
        heartbeats = [task for task in asyncio.all_tasks() if task.get_name() == "farebox-heartbeat"]
        await asyncio.gather(*heartbeats, return_exceptions=True)
    assert [True] == [task.cancelled() for task in heartbeats]
    assert [] == logs
