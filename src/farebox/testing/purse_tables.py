"""The table of a purse: a row that can not be is refused, whoever writes it."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import pytest

from farebox.core.errors import StoreUnavailable
from farebox.core.ports import Purse
from farebox.stores.stored_purse import StoredPurse
from farebox.testing.purse_stage import PurseStage

DIGEST: Final = sha256(b"a request").digest()
OTHER_DIGEST: Final = sha256(b"another request").digest()
_PURCHASE: Final[Mapping[str, object]] = {
    "payment_hash": DIGEST,
    "attempt": 0,
    "request_digest": DIGEST,
    "origin": "",
    "url": "",
    "amount_msat": 5,
    "fee_limit_msat": 2,
    "fee_msat": 1,
    "challenge_json": "{}",
    "invoice_expires_at_ms": 0,
    "state": "held",
    "preimage": None,
    "served": 0,
    "held_at_ms": 0,
    "counted_msat": 7,
    "counted_at_ms": 0,
}
_PARKED: Final[Mapping[str, object]] = {
    "number": 1,
    "state": "pending",
    "request_digest": DIGEST,
    "origin": "",
    "resource": "",
    "url": "",
    "amount_msat": 5,
    "payee": b"",
    "labels": " ",
    "asked_at_ms": 0,
    "expires_at_ms": 1,
}
_PAID: Final = {**_PURCHASE, "state": "captured", "preimage": DIGEST, "counted_msat": 6}
_FAILED: Final = {**_PURCHASE, "state": "released", "counted_msat": 0}

# Each breaks one rule of the table, and no other one.
_NO_PURCHASES: Final = (
    {**_PURCHASE, "payment_hash": b"short"},
    {**_PURCHASE, "attempt": -1},
    {**_PURCHASE, "amount_msat": -1, "counted_msat": 1},
    {**_PURCHASE, "fee_limit_msat": -1, "counted_msat": 4},
    {**_PURCHASE, "fee_msat": -1},
    {**_FAILED, "state": "lost"},
    {**_PAID, "served": 2},
    {**_PURCHASE, "preimage": DIGEST},
    {**_PURCHASE, "served": 1},
    {**_PURCHASE, "counted_msat": 6},
    {**_PAID, "counted_msat": 7},
    {**_FAILED, "counted_msat": 1},
)


class PurseTables(PurseStage):
    """Rows that can be, and those that can't."""

    @pytest.mark.parametrize("written", _NO_PURCHASES)
    def test_the_file_itself_refuses_a_purchase_that_can_not_be(
        self, purse: Purse, written: Mapping[str, object]
    ) -> None:
        """Whoever writes it."""
        with pytest.raises(StoreUnavailable):
            self._insert(purse, written)
        assert [] == self._states(purse)

    @pytest.mark.parametrize("written", [_PURCHASE, _PAID, _FAILED])
    def test_the_file_itself_refuses_a_second_attempt_beside_one_that_did_not_fail(
        self, purse: Purse, written: Mapping[str, object]
    ) -> None:
        """And lets one through after one that failed."""
        self._insert(purse, written)
        if written is _FAILED:
            self._insert(purse, {**_PURCHASE, "attempt": 1})
            return
        with pytest.raises(StoreUnavailable):
            self._insert(purse, {**_PURCHASE, "attempt": 1})
        self._insert(purse, {**_PURCHASE, "payment_hash": OTHER_DIGEST})

    @pytest.mark.parametrize("end", [_PAID, _FAILED])
    def test_the_file_itself_refuses_to_make_anything_else_of_a_purchase_that_has_ended(
        self, purse: Purse, end: Mapping[str, object]
    ) -> None:
        """Though the row could be so; but what failed may turn out to be paid."""
        self._insert(purse, end)
        columns = ", ".join(f"{column} = :{column}" for column in _PURCHASE)
        for other in (_PURCHASE, _FAILED)[: 2 if end is _PAID else 1]:
            with pytest.raises(StoreUnavailable, match="not in the table of moves"):
                self._write(purse, f"UPDATE purchases SET {columns}", other)
        assert [end["state"]] == self._states(purse)
        if end is _FAILED:
            self._write(purse, f"UPDATE purchases SET {columns}", _PAID)

    @pytest.mark.parametrize("state", ["pending", "approved", "denied", "used", "expired"])
    def test_the_file_itself_refuses_a_word_that_nobody_can_give(self, purse: Purse, state: str) -> None:
        """What has run out is told by its time."""
        row = {**_PARKED, "state": state}
        if state != "expired":
            self._insert(purse, row, into="approvals")
            return
        with pytest.raises(StoreUnavailable):
            self._insert(purse, row, into="approvals")

    @pytest.mark.parametrize("length", [0, 31, 32, 33])
    def test_the_file_itself_refuses_a_sub_purse_whose_key_is_none(self, purse: Purse, length: int) -> None:
        """It is 32 bytes long."""
        row = {"name": "p", "limits": "1 sat/day", "signing_key": bytes(length), "made_at_ms": 0}
        if length == 32:
            self._insert(purse, row, into="purses")
            return
        with pytest.raises(StoreUnavailable):
            self._insert(purse, row, into="purses")

    def _insert(self, purse: Purse, written: Mapping[str, object], *, into: str = "purchases") -> None:
        columns, values = ", ".join(written), ", ".join(f":{name}" for name in written)
        self._write(purse, f"INSERT INTO {into} ({columns}) VALUES ({values})", written)

    def _write(self, purse: Purse, statement: str, values: Mapping[str, object]) -> list[tuple[object, ...]]:
        assert isinstance(purse, StoredPurse)
        with purse.writing() as tx:  # as somebody who has the file
            return list(tx.execute(statement, values).fetchall())

    def _states(self, purse: Purse) -> list[object]:
        return [state for (state,) in self._write(purse, "SELECT state FROM purchases", {})]
