"""RFC 9110 challenges: what is read, what is refused, what can't be written."""

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farebox.core.errors import MalformedChallenge
from farebox.dialects.http_auth import (
    AuthChallenge,
    find_challenges,
    read_challenges,
    split_credential,
    write_challenge,
)

NAMES = st.text(st.sampled_from("!#$%&'*+.^_`|~-09AZaz"), min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
PARAMETERS = st.dictionaries(NAMES.map(str.lower), VALUES, min_size=1, max_size=5).map(
    lambda given: tuple(given.items())
)


def one(text: str) -> AuthChallenge:
    (challenge,) = read_challenges((text,))
    return challenge


@settings(deadline=None)
@given(
    challenges=st.lists(st.tuples(NAMES, PARAMETERS), min_size=1, max_size=5),
    blank=st.sampled_from((",", ", ", " ,\t ,")),
)
def test_what_is_written_is_read_again_however_it_is_joined(
    challenges: list[tuple[str, tuple[tuple[str, str], ...]]], blank: str
) -> None:
    joined = blank.join(write_challenge(scheme, parameters) for scheme, parameters in challenges)
    expected = tuple(AuthChallenge(scheme=scheme, parameters=parameters) for scheme, parameters in challenges)
    assert expected == read_challenges((joined,))
    assert expected == read_challenges(write_challenge(scheme, parameters) for scheme, parameters in challenges)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Basic realm="a, b"', (("realm", "a, b"),)),
        ('Basic realm="a, Payment id=\\"x\\""', (("realm", 'a, Payment id="x"'),)),
        ('L402 macaroon = "m" , invoice\t=\t"i"', (("macaroon", "m"), ("invoice", "i"))),
        ("L402 macaroon=AgEE/+=, invoice=lnbc1", (("macaroon", "AgEE/+="), ("invoice", "lnbc1"))),
        ('L402 MACAROON="m"', (("macaroon", "m"),)),
        ('L402 ,, macaroon="m",,', (("macaroon", "m"),)),
        ('  L402   macaroon="m"  ', (("macaroon", "m"),)),
        ('L402 macaroon=""', (("macaroon", ""),)),
        ('Basic realm="\xe9\t\\\\"', (("realm", "\xe9\t\\"),)),
    ],
)
def test_every_spelling_that_the_rfc_allows_is_read(text: str, expected: tuple[tuple[str, str], ...]) -> None:
    assert expected == one(text).parameters


def test_schemes_with_a_token68_alone_or_with_nothing_stand_beside_others() -> None:
    read = read_challenges(('Negotiate, NTLM TlRMTVNT==, Basic realm="x", Bearer , L402 a="b"',))
    assert [challenge.scheme for challenge in read] == ["Negotiate", "NTLM", "Basic", "Bearer", "L402"]
    assert [challenge.token68 for challenge in read] == ["", "TlRMTVNT==", "", "", ""]


def test_the_scheme_keeps_its_spelling_and_a_parameter_is_found_in_lower_case() -> None:
    challenge = one('lsat Macaroon="m"')
    assert (challenge.scheme, challenge.get("macaroon"), challenge.get("invoice")) == ("lsat", "m", None)


def test_an_empty_value_has_no_challenge() -> None:
    assert not read_challenges(("", " , ,\t"))


@pytest.mark.parametrize(
    "text",
    [
        'L402 macaroon="m',
        'L402 macaroon="m\\',
        'L402 macaroon="m" invoice="i"',
        'L402 macaroon="m"invoice="i"',
        'L402 macaroon="m", macaroon="n"',
        'L402 macaroon="m", Macaroon="m"',
        'macaroon="m", invoice="i"',
        'L402 ="m"',
        'L402 macaroon="m\r\nSet-Cookie: a=b"',
        'L402 macaroon="m\x00"',
        "L402 macaroon=a\\b",
        'L402 abc== macaroon="m"',
        '"L402"',
        "L402;macaroon=m",
    ],
)
def test_what_has_no_single_meaning_is_refused(text: str) -> None:
    with pytest.raises(MalformedChallenge):
        read_challenges((text,))


