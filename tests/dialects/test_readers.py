"""A table of readers: how clients, directories and libraries take our 402 apart; each has to find its scheme.

Each reader is written here from the behaviour that was observed, with the name of whose behaviour it is.
"""

import re
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email.message import Message
from hashlib import sha256
from urllib.request import parse_http_list

import httpx
import pytest

from farebox.core.exchange import Challenge
from farebox.core.secret import KeyRing
from farebox.dialects import L402, PaymentAuth, PaymentHash
from farebox.testing.dialects import NOW, PREIMAGE, QUOTE, sample_invoice

KEYS = KeyRing([sha256(b"a key").digest()])
INVOICE = sample_invoice()
Lines = list[tuple[str, str]]


def issued() -> tuple[Challenge, Challenge]:
    found = [
        dialect.issue(QUOTE, INVOICE, valid_until=NOW + timedelta(days=1))
        for dialect in (L402(KEYS), PaymentAuth(KEYS, "shop.example"))
    ]
    token, payment = found
    assert token is not None
    assert payment is not None
    return token, payment


TOKEN, PAYMENT = issued()
WIRE = (
    L402().write_challenge(TOKEN)
    | PaymentAuth().write_challenge(PAYMENT)
    | PaymentHash().write_challenge(
        Challenge(dialect="payment_hash", invoice=INVOICE.text, payment_hash=INVOICE.payment_hash)
    )
)
COMBINED = ", ".join(WIRE.all("www-authenticate"))
LINES: Lines = [
    ("content-type", "application/problem+json"),
    ("www-authenticate", COMBINED),
    ("cache-control", "no-store"),
]


@dataclass(frozen=True)
class Reader:
    """name: whose behaviour. gather: how it gets one value out of the lines. take: what it makes of it."""

    name: str
    gather: Callable[[Lines], str]
    take: Callable[[str], object]
    finds: object


# --- how a value is got out of header lines ---------------------------------------------------------------------------


def first_line(lines: Lines) -> str:
    """Go's `Header.Get`."""
    return next(value for name, value in lines if name == "www-authenticate")


def last_line(lines: Lines) -> str:
    """Python's `dict(headers)`."""
    return dict(lines)["www-authenticate"]


def joined(lines: Lines) -> str:
    """What fetch and httpx do."""
    return httpx.Headers(lines)["www-authenticate"]


def standard_library(lines: Lines) -> str:
    """`http.client` and everything on it."""
    message = Message()
    for name, value in lines:
        message[name] = value
    return str(message["WWW-Authenticate"])


# --- what is made of the value ----------------------------------------------------------------------------------------


def by_position(pattern: str) -> Callable[[str], object]:
    def take(value: str) -> object:
        match = re.search(pattern, value)
        return match.groups() if match else None

    return take


def directory_402index(value: str) -> object:
    """The header has to start with the scheme; a token of ten characters or more; a long invoice of a known chain.

    And the token has to be version 2 with a 66-byte identifier that names the invoice's payment hash.
    """
    if not re.match(r"(L402|LSAT)\b", value):
        return None
    token = re.search(r'(?:macaroon|token)="?([A-Za-z0-9+/=_-]{10,})', value)
    invoice = re.search(r'invoice="?([^",\s]+)', value)
    if token is None or invoice is None or not re.fullmatch(r"ln(bc|tb|bcrt)[a-z0-9]{95,}", invoice[1]):
        return None
    raw = b64decode(token[1], validate=True)
    at = 1
    if raw[0] != 2 or raw[at] != 1:
        return None
    at += 2 + raw[at + 1]
    if raw[at : at + 4] != b"\x02\x42\x00\x00":
        return None
    return raw[at + 4 : at + 36] == sha256(PREIMAGE).digest()


def directory_satring(value: str) -> object:
    """Substrings are enough for it."""
    return [word for word in ("L402", "LSAT", "payment ") if word.lower() in value.lower()]


