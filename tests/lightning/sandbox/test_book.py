from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.amount import Amount
from farebox.core.errors import WalletError
from farebox.lightning.sandbox import Sandbox, Trouble
from farebox.lightning.sandbox.book import Book
from farebox.testing.backends import TEN_MINUTES


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    Book(tmp_path / "sandbox.db", balances={}).close()
    assert stat.S_IMODE((tmp_path / "sandbox.db").stat().st_mode) == 0o600


def test_each_file_has_a_seed_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    seeds = []
    for name in ("one.db", "two.db", "one.db"):
        book = Book(tmp_path / name, balances={})
        seeds.append(book.seed)
        book.close()
    assert seeds[0] == seeds[2] != seeds[1]


def test_balances_are_given_once(tmp_path: Path) -> None:
    Book(tmp_path / "sandbox.db", balances={"buyer": Amount.sats(7)}).close()
    book = Book(tmp_path / "sandbox.db", balances={"buyer": Amount.sats(8)})
    try:
        assert book.balance("buyer") == Amount.sats(7)
    finally:
        book.close()


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WalletError, match=r"nowhere/sandbox\.db can't be used") as caught:
        Book(tmp_path / "nowhere" / "sandbox.db", balances={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"no database at all, just words" * 100])
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(content)
    with pytest.raises(WalletError, match="not a database"):
        Book(path, balances={})
    assert path.read_bytes() == content


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["pay", "release", "cancel"]),
        st.integers(min_value=0, max_value=3),
        st.sampled_from([Trouble.NONE, Trouble.FAIL, Trouble.STAY_IN_FLIGHT, Trouble.PAY_TWICE, Trouble.LOSE_REPLY]),
    ),
    max_size=30,
)


@given(moves=MOVES)
def test_no_satoshi_is_made_or_lost_whatever_happens(moves: list[tuple[str, int, Trouble]]) -> None:
    sandbox = Sandbox.open(None)
    try:
        sandbox.buyer.fee = Amount.sats(1)
        invoices = [
            sandbox.seller.issue(Amount.sats(300_000 * (n + 1)), description="", expires_in=TEN_MINUTES)
            for n in range(4)
        ]
        for move, which, trouble in moves:
            payment_hash = invoices[which].payment_hash
            if move == "pay":
                sandbox.script(payment_hash, trouble)
                sandbox.buyer.pay(invoices[which], fee_limit=None)
            elif move == "release":
                sandbox.release(payment_hash)
            else:
                sandbox.seller.cancel(payment_hash)
        transfers = [sandbox.buyer.find_transfer(invoice.payment_hash) for invoice in invoices]
        held = sum(t.sent.msat + t.fee.msat for t in transfers if t is not None and t.state == "held")
        fees = sum(t.fee.msat for t in transfers if t is not None and t.state == "paid")
        everything = sandbox.buyer.funds().msat + sandbox.seller.funds().msat + held + fees
        assert everything == Amount.sats(1_000_000).msat
    finally:
        sandbox.close()
