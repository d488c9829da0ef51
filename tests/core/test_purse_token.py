"""The token of a sub-purse: whoever holds it can narrow it, and nobody can widen it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.allowance import Allowance
from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.errors import MalformedBudget, MalformedValue, TokenRefused
from farebox.core.macaroon import MOST_CAVEATS, Macaroon
from farebox.core.purse_token import KEY_BYTES, PurseToken, checked_name
from farebox.core.secret import Secret

KEY = Secret(bytes(range(KEY_BYTES)))
OTHER_KEY = Secret(bytes(KEY_BYTES))
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LIMITS = (Window.read("100 sat/day"),)
CAVEATS = (b"limit=5 sat/day", b"host=*.example.com", b"limit=3 sat/call", b"until=1893456000")

limits = st.lists(
    st.builds(
        Window,
        limit=st.integers(0, 10**6).map(Amount.msats),
        per=st.sampled_from(["call", "min", "hour", "day", "week", "month"]),
    ),
    max_size=2,
)
hosts = st.lists(st.sampled_from(["*", "api.example.com", "*.example.com", "[::1]", "127.0.0.1"]), max_size=2)
untils = st.none() | st.integers(-3, 3).map(lambda days: NOW + timedelta(days=days))
narrowings = st.lists(st.tuples(limits, hosts, untils), max_size=4)


def minted() -> PurseToken:
    return PurseToken.mint("researcher", KEY)


def written(*caveats: bytes, location: bytes = b"farebox purse", identifier: bytes = b"researcher") -> PurseToken:
    """What somebody makes who holds the key, or the token of the mother."""
    macaroon = Macaroon.mint(KEY.reveal(), identifier, location=location, caveats=caveats)
    return PurseToken.read("fbx_" + base64.urlsafe_b64encode(macaroon.write()).decode())


def changed(caveats: tuple[bytes, ...]) -> PurseToken:
    """A token with other caveats than those that its signature covers."""
    honest = Macaroon.mint(KEY.reveal(), b"researcher", location=b"farebox purse", caveats=CAVEATS)
    forged = Macaroon(
        location=honest.location, identifier=honest.identifier, caveats=caveats, signature=honest.signature
    )
    return PurseToken.read("fbx_" + forged.write_base64())


def allowance(token: PurseToken, key: Secret[bytes] = KEY, now: datetime = NOW) -> Allowance:
    return token.allowance(key, limits=LIMITS, now=now)


# --- a token as it is made --------------------------------------------------------------------------------------------


def test_a_token_may_what_its_purse_may_and_is_counted_under_its_name() -> None:
    allowed = allowance(minted())
    assert ["100 sat/day in researcher"] == [str(window) for window in allowed.windows]
    assert frozenset({"purse:researcher"}) == allowed.labels
    assert (None, (), None, None) == (allowed.most, allowed.hosts, allowed.accepts, allowed.payee)


def test_a_token_reads_back_as_itself() -> None:
    token = minted().attenuate(limits=[Window.read("5 sat/day")], hosts=["api.example.com"], until=NOW)
    assert token.reveal().startswith("fbx_")
    assert token == PurseToken.read(token.reveal())
    assert "researcher" == token.name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "one begins with fbx_"),
        ("sk-garbage", "one begins with fbx_"),
        ("fbx_", "can't be read: a farebox token is copied whole"),
        ("fbx_garbage", "can't be read"),
        (minted().reveal()[:-9], "can't be read"),
    ],
)
def test_what_is_no_token_is_told_how_one_looks(text: str, told: str) -> None:
    with pytest.raises(TokenRefused, match=told):
        PurseToken.read(text)


def test_a_token_does_not_print() -> None:
    token = minted()
    secret = token.reveal().removeprefix("fbx_")
    for text in (str(token), repr(token), f"{token}"):
        assert secret[-20:] not in text
        assert "signature" not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fbx_",
        "fbx_AAAA",
        "fbx_é",
        "researcher",
        minted().reveal().removeprefix("fbx_"),
        minted().reveal()[:-1],
        minted().reveal() + "A",
        "fbx_" + "A" * 100_000,
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        PurseToken.read(text)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("location", "identifier"), [(b"lsat", b"researcher"), (b"farebox purse", b"A B"), (b"farebox purse", b"\xff")]
)
def test_a_macaroon_of_something_else_is_no_token(location: bytes, identifier: bytes) -> None:
    with pytest.raises(TokenRefused):
        written(location=location, identifier=identifier)


@given(st.text())
@settings(deadline=None)
def test_any_text_is_a_token_or_refused(text: str) -> None:
    for given_text in (text, f"fbx_{text}"):
        with pytest.raises(TokenRefused):
            PurseToken.read(given_text)


@pytest.mark.parametrize("name", ["a", "researcher", "a-b-1", "1", "a" * 40])
def test_a_purse_is_named_with_lower_case_letters_digits_and_hyphens(name: str) -> None:
    assert name == checked_name(name)


@pytest.mark.parametrize(
    "name", ["", "-", "a-", "-a", "A", "a b", "a/b", "a:b", "a\n", "ä", "a" * 41, "a.b", "a_b", "１"]
)
def test_any_other_name_is_refused(name: str) -> None:
    for refused in (lambda: checked_name(name), lambda: PurseToken.mint(name, KEY)):
        with pytest.raises(MalformedValue, match=r"^A value is not what it should be: a purse is named with"):
            refused()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_token_under_another_key_is_refused() -> None:
    with pytest.raises(TokenRefused):
        allowance(minted(), OTHER_KEY)


@pytest.mark.parametrize(
    "caveats",
    [
        (),
        CAVEATS[:-1],
        CAVEATS[1:],
        (CAVEATS[1], CAVEATS[0], *CAVEATS[2:]),
        (b"limit=6 sat/day", *CAVEATS[1:]),
        (*CAVEATS, b"limit=1 sat/day"),
        (CAVEATS[0] + CAVEATS[1], *CAVEATS[2:]),
    ],
    ids=["all removed", "last removed", "first removed", "reordered", "edited", "added unsigned", "joined"],
)
def test_caveats_that_were_changed_are_refused(caveats: tuple[bytes, ...]) -> None:
    assert allowance(changed(CAVEATS)).windows
    with pytest.raises(TokenRefused, match="not of this purse, or was changed"):
        allowance(changed(caveats))


@pytest.mark.parametrize(
    "caveat",
    [
        b"most=5 sat",
        b"Limit=5 sat/day",
        b" limit=5 sat/day",
        b"limit",
        b"limit=",
        b"limit=5",
        b"limit=-5 sat/day",
        b"host=",
        b"host=a.example,",
        b"host=a b",
        b"host=A.example",
        b"host=a.example/path",
        b"until=",
        b"until=soon",
        b"until=-1",
        b"until=1e12",
        b"until=9999999999999",
        b"until=\xd9\xa1",
        b"\xff\xfe",
        b"=",
    ],
)
def test_a_caveat_that_is_not_known_is_refused_and_not_skipped(caveat: bytes) -> None:
    with pytest.raises(TokenRefused):
        allowance(written(caveat))
    with pytest.raises(TokenRefused):
        allowance(written(b"limit=5 sat/day", caveat, b"host=*"))


def test_whose_token_is_not_good_is_told_nothing_of_the_purse() -> None:
    for token, key in ((minted(), OTHER_KEY), (written(b"until=1"), KEY), (written(b"x=1"), KEY)):
        with pytest.raises(TokenRefused) as refused:
            allowance(token, key)
        assert "100" not in str(refused.value)
        assert not refused.value.evidence


# --- what is narrowed -------------------------------------------------------------------------------------------------


def test_a_token_ends_when_it_says() -> None:
    token = minted().attenuate(until=NOW)
    assert allowance(token, now=NOW - timedelta(seconds=1)).windows
    with pytest.raises(TokenRefused, match="run out"):
        allowance(token, now=NOW)


def test_the_earliest_end_counts() -> None:
    token = minted().attenuate(until=NOW).attenuate(until=NOW + timedelta(days=9))
    with pytest.raises(TokenRefused, match="run out"):
        allowance(token, now=NOW + timedelta(days=1))


def test_the_end_of_a_second_is_rounded_down() -> None:
    token = minted().attenuate(until=NOW + timedelta(microseconds=999_999))
    with pytest.raises(TokenRefused, match="run out"):
        allowance(token)


def test_a_host_must_be_in_every_list_of_a_token() -> None:
    token = minted().attenuate(hosts=["*.example.com", "[::1]"]).attenuate(hosts=["API.example.com", "evil.test"])
    allowed = allowance(token)
    found = [allowed.admits(host) for host in ("api.example.com", "b.example.com", "evil.test", "[::1]")]
    assert [True, False, False, False] == found


@pytest.mark.parametrize("host", ["", "a b", "a/b", "http://a.example", "a,b", "a*", "ä.example", "a" * 5000])
def test_what_is_no_pattern_of_hosts_is_refused_when_it_is_added(host: str) -> None:
    with pytest.raises(
        MalformedValue, match=r"^A value is not what it should be: (a host is such as|the token gets too long)"
    ):
        minted().attenuate(hosts=[host])


def test_a_limit_for_a_host_or_a_tag_is_refused_when_it_is_added() -> None:
    for text in ("5 sat/day on a.example", "5 sat/day tagged x", "5 sat/day per host"):
        with pytest.raises(MalformedBudget):
            minted().attenuate(limits=[Window.read(text)])


def test_a_limit_for_a_host_that_somebody_writes_himself_counts_everything() -> None:
    allowed = allowance(written(b"limit=5 sat/day on a.example", b"limit=4 sat/day per host"))
    assert all(window.among(allowed.labels) == (window,) for window in allowed.windows)


def test_a_token_does_not_grow_without_end() -> None:
    token = minted().attenuate(limits=LIMITS * MOST_CAVEATS)
    assert len(token.reveal()) < 10_000
    with pytest.raises(MalformedValue, match=r"^A value is not what it should be: the token gets too long"):
        token.attenuate(limits=LIMITS)


def test_a_calendars_day_of_a_token_begins_where_the_purse_says() -> None:
    token = minted().attenuate(limits=[Window.read("5 sat/calendar day")])
    allowed = token.allowance(KEY, limits=LIMITS, now=NOW, zone=ZoneInfo("Asia/Tokyo"))
    assert datetime(2026, 1, 2, 15, tzinfo=UTC) == allowed.windows[-1].ends(NOW)


def test_what_is_spent_with_a_token_counts_for_every_token_it_was_made_from() -> None:
    mother = minted().attenuate(limits=[Window.read("50 sat/day")])
    child = mother.attenuate(limits=[Window.read("20 sat/day")])
    sister = mother.attenuate(limits=[Window.read("30 sat/day")])
    grandchild = child.attenuate(limits=[Window.read("5 sat/hour")])
    told = {name: allowance(token) for name, token in locals().items() if isinstance(token, PurseToken)}
    for name in ("child", "sister", "grandchild"):
        assert told["mother"].labels < told[name].labels
        assert set(told["mother"].windows) < set(told[name].windows)
    assert told["child"].labels < told["grandchild"].labels
    assert not told["sister"].labels <= told["child"].labels
    own = [window.label for window in (told["child"].windows[-1], told["sister"].windows[-1])]
    assert own[0] not in told["sister"].labels
    assert own[1] not in told["child"].labels


def test_each_limit_counts_what_it_was_put_on_and_nothing_else() -> None:
    one, other = (PurseToken.mint(name, KEY).attenuate(limits=LIMITS) for name in ("researcher", "writer"))
    assert not allowance(one).labels & allowance(other).labels
    renewed = PurseToken.mint("researcher", OTHER_KEY).attenuate(limits=LIMITS)
    assert {"purse:researcher"} == allowance(one).labels & allowance(renewed, OTHER_KEY).labels


@given(narrowings, st.integers(0, 4), st.sampled_from(["api.example.com", "[::1]", "elsewhere.test"]))
@settings(deadline=None)
def test_whatever_is_added_narrows(
    added: list[tuple[list[Window], list[str], datetime | None]], first: int, host: str
) -> None:
    tokens = [minted()]
    for windows, patterns, until in added:
        tokens.append(PurseToken.read(tokens[-1].attenuate(limits=windows, hosts=patterns, until=until).reveal()))
    told: list[Allowance | None] = []
    for token in tokens:
        try:
            told.append(allowance(token))
        except TokenRefused:
            told.append(None)
    earlier, later = told[min(first, len(told) - 1)], told[-1]
    if later is None:
        return
    assert earlier is not None  # what has run out never comes back
    assert earlier.labels <= later.labels
    assert later.windows[: len(earlier.windows)] == earlier.windows
    assert all(window.label in later.labels for window in later.windows)
    assert earlier.admits(host) or not later.admits(host)


@given(st.data())
@settings(deadline=None)
def test_a_token_of_which_one_byte_is_another_is_refused(data: st.DataObject) -> None:
    token = minted().attenuate(limits=LIMITS, hosts=["a.example"])
    raw = bytearray(base64.urlsafe_b64decode(token.reveal().removeprefix("fbx_") + "=="))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TokenRefused):
        allowance(PurseToken.read("fbx_" + base64.urlsafe_b64encode(raw).decode().rstrip("=")))
