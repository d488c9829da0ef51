"""The drawn state machines."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from farebox.core.diagram import diagram, draw

PAGE = Path(__file__).parents[2] / "docs" / "states.md"
PICTURE = re.compile(r"^```mermaid\n.*?^```\n", re.MULTILINE | re.DOTALL)


class Door(StrEnum):
    SHUT = "shut"
    WIDE = "wide"
    GONE = "gone"


class Push(StrEnum):
    PUSH = "push"
    TAKE_AWAY = "take away"


def test_the_page_shows_exactly_what_the_tables_draw() -> None:
    assert PICTURE.findall(diagram()) == PICTURE.findall(PAGE.read_text(encoding="utf-8"))


def test_there_is_one_picture_each_for_the_payment_the_draw_the_purchase_and_the_escrow() -> None:
    payment, draw_, purchase, escrow = PICTURE.findall(diagram())
    assert "open --> funded: settle" in payment
    assert "held --> captured: capture" in draw_
    assert "released --> captured: capture" in purchase
    assert "released --> captured" not in draw_
    assert "running --> ready: keep the answer" in escrow


def test_a_picture_starts_where_no_move_leads_to_and_ends_where_none_leads_out() -> None:
    moves = {
        (Door.SHUT, Push.PUSH): Door.WIDE,
        (Door.WIDE, Push.PUSH): Door.WIDE,
        (Door.WIDE, Push.TAKE_AWAY): Door.GONE,
    }
    assert draw(moves).splitlines() == [
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> shut",
        "    shut --> wide: push",
        "    wide --> wide: push",
        "    wide --> gone: take away",
        "    gone --> [*]",
        "```",
    ]
