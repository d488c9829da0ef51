"""The state machines as pictures, drawn from their tables so that docs/states.md can't be out of date."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from farebox.core.escrow import ESCROW_MOVES
from farebox.core.payment import DRAW_MOVES, PAYMENT_MOVES, PURCHASE_MOVES

State = TypeVar("State", bound=StrEnum)
Move = TypeVar("Move", bound=StrEnum)


def diagram() -> str:
    """The machines of payment, draw, purchase and escrow, each as a Mermaid state diagram in its Markdown fence."""
    return "\n".join((draw(PAYMENT_MOVES), draw(DRAW_MOVES), draw(PURCHASE_MOVES), draw(ESCROW_MOVES)))


def draw(moves: Mapping[tuple[State, Move], State]) -> str:
    """One table as a Mermaid state diagram in its Markdown fence.

    A state that no move leads to is where it starts; one that no move leads out of is where it ends.
    """
    left = {state: None for state, _ in moves}  # a dict keeps the order of the table, which a set does not
    reached = dict.fromkeys(moves.values())
    lines = [f"[*] --> {state}" for state in left if state not in reached]
    lines += [f"{state} --> {reached_state}: {move}" for (state, move), reached_state in moves.items()]
    lines += [f"{state} --> [*]" for state in reached if state not in left]
    return "\n    ".join(["```mermaid\nstateDiagram-v2", *lines]) + "\n```\n"
