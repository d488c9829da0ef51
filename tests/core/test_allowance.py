"""What narrows one call, or one caller."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.allowance import UNNARROWED, Allowance, host_patterns, matches
from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.errors import MalformedValue

PATTERNS = st.sampled_from(["*", "a.example", "*.example", "*.a.example", "[::1]", "127.0.0.1"])
ALLOWANCES = st.builds(
    Allowance,
    windows=st.lists(st.sampled_from([Window.read("9 sat/day"), Window.read("5 sat/hour")]), max_size=2).map(tuple),
    labels=st.frozensets(st.sampled_from(["tag:a", "tag:b", "purse:p"])),
    most=st.none() | st.integers(0, 100).map(Amount.sats),
    hosts=st.lists(st.lists(PATTERNS, max_size=3).map(tuple), max_size=2).map(tuple),
)
HOSTS = st.sampled_from(["a.example", "b.a.example", "b.example", "[::1]", "127.0.0.1", "elsewhere.test"])


@pytest.mark.parametrize(
    ("host", "patterns"),
    [
        ("api.example.com", ["api.example.com"]),
        ("api.example.com", ["API.example.com"]),
        ("API.example.com", ["api.example.com"]),
        ("api.example.com", ["*.example.com"]),
        ("a.b.example.com", ["*.example.com"]),
        ("api.example.com", ["other.example", "*"]),
        ("[::1]", ["[::1]"]),
        ("[2001:db8::7]", ["*"]),
    ],
)
def test_a_host_is_one_of_these(host: str, patterns: list[str]) -> None:
    assert matches(host, patterns)


@pytest.mark.parametrize(
    ("host", "patterns"),
    [
        ("example.com", ["*.example.com"]),
        ("badexample.com", ["*.example.com"]),
        ("api.example.com.evil.test", ["api.example.com", "*.example.com"]),
        ("api.example.com", []),
        ("1", ["[::1]"]),
        (":", ["[::1]"]),
        ("[::2]", ["[::1]"]),
    ],
)
def test_a_host_is_none_of_these(host: str, patterns: list[str]) -> None:
    assert not matches(host, patterns)


def test_what_is_not_narrowed_admits_everybody() -> None:
    assert UNNARROWED.admits("api.example.com")


def test_a_host_must_be_in_each_list() -> None:
    both = Allowance(hosts=(("*.example.com",),)).narrowed(Allowance(hosts=(("api.example.com", "evil.test"),)))
    assert [True, False, False] == [both.admits(host) for host in ("api.example.com", "b.example.com", "evil.test")]


def test_the_last_word_about_a_price_or_a_payee_counts() -> None:
    outer = Allowance(accepts=Amount.sats(5), payee=b"one")
    assert (Amount.sats(5), b"one") == (outer.narrowed(UNNARROWED).accepts, outer.narrowed(UNNARROWED).payee)
    inner = Allowance(accepts=Amount.sats(7), payee=b"other")
    assert (Amount.sats(7), b"other") == (outer.narrowed(inner).accepts, outer.narrowed(inner).payee)


@given(one=ALLOWANCES, other=ALLOWANCES, host=HOSTS)
@settings(deadline=None)
def test_both_at_once_allow_what_each_allows_and_nothing_more(one: Allowance, other: Allowance, host: str) -> None:
    both = one.narrowed(other)
    assert (one.admits(host) and other.admits(host)) is both.admits(host)
    assert one.windows + other.windows == both.windows
    assert one.labels | other.labels == both.labels
    mosts = [most for most in (one.most, other.most) if most is not None]
    assert (min(mosts) if mosts else None) == both.most


@pytest.mark.parametrize(
    "pattern",
    [
        "127.0.0.1:8402",
        "http://127.0.0.1",
        "127.0.0.0/8",
        "localhost 127.0.0.1",
        "a;b",
        "a,b",
        "me@a",
        "",
        "[::1]:8402",
    ],
)
def test_a_pattern_that_no_host_could_match_is_refused_instead_of_matching_none(pattern: str) -> None:
    with pytest.raises(MalformedValue, match="without scheme"):
        host_patterns([pattern])


@pytest.mark.parametrize("pattern", ["*", "*.example.com", "a.example.com.", "127.1", "::1", "[::1]", "api-*.example"])
def test_a_text_alone_is_one_pattern(pattern: str) -> None:
    assert (pattern,) == host_patterns(pattern) == host_patterns([pattern])
