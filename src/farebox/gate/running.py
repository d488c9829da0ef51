"""Running calls: what this process runs on held payments, and the heartbeat that keeps their leases.

Rules (reliability, 3.1: heartbeat)
1. A running call renews its lease every third of it, and the first time after one to two thirds, so that nobody takes
   its payment; a lease that ran out is another's to take.
2. Leases are renewed a few at a time, so that the ledger is not asked for thousands at once.
3. A call whose hold is another's is lost: it is told, and captures nothing, whatever it still does.
4. A heartbeat that ends is told as an error, and another begins. A ledger that can't be reached is tried again at the
   next beat, and is met at the capture, which fails closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

import structlog

from farebox.core.errors import StoreUnavailable, UpstreamFailed
from farebox.core.payment import Hold

log = structlog.get_logger("farebox")

_RENEWED_AT_ONCE: Final = 64


@dataclass(slots=True)
class _Running:
    hold: Hold
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    failed: bool = False
    lost: bool = False

    def is_over(self) -> bool:
        """Whether its lease is no longer of interest: it is being decided, has ended or was lost."""
        return self.ending or self.ended.is_set()


class Leases(Protocol):
    """The part of a ledger that is about the leases of running calls."""

    async def renew(self, hold: Hold, *, lease: timedelta) -> bool:
        """Extend the lease; False when the hold is no longer ours."""

    async def changed(self, payment_hash: bytes, *, within: timedelta) -> None:
        """Returns when the call that holds this payment may have ended."""


class RunningCalls:
    """The calls of this process that hold a payment."""

    def __init__(self, ledger: Leases, lease: timedelta) -> None:
        self._ledger = ledger
        self._lease = lease
        self._calls: dict[bytes, _Running] = {}
        self._heartbeat: asyncio.Task[None] | None = None

    def begin(self, hold: Hold) -> None:
        """A call begins."""
        before = self._calls.get(hold.payment_hash)
        self._calls[hold.payment_hash] = _Running(hold)
        if before is not None:
            self._lose(before)
        if self._heartbeat is None:
            self._beat()

    def ending(self, hold: Hold) -> bool:
        """A call is about to be decided, and its lease not renewed any more; False when its hold was lost."""
        running = self._find(hold)
        if running is None or running.lost:
            return False
        running.ending = True
        return True

    def end(self, hold: Hold, *, failed: bool) -> None:
        """A call ended; whoever waits for it is told."""
        running = self._find(hold)
        if running is not None:
            del self._calls[hold.payment_hash]
            running.failed = failed
            running.ended.set()

    async def wait(self, payment_hash: bytes, deadline: float) -> bool:
        """Wait until the call that holds this payment ended, here or in another process; False when out of patience.

        deadline: in the event loop's time. Raises UpstreamFailed when it ended by failing.
        """
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        running = self._calls.get(payment_hash)
        if running is None or running.lost:  # another process runs it
            await self._ledger.changed(payment_hash, within=timedelta(seconds=left))
            return True
        try:
            async with asyncio.timeout(left):
                await running.ended.wait()
        except TimeoutError:
            return False
        if running.failed:
            raise UpstreamFailed("the call that was running for this payment failed")
        return True

    def close(self) -> None:
        """Renew no more."""
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.cancel()

    def _find(self, hold: Hold) -> _Running | None:
        running = self._calls.get(hold.payment_hash)
        return running if running is not None and running.hold.epoch == hold.epoch else None

    def _lose(self, running: _Running) -> None:
        running.lost = True
        running.ended.set()
        log.warning("lease-lost", payment_hash=running.hold.payment_hash.hex(), epoch=running.hold.epoch)

    # --- the heartbeat ------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._heartbeat = asyncio.get_running_loop().create_task(self._keep_leases(), name="farebox-heartbeat")
        self._heartbeat.add_done_callback(self._died)

    def _died(self, heartbeat: asyncio.Task[None]) -> None:
        if heartbeat is not self._heartbeat:  # it was closed
            return
        self._heartbeat = None
        if heartbeat.cancelled():  # with the loop, or by nobody that we know: the next call begins another
            return
        log.error("heartbeat-died", calls=len(self._calls), exc_info=heartbeat.exception())
        self._beat()

    async def _keep_leases(self) -> None:
        """Renew the lease of every call that has been running for a third of it."""
        third_s = self._lease.total_seconds() / 3
        loop = asyncio.get_running_loop()
        while True:
            next_at = loop.time() + third_s
            old = list(self._calls.values())
            await asyncio.sleep(next_at - loop.time())
            began = loop.time()
            for at in range(0, len(old), _RENEWED_AT_ONCE):
                await self._renew(old[at : at + _RENEWED_AT_ONCE])
            if loop.time() - began > third_s:
                log.error("leases-late", calls=len(old), took_s=round(loop.time() - began, 1))

    async def _renew(self, calls: Sequence[_Running]) -> None:
        outcomes = await asyncio.gather(*[self._renew_one(running) for running in calls])
        if failed := outcomes.count(False):
            log.warning("leases-not-renewed", calls=failed, reason="the ledger does not answer")

    async def _renew_one(self, running: _Running) -> bool:
        """False when the ledger can't be asked."""
        if running.is_over():
            return True
        try:
            renewed = await self._ledger.renew(running.hold, lease=self._lease)
        except StoreUnavailable:
            return False
        # One that is being decided meanwhile has no hold to renew any more.
        if not renewed and not running.is_over():
            self._lose(running)
        return True