@pytest.mark.parametrize(
    "values",
    [
        ("Basic",) * 65,
        (", ".join(["Basic"] * 65),),
        ('Basic realm="' + "a" * 65_536 + '"',),
        ('Basic realm="' + "a" * 40_000 + '"',) * 2,
    ],
)
def test_more_than_sixty_four_challenges_or_kibibytes_are_refused(values: tuple[str, ...]) -> None:
    with pytest.raises(MalformedChallenge):
        read_challenges(values)


@settings(deadline=None)
@given(text=st.text(st.sampled_from('aL=", \t\\\r\n\x7f\xe9€/+'), max_size=60) | st.text(max_size=60))
@example("\ud800")
@example("=")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read_challenges((text,))
    except MalformedChallenge:
        found = ()
    assert all(challenge.scheme for challenge in found)


@pytest.mark.parametrize(
    "piece", ["a", "a ", "a,", "a=", 'a="', '\\"', '"\\', " ", "\t,", 'a x="', "a=b ", "a =", "a==", 'x="y",', "= "]
)
def test_reading_takes_time_in_proportion_to_the_length(piece: str) -> None:
    def seconds(length: int) -> float:
        text = 'L402 a="b' + piece * (length // len(piece))
        spent = []
        for _ in range(3):
            started = time.process_time()
            assert refused_or_read(text)
            spent.append(time.process_time() - started)
        return min(spent)

    # A quadratic scanner would take 64 times as long as for an eighth; the constant keeps small figures from counting.
    assert seconds(64_000) < 30 * seconds(8_000) + 0.02


def refused_or_read(text: str) -> bool:
    try:
        read_challenges((text,))
    except MalformedChallenge:
        return True
    return True


@settings(deadline=None)
@given(scheme=st.text(max_size=8), name=st.text(max_size=8), value=st.text(max_size=20))
def test_nothing_that_is_written_can_end_a_header_line(scheme: str, name: str, value: str) -> None:
    try:
        written = write_challenge(scheme, ((name, value),))
    except MalformedChallenge:
        written = ""
    assert re.fullmatch(r"[ -~]*", written)


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\nb", "a\x00", "a\tb", "\x7f", "é", "\u2028"])
def test_a_value_that_no_header_may_carry_is_not_written(value: str) -> None:
    with pytest.raises(MalformedChallenge):
        write_challenge("Payment", (("realm", value),))


@pytest.mark.parametrize(
    ("scheme", "name"), [("", "a"), ("a b", "a"), ("a", ""), ("a", "b c"), ("a", 'b"'), ("a\r\n", "b")]
)
def test_a_scheme_or_name_that_is_no_token_is_not_written(scheme: str, name: str) -> None:
    with pytest.raises(MalformedChallenge):
        write_challenge(scheme, ((name, "v"),))


def test_only_quote_and_backslash_are_escaped() -> None:
    assert write_challenge("Payment", (("realm", "a\"b\\c,='d"),)) == 'Payment realm="a\\"b\\\\c,=\'d"'


def test_junk_in_the_line_of_another_scheme_hides_nothing() -> None:
    good = 'L402 macaroon="m", invoice="i"'
    for junk in ('Bearer realm="open', "=;=", "a b c"):
        (challenge,) = find_challenges((junk, good, junk), "l402")
        assert challenge.get("macaroon") == "m"
        assert not find_challenges((junk,), "l402")


def test_junk_in_the_only_line_that_names_the_scheme_is_refused() -> None:
    with pytest.raises(MalformedChallenge):
        find_challenges(('Bearer realm="x"', 'lsat macaroon="open'), "l402", "lsat")


def test_a_flood_of_lines_is_refused() -> None:
    with pytest.raises(MalformedChallenge):
        find_challenges(('L402 a="b"',) * 65, "l402")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("L402 a:b", ("l402", "a:b")),
        ("  LSAT \t a:b ", ("lsat", "\t a:b")),
        ("Payment   x", ("payment", "x")),
        ("abc", ("abc", "")),
        ("", ("", "")),
    ],
)
def test_a_credential_is_its_scheme_and_the_rest(value: str, expected: tuple[str, str]) -> None:
    assert expected == split_credential(value)
