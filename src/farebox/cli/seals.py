"""The audit log: sealed while a shop serves, and verified by `farebox ledger verify`.

Rules
1. One process for each ledger seals: each minute, and once more when it closes.
2. Each new head of the chain is logged, so that a log that is kept elsewhere vouches for the ledger.
3. Verifying changes nothing. It tells what it has looked at even when it finds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from farebox.cli.books import store_url
from farebox.cli.config import read_place
from farebox.cli.keys import chosen_file
from farebox.cli.output import Cell, Exit, is_person, show, show_one
from farebox.cli.state import key_file, read_keys, ring_of
from farebox.core.errors import MalformedAmount, StoreUnavailable
from farebox.core.payment import Balance
from farebox.core.secret import KeyRing, Keys
from farebox.stores.ledger import SqlLedger, open_ledger
from farebox.stores.places import shown
from farebox.stores.seals import MOST_ENTRIES, Noted, Sealed, Verified, seal_entries, verify_seals

SEAL_EVERY: Final = timedelta(minutes=1)
_LOGGED_DIGITS: Final = 32  # of the head's 64; more of them look like a secret in a log

log = structlog.get_logger("farebox")


@asynccontextmanager
async def sealing(ledger: SqlLedger, keys: Keys, *, every: timedelta = SEAL_EVERY) -> AsyncIterator[None]:
    """While inside, entries are sealed each minute; what is left, at the end."""
    closing = asyncio.Event()  # rather than a cancellation, so that what is being sealed is also logged
    sealed = asyncio.create_task(_seal_on(ledger, keys, every, closing))
    try:
        yield
    finally:
        closing.set()
        await sealed


async def seal_all(ledger: SqlLedger, ring: KeyRing) -> Sealed | None:
    """Seal everything that is there; the newest seal. What can't be sealed now is told, and sealed next time."""
    newest: Sealed | None = None
    entries = 0
    try:
        while sealed := await seal_entries(ledger.engine, ring):
            newest, entries = sealed, entries + sealed.entries
            if sealed.entries < MOST_ENTRIES:
                break
    except StoreUnavailable as error:
        log.warning("not-sealed", reason=error.detail)
    if newest is not None:
        log.info("ledger-sealed", entries=entries, head=str(newest.head)[: -64 + _LOGGED_DIGITS])
    return newest


async def _seal_on(ledger: SqlLedger, keys: Keys, every: timedelta, closing: asyncio.Event) -> None:
    while not closing.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(every.total_seconds()):
                await closing.wait()
        await seal_all(ledger, keys.ring())


def verify_ledger(store: str | None, keys: Path | None, *, folder: Path, noted: Sequence[str], as_json: bool) -> Exit:
    """Verify a ledger: the chain of seals, every payment, the balance. Raises ConfigError, StoreUnavailable."""
    url = store_url(store, folder)
    if keys is None and store is not None and store.endswith(".toml"):
        keys = key_file(read_place(Path(store), "keys").keys, folder)
    path = chosen_file(keys, folder=folder)
    ring = ring_of(read_keys(path), path)
    heads = [Noted.read(each) for each in noted]

    async def read() -> tuple[Verified, Sequence[str], Balance | None]:
        ledger = open_ledger(url)
        try:
            verified, wrong = await verify_seals(ledger.engine, ring, noted=heads), await ledger.audit()
            with suppress(MalformedAmount):  # an account is below nothing
                return verified, wrong, await ledger.balance()
            return verified, wrong, None
        finally:
            await ledger.close()

    verified, wrong, balance = asyncio.run(read())
    balanced = balance is not None and balance.balanced
    findings = [
        *verified.findings,
        *wrong,
        *([] if balanced else ["what was received is not what the accounts add up to"]),
    ]
    told: dict[str, Cell] = {
        "seals": verified.seals,
        "sealed_entries": verified.entries,
        "unsealed_entries": verified.unsealed,
        "seals_of_revoked_keys": verified.by_later_keys,
        "received": None if balance is None else str(balance.received),
        "balanced": balanced,
        "findings": len(findings),
        "head": None if verified.head is None else str(verified.head),
    }
    show_one(told, title=f"Ledger {shown(url)}", as_json=as_json)
    if findings or is_person(as_json=as_json):
        rows: list[dict[str, Cell]] = [{"finding": each} for each in findings]
        show(rows, title="What is wrong", as_json=as_json, empty="nothing is wrong")
    return Exit.TAMPERED if findings else Exit.DONE
