"""The demo writer."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.errors import ArgumentsInvalid
from farebox.core.exchange import Json
from farebox.services.demo import demo_capability

WRITER = demo_capability("21 sat")


def written(prompt: str) -> dict[str, str]:
    answer: dict[str, str] = json.loads(asyncio.run(WRITER({"prompt": prompt})))
    return answer


def test_it_is_sold_like_a_model_would_be() -> None:
    assert (WRITER.route.resource, WRITER.name) == ("POST /api/dvm", "text")


def test_it_says_that_no_model_wrote_the_answer() -> None:
    assert "no model" in written("Write 3 bullet points about L402")["model"]


@given(st.text(min_size=1, max_size=200))
def test_any_prompt_gets_three_different_points(prompt: str) -> None:
    lines = asyncio.run(WRITER({"prompt": prompt}))
    points = json.loads(lines)["result"].split("\n")
    assert len(set(points)) == 3
    assert all(point.startswith("- ") for point in points)


def test_the_same_prompt_has_the_same_answer_and_other_words_another() -> None:
    assert written("What is L402?") == written("What is L402?")
    assert written("How does a macaroon caveat work?") != written("What is L402?")


def test_the_points_are_about_the_words_of_the_prompt() -> None:
    assert "macaroon" in written("Tell me of MACAROONS, a macaroon and its caveats")["result"]


@pytest.mark.parametrize("arguments", [{}, {"prompt": ""}, {"prompt": "x" * 16_001}, {"prompt": "x", "model": "y"}])
def test_a_call_without_a_proper_prompt_is_refused(arguments: dict[str, Json]) -> None:
    with pytest.raises(ArgumentsInvalid):
        asyncio.run(WRITER(arguments))
