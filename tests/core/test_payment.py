"""The two tables of moves, cell by cell, and the books."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import (
    DRAW_MOVES,
    PAYMENT_MOVES,
    PURCHASE_MOVES,
    Balance,
    DrawMove,
    DrawState,
    Payment,
    PaymentMove,
    PaymentState,
)

PAYMENT_CELLS = """
              settle    expire    drain    give up   refund
    open      funded    expired   .        .         .
    funded    .         .         spent    credit    .
    spent     .         .         .        .         .
    expired   funded    .         .        .         .
    credit    .         .         .        .         refunded
    refunded  .         .         .        .         .
"""
DRAW_CELLS = """
              capture   release
    held      captured  released
    captured  .         .
    released  .         .
"""
PURCHASE_CELLS = """
              capture   release
    held      captured  released
    captured  .         .
    released  captured  .
"""
RECEIVED = {PaymentState.FUNDED, PaymentState.SPENT, PaymentState.CREDIT, PaymentState.REFUNDED}


def cells(table: str) -> list[tuple[str, str, str | None]]:
    """(state, move, what it leads to) of every cell; a dot is a move that does not exist."""
    head, *rows = table.replace("give up", "give_up").strip().splitlines()
    return [
        (row.split()[0], move.replace("_", " "), None if cell == "." else cell)
        for row in rows
        for move, cell in zip(head.split(), row.split()[1:], strict=True)
    ]


@pytest.mark.parametrize(("state", "move", "reached"), cells(PAYMENT_CELLS))
def test_a_payment_moves_as_the_table_says_and_no_other_way(state: str, move: str, reached: str | None) -> None:
    assert reached == PAYMENT_MOVES.get((PaymentState(state), PaymentMove(move)))


@pytest.mark.parametrize(("state", "move", "reached"), cells(DRAW_CELLS))
def test_a_draw_moves_as_the_table_says_and_no_other_way(state: str, move: str, reached: str | None) -> None:
    assert reached == DRAW_MOVES.get((DrawState(state), DrawMove(move)))


@pytest.mark.parametrize(("state", "move", "reached"), cells(PURCHASE_CELLS))
def test_a_purchase_moves_as_a_draw_and_may_turn_out_to_be_paid(state: str, move: str, reached: str | None) -> None:
    assert reached == PURCHASE_MOVES.get((DrawState(state), DrawMove(move)))


def test_no_state_and_no_move_is_left_out_of_the_cells() -> None:
    assert {(state, move) for state in PaymentState for move in PaymentMove} == {
        (state, move) for state, move, _ in cells(PAYMENT_CELLS)
    }
    assert {(state, move) for state in DrawState for move in DrawMove} == {
        (state, move) for state, move, _ in cells(DRAW_CELLS)
    }


def ends(moves: Iterable[tuple[StrEnum, StrEnum]], states: type[StrEnum]) -> set[StrEnum]:
    return set(states) - {state for state, _ in moves}


def test_a_payment_ends_spent_or_refunded_and_a_draw_captured_or_released() -> None:
    assert ends(PAYMENT_MOVES, PaymentState) == {PaymentState.SPENT, PaymentState.REFUNDED}
    assert ends(DRAW_MOVES, DrawState) == {DrawState.CAPTURED, DrawState.RELEASED}


def test_every_state_can_be_reached_and_every_move_is_used() -> None:
    assert set(PaymentState) == {PaymentState.OPEN, *PAYMENT_MOVES.values()}
    assert set(DrawState) == {DrawState.HELD, *DRAW_MOVES.values()}
    assert set(PaymentMove) == {move for _, move in PAYMENT_MOVES}
    assert set(DrawMove) == {move for _, move in DRAW_MOVES}


def test_the_tables_can_not_be_changed() -> None:
    with pytest.raises(TypeError):
        PAYMENT_MOVES[PaymentState.SPENT, PaymentMove.SETTLE] = PaymentState.FUNDED  # type: ignore[index]  # refused


@given(st.lists(st.sampled_from(PaymentMove), max_size=30))
@settings(deadline=None)
def test_whatever_happens_money_that_was_received_stays_received_and_an_end_is_an_end(moves: list[PaymentMove]) -> None:
    state, settled, path = PaymentState.OPEN, 0, [PaymentState.OPEN]
    for move in moves:
        reached = PAYMENT_MOVES.get((state, move))
        if reached is None:
            continue
        assert state not in {PaymentState.SPENT, PaymentState.REFUNDED}
        assert state not in RECEIVED or reached in RECEIVED
        settled += move is PaymentMove.SETTLE
        state = reached
        path.append(state)
    assert (state in RECEIVED) == (settled == 1)
    assert len(path) == len(set(path))


def payment(**changed: object) -> Payment:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    told: dict[str, object] = {
        "payment_hash": bytes(32),
        "state": PaymentState.OPEN,
        "price": Amount.sats(21),
        "digest": bytes(32),
        "resource": "POST /api/dvm",
        "client": "192.0.2.7/32",
        "invoice": "lnbcrt…",
        "created_at": at,
        "expires_at": at,
    }
    return Payment(**{**told, **changed})  # type: ignore[arg-type]  # a builder of many types


def test_a_new_payment_has_received_held_and_captured_nothing() -> None:
    new = payment()
    assert (new.received, new.held, new.captured) == (NOTHING, NOTHING, NOTHING)
    assert (new.attempts, new.epoch, new.lease_until, new.settled_at) == (0, 0, None, None)


@given(st.lists(st.integers(0, 10**9).map(Amount.msats), min_size=4, max_size=4))
@settings(deadline=None)
def test_the_books_balance_when_every_millisatoshi_is_somewhere(parts: list[Amount]) -> None:
    earned, held, credit, refunded = parts
    balance = Balance(
        received=earned + held + credit + refunded, earned=earned, held=held, credit=credit, refunded=refunded
    )
    assert balance.balanced


@pytest.mark.parametrize("missing", [Amount.msats(1), Amount.sats(21)])
def test_the_books_do_not_balance_when_a_millisatoshi_is_missing_or_doubled(missing: Amount) -> None:
    earned = Amount.sats(100)
    less = Balance(received=earned + missing, earned=earned, held=NOTHING, credit=NOTHING, refunded=NOTHING)
    more = Balance(received=earned, earned=earned + missing, held=NOTHING, credit=NOTHING, refunded=NOTHING)
    assert not less.balanced
    assert not more.balanced
