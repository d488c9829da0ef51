from __future__ import annotations

from datetime import timedelta

import pytest

from farebox.core.exchange import Json, Wire
from farebox.payer import Answered
from farebox.payer.verdict import ComeAgain, Refused, judge
from farebox.testing.buyers import NOON


def verdict(status: int, body: dict[str, Json] | None = None, **headers: str) -> ComeAgain | Refused | None:
    told = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    answer = Answered(status=status, origin="https://shop.example:443", wire=Wire(headers=told, body=body or {}))
    return judge(answer, bytes(32), dialects=[], now=NOON)


@pytest.mark.parametrize(
    ("told", "after"),
    [
        ("3", timedelta(seconds=3)),
        (" 3 ", timedelta(seconds=3)),
        ("0", timedelta(0)),
        ("Fri, 02 Jan 2026 12:00:09 GMT", timedelta(seconds=9)),
        ("Fri, 02 Jan 2026 11:00:00 GMT", timedelta(0)),
        ("soon", timedelta(0)),
        ("-3", timedelta(0)),
        ("", timedelta(0)),
    ],
)
def test_a_seller_says_in_seconds_or_by_date_when_to_come_again(told: str, after: timedelta) -> None:
    assert ComeAgain(reason="the seller answers 503", after=after) == verdict(503, retry_after=told)


@pytest.mark.parametrize("told", ["1000000", "9" * 30, "٣" * 3])
def test_no_number_is_too_large_or_strange_to_be_read(told: str) -> None:
    assert isinstance(verdict(503, retry_after=told), ComeAgain)


@pytest.mark.parametrize(
    "kind",
    ["urn:farebox:problem:request-mismatch", "https://example.org/problems/request-mismatch", "request-mismatch"],
)
def test_the_last_word_of_a_problem_type_tells_what_is_meant(kind: str) -> None:
    assert Refused(reason="the seller says request-mismatch", status=409) == verdict(409, {"type": kind})


@pytest.mark.parametrize("kind", [None, 5, [], {}, "about:blank", "", "urn:farebox:problem:"])
def test_a_conflict_of_an_unknown_kind_is_the_caller_s_own(kind: Json) -> None:
    assert verdict(409, {"type": kind}) is None


def test_a_402_without_an_invoice_is_a_refusal_unless_it_says_to_come_again() -> None:
    assert isinstance(verdict(402), Refused)
    assert isinstance(verdict(402, retry_after="1"), ComeAgain)


@pytest.mark.parametrize("text", ["Fri, 31 Dec 9999 23:59:59 -2300", "Fri, 01 Jan 0001 00:00:00 +2300"])
def test_a_date_beyond_all_calendars_is_no_reason_to_stumble(text: str) -> None:
    answer = Answered(status=503, origin="https://a.example:443", wire=Wire(headers=(("retry-after", text),)))

    assert isinstance(judge(answer, bytes(32), dialects=(), now=NOON), ComeAgain)
