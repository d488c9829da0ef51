"""Sellers who mean harm (target B8): every scenario ends as its line says, whichever client buys."""

from __future__ import annotations

import pytest

from farebox.testing.hostile import CONTROLS, CORPUS, Scenario
from farebox.testing.shopping import Face

CLIENTS = ("client", "async client")


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("scenario", CORPUS, ids=lambda scenario: scenario.name)
def test_a_hostile_seller_gets_nothing_that_it_must_not(scenario: Scenario, kind: str) -> None:
    scenario.play(Face(kind))


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("scenario", CONTROLS, ids=lambda scenario: scenario.name)
def test_an_honest_seller_of_the_field_is_paid_once_and_serves(scenario: Scenario, kind: str) -> None:
    scenario.play(Face(kind))


def test_there_are_enough_of_both_and_no_two_are_the_same() -> None:
    names = [scenario.name for scenario in (*CORPUS, *CONTROLS)]

    assert len(names) == len(set(names))
    assert len(CORPUS) >= 64
    assert len(CONTROLS) >= 8
