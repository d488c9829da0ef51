"""The audit log: what is sealed stays as it was, or is seen not to be."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import pytest

from farebox.core.errors import StoreUnavailable
from farebox.core.secret import KeyRing
from farebox.stores.ledger import SqlLedger
from farebox.stores.seals import Head, Noted, Verified, seal_entries, verify_seals
from farebox.testing.ledger_stage import ANSWER, LedgerStage, invoice, must_hold, run_sql, told
from farebox.testing.market import StillClock

RING: Final = KeyRing.generate()
SEALS: Final = 3
SALES: Final = 1  # under each seal; each is two entries
_FIRST: Final = "(SELECT MIN(payment_id) FROM entries)"

# What is done to a ledger of three seals, and what is told of it. The books balance after most of them.
_TAMPERED: Final = (
    (
        (
            f"UPDATE payments SET received_msat = received_msat + 7, captured_msat = captured_msat + 7 "
            f"WHERE payment_id = {_FIRST}",
            f"UPDATE draws SET amount_msat = amount_msat + 7 WHERE payment_id = {_FIRST}",
            f"UPDATE entries SET amount_msat = amount_msat + 7 WHERE payment_id = {_FIRST}",
        ),
        "seal 1 does not fit its entries",
    ),
    (
        (
            "DELETE FROM answers WHERE payment_id = (SELECT MIN(payment_id) FROM draws)",
            f"DELETE FROM draws WHERE payment_id = {_FIRST}",
            f"UPDATE entries SET payment_id = payment_id + 1, epoch = epoch + 1 WHERE payment_id = {_FIRST}",
        ),
        "seal 1 does not fit its entries",
    ),
    (("DELETE FROM entries WHERE seal = 2 AND to_account = 'earned'",), "before it: it had 2, and there are 1"),
    (("UPDATE entries SET at_ms = at_ms + 1 WHERE seal = 3",), "seal 3 does not fit its entries"),
    (("UPDATE entries SET epoch = epoch + 1 WHERE seal = 3",), "seal 3 does not fit its entries"),
    (("UPDATE entries SET seal = 4 - seal WHERE seal IN (1, 3)",), "seal 1 does not fit its entries"),
    (("UPDATE entries SET seal = NULL WHERE seal = 1",), "an entry is not sealed that is older"),
    (
        (
            "INSERT INTO entries (payment_id, epoch, from_account, to_account, amount_msat, at_ms, seal) "
            "SELECT payment_id, epoch + 1, from_account, to_account, amount_msat, at_ms, seal FROM entries",
        ),
        "seal 2 does not fit its entries",
    ),
    (
        (
            "INSERT INTO entries (payment_id, epoch, from_account, to_account, amount_msat, at_ms) "
            "SELECT payment_id, epoch + 1, from_account, to_account, amount_msat, at_ms FROM entries WHERE seal = 1",
        ),
        "an entry is not sealed that is older",
    ),
    (("DELETE FROM seals WHERE seal = 1",), "seal 1 is missing before seal 2"),
    (("DELETE FROM seals WHERE seal < 3",), "seals 1 to 2 are missing before seal 3"),
    (("DELETE FROM seals WHERE seal = 3",), "2 entries say that they are under seal 3, which is missing"),
    (
        (
            "UPDATE seals SET seal = 9 WHERE seal = 1",
            "UPDATE seals SET seal = 1 WHERE seal = 2",
            "UPDATE seals SET seal = 2 WHERE seal = 9",
        ),
        "seal 1 does not fit its entries",
    ),
    (("UPDATE seals SET digest = mac WHERE seal = 2",), "seal 3 does not fit its entries or the seal before it"),
    (("UPDATE seals SET mac = digest WHERE seal = 2",), "seal 2 was not made with the key that it names"),
    (("UPDATE seals SET sealed_at_ms = sealed_at_ms + 1 WHERE seal = 2",), "seal 2 does not fit its entries"),
    (("UPDATE seals SET key_id = digest WHERE seal = 3",), "seal 3 is under a key that is not in the ring"),
    (
        ("UPDATE payments SET payment_hash = digest WHERE payment_id = (SELECT MIN(payment_id) FROM payments)",),
        "seal 1",
    ),
)

_REFUSED: Final = (
    "UPDATE entries SET amount_msat = amount_msat + 1",
    "UPDATE entries SET seal = NULL",
    "UPDATE entries SET seal = seal + 1",
    "DELETE FROM entries",
    "UPDATE seals SET digest = mac",
    "DELETE FROM seals",
)
_DIGEST: Final = bytes(32)
_NO_SEALS: Final = (
    {"seal": 0, "entries": 1, "digest": _DIGEST, "mac": _DIGEST},
    {"seal": 9, "entries": 0, "digest": _DIGEST, "mac": _DIGEST},
    {"seal": 9, "entries": 1, "digest": _DIGEST[1:], "mac": _DIGEST},
    {"seal": 9, "entries": 1, "digest": _DIGEST, "mac": _DIGEST[1:]},
)


async def sell(ledger: SqlLedger, clock: StillClock, *names: str) -> None:
    """Sell something to each, at a price."""
    for name in names:
        await ledger.open_payment(invoice(clock, name))
        await ledger.capture(await must_hold(ledger, invoice(clock, name)), ANSWER)


async def sell_and_seal(ledger: SqlLedger, clock: StillClock, ring: KeyRing = RING, *, seals: int = SEALS) -> Head:
    """So many seals, with some sales and some time between them."""
    heads: list[Head] = []
    for number in range(seals):
        now = clock().timestamp()
        await sell(ledger, clock, *(f"{now} {sale}" for sale in range(SALES)))
        sealed = await seal_entries(ledger.engine, ring)
        assert sealed is not None
        heads.append(sealed.head)
        clock.pass_by(timedelta(minutes=5 + number))
    return heads[-1]


async def verified(ledger: SqlLedger, *noted: str, ring: KeyRing = RING) -> Verified:
    """What verifying sees."""
    return await verify_seals(ledger.engine, ring, noted=[Noted.read(each) for each in noted])


class LedgerSeals(LedgerStage):
    """Sealing, and seeing that something is not as it was sealed."""

    @told
    async def test_an_empty_ledger_has_nothing_to_seal_and_nothing_wrong(self, ledger: SqlLedger) -> None:
        """No seal for no entries."""
        assert await seal_entries(ledger.engine, RING) is None
        expected = Verified(seals=0, entries=0, unsealed=0, by_later_keys=0, head=None, findings=())
        assert expected == await verified(ledger)

    @told
    async def test_every_entry_is_sealed_once(self, ledger: SqlLedger, clock: StillClock) -> None:
        """And what came since waits for the next seal."""
        head = await sell_and_seal(ledger, clock)
        await sell(ledger, clock, "since")
        seen = await verified(ledger)
        assert (SEALS, SEALS * SALES * 2, 2, head, ()) == (
            *(seen.seals, seen.entries, seen.unsealed, seen.head, seen.findings),
        )

    @told
    async def test_many_entries_make_many_seals(self, ledger: SqlLedger, clock: StillClock) -> None:
        """Each as large as it may be, until nothing is left."""
        await sell(ledger, clock, *map(str, range(5)))
        counts = []
        while sealed := await seal_entries(ledger.engine, RING, most=3):
            counts.append(sealed.entries)
        assert ([3, 3, 3, 1], ()) == (counts, (await verified(ledger)).findings)

    @told
    async def test_more_seals_than_are_read_at_a_time_are_all_verified(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """Page after page."""
        await sell(ledger, clock, *map(str, range(13)))
        while await seal_entries(ledger.engine, RING, most=1):
            pass
        seen = await verified(ledger)
        assert (26, ()) == (seen.seals, seen.findings)

    @told
    async def test_a_seal_covers_what_it_has_marked_and_nothing_else(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """Neither what somebody else has marked for a seal that is yet to come."""
        await sell(ledger, clock, "a sale")
        await run_sql(ledger, "UPDATE entries SET seal = 9 WHERE to_account = 'earned'")
        sealed = await seal_entries(ledger.engine, RING)
        assert sealed is not None
        assert 1 == sealed.entries

    @told
    async def test_of_many_who_seal_at_once_each_entry_is_sealed_by_one(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """And the chain has no gap."""
        await sell(ledger, clock, *map(str, range(6)))
        await asyncio.gather(*(seal_entries(ledger.engine, RING, most=3) for _ in range(8)))
        seen = await verified(ledger)
        assert (4, 12, 0, ()) == (seen.seals, seen.entries, seen.unsealed, seen.findings)

    @pytest.mark.parametrize("statement", _REFUSED)
    @told
    async def test_the_database_itself_refuses_to_change_what_was_entered_and_sealed(
        self, ledger: SqlLedger, clock: StillClock, statement: str
    ) -> None:
        """Whoever writes the statement."""
        await sell_and_seal(ledger, clock, seals=1)
        with pytest.raises(StoreUnavailable, match=r"never (changed|deleted)"):
            await run_sql(ledger, statement)
        assert () == (await verified(ledger)).findings

    @pytest.mark.parametrize("seal", _NO_SEALS)
    @told
    async def test_the_database_itself_refuses_what_can_be_no_seal(
        self, ledger: SqlLedger, seal: dict[str, object]
    ) -> None:
        """A number, some entries, a digest and a MAC."""
        columns = "seal, entries, digest, mac, key_id, sealed_at_ms"
        with pytest.raises(StoreUnavailable):
            await run_sql(
                ledger,
                f"INSERT INTO seals ({columns}) VALUES (:seal, :entries, :digest, :mac, :key_id, :at_ms)",
                {"key_id": RING.newest, "at_ms": 0, **seal},
            )
        assert 0 == await self.count(ledger, "seals")

    @pytest.mark.parametrize(("statements", "found"), _TAMPERED)
    @told
    async def test_what_was_tampered_with_is_found(
        self, clock: StillClock, statements: tuple[str, ...], found: str
    ) -> None:
        """By whoever has the database, with its guards gone, and not the keys."""
        ledger = self.open_ledger(clock)
        await sell_and_seal(ledger, clock)
        await self.drop_guards(ledger)
        for statement in statements:
            await run_sql(ledger, statement)
        findings = (await verified(ledger)).findings
        await ledger.close()
        assert any(found in line for line in findings), findings

    @told
    async def test_a_chain_made_anew_without_the_keys_is_found(self, clock: StillClock) -> None:
        """Under a key of one's own, and under the name of ours."""
        ledger = self.open_ledger(clock)
        await sell_and_seal(ledger, clock)
        await self.drop_guards(ledger)
        await run_sql(ledger, "UPDATE entries SET amount_msat = amount_msat + 1, seal = NULL")
        await run_sql(ledger, "DELETE FROM seals")
        await seal_entries(ledger.engine, KeyRing.generate())
        strangers = (await verified(ledger)).findings
        await run_sql(ledger, "UPDATE seals SET key_id = :ours", {"ours": RING.newest})
        claimed = (await verified(ledger)).findings
        await ledger.close()
        assert [True, True] == ["not in the ring" in strangers[0], "seal 1 was not made with the key" in claimed[0]]

    @told
    async def test_an_end_that_was_cut_off_is_found_by_whoever_noted_it(self, clock: StillClock) -> None:
        """The chain alone can't tell."""
        ledger = self.open_ledger(clock)
        head = await sell_and_seal(ledger, clock)
        await self.drop_guards(ledger)
        await run_sql(ledger, "UPDATE entries SET seal = NULL WHERE seal = 3")
        await run_sql(ledger, "DELETE FROM seals WHERE seal = 3")
        cut, noticed = (await verified(ledger)).findings, (await verified(ledger, str(head))).findings
        await sell_and_seal(ledger, clock, seals=1)
        replaced = (await verified(ledger, f"{head.seal}:{head.digest.hex()[:16]}")).findings
        await ledger.close()
        assert ((), ("seal 3 was noted, and is missing",)) == (cut, noticed)
        assert ("seal 3 is not the one that was noted",) == replaced

    @told
    async def test_a_head_that_was_noted_stays_good_however_much_is_sealed_later(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """So it need not be the newest."""
        noted = [str(await sell_and_seal(ledger, clock, seals=1)) for _ in range(3)]
        assert () == (await verified(ledger, *noted)).findings

    @told
    async def test_seals_of_a_revoked_key_are_vouched_for_by_later_ones(
        self, ledger: SqlLedger, clock: StillClock
    ) -> None:
        """And without later ones they are told."""
        await sell_and_seal(ledger, clock, KeyRing.generate(), seals=2)
        (finding,) = (await verified(ledger)).findings
        assert finding.startswith("seals 1 to 2 are under a key that is not in the ring")
        await sell_and_seal(ledger, clock, seals=1)
        seen = await verified(ledger)
        assert (2, ()) == (seen.by_later_keys, seen.findings)
