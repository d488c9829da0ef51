from __future__ import annotations

import pytest

from farebox.core.errors import ConfigError
from farebox.stores import versions
from farebox.stores.statements import Migration, Phase
from farebox.stores.versions import Plan, plan

FIRST = Migration(number=1, name="tables", phase=Phase.EXPAND, text="1")
LESS = Migration(number=2, name="less", phase=Phase.CONTRACT, text="2")
MORE = Migration(number=3, name="more", phase=Phase.EXPAND, text="3")


@pytest.fixture(autouse=True)
def _three_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "migrations", lambda room, engine: (FIRST, LESS, MORE))


def planned(applied: dict[int, Phase], *, contract: bool = False) -> Plan:
    return plan(applied, place="shop.db", room="ledger", engine="sqlite", contract=contract)


def test_whoever_opens_a_database_adds_what_it_lacks_and_takes_nothing_away() -> None:
    assert (FIRST, MORE) == planned({}).needed
    assert (MORE,) == planned({1: Phase.EXPAND}).needed


def test_what_older_ones_count_on_is_taken_away_when_an_operator_says_so() -> None:
    assert (LESS,) == planned({1: Phase.EXPAND, 3: Phase.EXPAND}, contract=True).needed


def test_a_database_to_which_a_newer_farebox_has_only_added_may_be_opened() -> None:
    applied = {1: Phase.EXPAND, 3: Phase.EXPAND, 4: Phase.EXPAND}
    assert Plan(needed=(), newer=True) == planned(applied)


def test_a_database_from_which_a_newer_farebox_took_something_away_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"shop\.db was written by a newer farebox") as refused:
        planned({1: Phase.EXPAND, 3: Phase.EXPAND, 4: Phase.CONTRACT, 5: Phase.EXPAND})
    assert "\n" not in str(refused.value)


def test_a_phase_that_is_not_known_here_is_one_to_be_refused() -> None:
    with pytest.raises(ConfigError):
        planned({1: Phase.EXPAND, 4: Phase("rename")})


def test_edges_of_a_newer_farebox_stay_and_any_other_go() -> None:
    ours, there = frozenset({("a", "b")}), frozenset({("a", "b"), ("b", "c")})
    assert frozenset({("b", "c")}) == Plan(needed=(), newer=False).surplus(ours, there)
    assert frozenset() == Plan(needed=(), newer=True).surplus(ours, there)
    assert frozenset({("a", "b")}) == Plan(needed=(), newer=True).missing(ours, frozenset())