def split_at_schemes(value: str) -> object:
    """A client that cuts the value wherever a scheme word and a blank stand, and reads `name="value"` pairs."""
    for part in re.split(r"(?:^|,\s*)(?=[A-Za-z0-9]+\s+[a-z]+=)", value):
        if part.startswith("Payment "):
            pairs = dict(re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', part))
            return pairs.get("id"), pairs.get("request"), pairs.get("expires")
    return None


def standard_list(value: str) -> object:
    """urllib's list splitter, then whoever starts with the scheme word and what follows without a blank in its name."""
    found: dict[str, str] = {}
    collecting = False
    for item in parse_http_list(value):
        scheme, blank, rest = item.partition(" ")
        if blank and "=" not in scheme:
            collecting = scheme == "Payment"
            item = rest
        if collecting:
            name, _, quoted = item.partition("=")
            found[name] = quoted.strip('"')
    return found.get("id"), found.get("request"), found.get("expires")


def agentpay(value: str) -> object:
    """Any scheme word in front, then macaroon or token, then invoice, wherever they stand."""
    if not value.startswith(("L402", "LSAT")):
        return None
    token = re.search(r'(?:macaroon|token)="([^"]*)"', value)
    invoice = re.search(r'invoice="([^"]*)"', value)
    return token and invoice and (token[1], invoice[1])


PAIR = (TOKEN.token, INVOICE.text)
_TOLD = dict(PAYMENT.parameters)
TRIPLE = (_TOLD["id"], _TOLD["request"], _TOLD["expires"])

APERTURE = by_position(r'(LSAT|L402) macaroon="(.*?)", invoice="(.*?)"')
LNGET = by_position(r'(?i)(LSAT|L402)\s+macaroon="([^"]+)",\s*invoice="([^"]+)"')
TAKERS: list[tuple[str, Callable[[str], object], object]] = [
    ("aperture's client", APERTURE, ("L402", *PAIR)),
    ("lnget", LNGET, ("L402", *PAIR)),
    ("aperture's metering", by_position(r'macaroon="([^"]+)"'), (TOKEN.token,)),
    ("402index", directory_402index, True),
    ("satring", directory_satring, ["L402", "payment "]),
    ("agentpay", agentpay, PAIR),
    ("a splitter at scheme words", split_at_schemes, TRIPLE),
    ("urllib's list splitter", standard_list, TRIPLE),
]
GATHERERS = [first_line, last_line, joined, standard_library]
READERS = [
    Reader(name=f"{name}, {gather.__name__}", gather=gather, take=take, finds=finds)
    for name, take, finds in TAKERS
    for gather in GATHERERS
]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_every_reader_finds_its_scheme(reader: Reader) -> None:
    assert reader.take(reader.gather(LINES)) == reader.finds


@pytest.mark.parametrize("gather", GATHERERS)
def test_our_own_readers_find_every_challenge(gather: Callable[[Lines], str]) -> None:
    wire = type(WIRE)(headers=(("www-authenticate", gather(LINES)),), body=WIRE.body)
    assert L402().read_challenges(wire) == (TOKEN,)
    assert PaymentAuth().read_challenges(wire) == (PAYMENT,)
    (bare,) = PaymentHash().read_challenges(wire)
    assert bare.payment_hash == INVOICE.payment_hash


def test_the_combined_line_begins_with_l402_and_then_says_payment() -> None:
    assert re.match(r'L402 macaroon="[^"]+", invoice="[^"]+", version="0", token="[^"]+", Payment id="', COMBINED)


def test_the_combined_line_leaves_room_in_a_proxy_s_four_kibibytes_of_headers() -> None:
    assert len(COMBINED) < 3 * 1024


def test_one_invoice_is_in_all_of_them() -> None:
    details = urlsafe_b64decode(_TOLD["request"] + "==").decode()
    assert COMBINED.count(INVOICE.text) == 1
    assert details.count(INVOICE.text) == 1
    assert {TOKEN.payment_hash, PAYMENT.payment_hash} == {INVOICE.payment_hash}


def test_the_literal_form_of_the_specification_would_be_lost_on_the_readers_by_position() -> None:
    literal = f'L402 version="0", token="{TOKEN.token}", invoice="{INVOICE.text}"'
    assert [take(literal) for take in (APERTURE, LNGET)] == [None, None]
    assert directory_402index(f'Payment id="x", {COMBINED}') is None


def test_the_body_has_what_the_first_shops_readers_look_for() -> None:
    protocols = WIRE.body["protocols"]
    assert isinstance(protocols, dict)
    told = protocols["l402"]
    assert isinstance(told, dict)
    assert {"price_sats", "payment_request", "payment_hash", "verify_header", "verify_query_arg", "macaroon"} <= set(
        told
    )
    assert WIRE.body["macaroon"] == TOKEN.token
