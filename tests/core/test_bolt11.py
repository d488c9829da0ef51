"""Reading, checking and signing BOLT11 invoices.

Besides the invoices that farebox signs itself, the tests build their own, good and bad, with a second, plain
implementation of the format below, which shares nothing with the one under test.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import coincurve
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.core.amount import Amount
from farebox.core.bolt11 import MOST_DESCRIPTION_BYTES, Invoice, Network, decode, sign
from farebox.core.errors import MalformedInvoice

SECRET_KEY = bytes(range(1, 33))
PAYEE = coincurve.PrivateKey(SECRET_KEY).public_key.format()
PAYMENT_HASH = bytes(range(32))
PAYMENT_SECRET = b"\x11" * 32
PRICE = Amount.sats(21)
CREATED_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


# --- a second implementation, as plain as the specification -----------------------------------------------------------

CHARACTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
Symbols = list[int]


def polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> bit & 1 else 0
    return check


def bech32(prefix: str, symbols: Sequence[int]) -> str:
    spread = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    check = polymod([*spread, *symbols, 0, 0, 0, 0, 0, 0]) ^ 1
    return prefix + "1" + "".join(CHARACTERS[s] for s in [*symbols, *(check >> 5 * (5 - i) & 31 for i in range(6))])


def symbols_of(octets: bytes) -> Symbols:
    bits = "".join(f"{octet:08b}" for octet in octets)
    bits += "0" * (-len(bits) % 5)
    return [int(bits[at : at + 5], 2) for at in range(0, len(bits), 5)]


def number(value: int, length: int = 0) -> Symbols:
    symbols: Symbols = []
    while value or not symbols or len(symbols) < length:
        symbols.insert(0, value & 31)
        value >>= 5
    return symbols


def field(letter: str, symbols: Symbols) -> Symbols:
    return [CHARACTERS.index(letter), *divmod(len(symbols), 32), *symbols]


def fields_of(text: str) -> list[tuple[str, Symbols]]:
    symbols = [CHARACTERS.index(c) for c in text.rpartition("1")[2]][7:-110]
    fields = []
    while symbols:
        end = 3 + symbols[1] * 32 + symbols[2]
        fields.append((CHARACTERS[symbols[0]], symbols[3:end]))
        symbols = symbols[end:]
    return fields


P = field("p", symbols_of(PAYMENT_HASH))
S = field("s", symbols_of(PAYMENT_SECRET))
D = field("d", symbols_of(b"a call"))
H = field("h", symbols_of(hashlib.sha256(b"a call").digest()))
N = field("n", symbols_of(PAYEE))


def build(
    *fields: Symbols, prefix: str = "lnbcrt210n", high_s: bool = False, flip_recovery: bool = False, timestamp: int = 1
) -> str:
    """An invoice of these fields with a good checksum and signature, whatever the fields say."""
    symbols = [*number(timestamp, 7), *(symbol for one in fields for symbol in one)]
    bits = "".join(f"{symbol:05b}" for symbol in symbols)
    bits += "0" * (-len(bits) % 8)
    message = prefix.encode() + bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    signature = coincurve.PrivateKey(SECRET_KEY).sign_recoverable(message)
    r, s, recovery = signature[:32], int.from_bytes(signature[32:64], "big"), signature[64]
    s, recovery = (ORDER - s, recovery ^ 1) if high_s else (s, recovery)
    signature = r + s.to_bytes(32, "big") + bytes([recovery ^ flip_recovery])
    return bech32(prefix, [*symbols, *symbols_of(signature)])


def signed(
    *,
    network: Network = Network.REGTEST,
    amount: Amount | None = PRICE,
    payment_hash: bytes = PAYMENT_HASH,
    payment_secret: bytes = PAYMENT_SECRET,
    description: str | None = "a call",
    description_hash: bytes | None = None,
    created_at: datetime = CREATED_AT,
    expires_in: timedelta = timedelta(minutes=10),
    min_final_cltv: int = 18,
) -> Invoice:
    return sign(
        secret_key=SECRET_KEY,
        network=network,
        amount=amount,
        payment_hash=payment_hash,
        payment_secret=payment_secret,
        description=description,
        description_hash=description_hash,
        created_at=created_at,
        expires_in=expires_in,
        min_final_cltv=min_final_cltv,
    )


# --- what farebox signs -----------------------------------------------------------------------------------------------

THIRTY_TWO_BYTES = st.binary(min_size=32, max_size=32)
DESCRIPTIONS = st.text(st.characters(exclude_categories=["Cs"]), max_size=MOST_DESCRIPTION_BYTES // 4)
INVOICES = st.builds(
    sign,
    secret_key=st.integers(1, ORDER - 1).map(lambda key: key.to_bytes(32, "big")),
    network=st.sampled_from(Network),
    amount=st.none() | st.integers(1, 21 * 10**17).map(Amount.msats),
    payment_hash=THIRTY_TWO_BYTES,
    payment_secret=THIRTY_TWO_BYTES,
    description=DESCRIPTIONS,
    created_at=st.datetimes(datetime(1970, 1, 1), datetime(3000, 1, 1), timezones=st.just(UTC)),
    expires_in=st.timedeltas(timedelta(0), timedelta(days=10_000)),
    min_final_cltv=st.integers(0, 2**32),
)


@given(INVOICES)
@settings(deadline=None)
def test_a_signed_invoice_reads_back_as_itself(invoice: Invoice) -> None:
    assert invoice == decode(invoice.text)


@given(THIRTY_TWO_BYTES)
@settings(deadline=None)
def test_an_invoice_over_the_hash_of_a_description_reads_back_as_itself(description_hash: bytes) -> None:
    invoice = signed(description=None, description_hash=description_hash)
    assert description_hash == invoice.description_hash
    assert invoice == decode(invoice.text)


def test_an_invoice_is_what_the_second_implementation_writes() -> None:
    timestamp = int(CREATED_AT.timestamp())
    rest = (field("x", number(600)), field("c", number(18)), field("9", number(1 << 9 | 1 << 14)))
    assert build(P, S, D, *rest, timestamp=timestamp) == signed().text


@pytest.mark.parametrize(
    ("prefix", "msat"),
    [
        ("lnbcrt", None),
        ("lnbcrt10p", 1),
        ("lnbcrt990p", 99),
        ("lnbcrt1n", 100),
        ("lnbcrt210n", 21_000),
        ("lnbcrt1u", 100_000),
        ("lnbcrt2500u", 250_000_000),
        ("lnbcrt1m", 100_000_000),
        ("lnbcrt1", 100_000_000_000),
        ("lnbcrt21000000", 2_100_000_000_000_000_000),
    ],
)
def test_an_amount_is_written_in_its_shortest_form_and_read_again(prefix: str, msat: int | None) -> None:
    amount = None if msat is None else Amount.msats(msat)
    text = signed(amount=amount).text
    assert prefix == text.rpartition("1")[0]
    assert amount == decode(text).amount


@pytest.mark.parametrize(
    ("prefix", "network"),
    [
        ("lnbc210n1", Network.MAINNET),
        ("lntb210n1", Network.TESTNET),
        ("lntbs210n1", Network.SIGNET),
        ("lnbcrt210n1", Network.REGTEST),
    ],
)
def test_the_prefix_tells_the_network(prefix: str, network: Network) -> None:
    text = signed(network=network).text
    assert text.startswith(prefix)
    assert network == decode(text).network


@pytest.mark.parametrize(
    ("prefix", "network"), [("lnbcrt", Network.REGTEST), ("lntbs", Network.SIGNET), ("lntb", Network.TESTNET)]
)
def test_a_prefix_without_an_amount_is_not_taken_for_a_shorter_one(prefix: str, network: Network) -> None:
    assert network == decode(build(P, S, D, prefix=prefix)).network


def test_our_invoices_offer_the_onion_and_demand_the_payment_secret() -> None:
    features = dict(fields_of(signed().text))["9"]
    assert number(1 << 9 | 1 << 14) == features


def test_seconds_are_the_finest_that_an_invoice_says() -> None:
    invoice = signed(
        created_at=CREATED_AT + timedelta(microseconds=999_999), expires_in=timedelta(seconds=60, microseconds=1)
    )
    assert invoice.created_at == CREATED_AT
    assert CREATED_AT + timedelta(seconds=60) == invoice.expires_at


def test_an_instant_of_another_time_zone_is_the_same_instant() -> None:
    elsewhere = CREATED_AT.astimezone(timezone(timedelta(hours=5, minutes=45)))
    assert signed().text == signed(created_at=elsewhere).text


def test_an_instant_without_a_time_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        signed(created_at=CREATED_AT.replace(tzinfo=None))


def test_the_longest_description_fits() -> None:
    longest = "é" * (MOST_DESCRIPTION_BYTES // 2) + "!"
    assert longest == decode(signed(description=longest).text).description


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"amount": Amount(0)}, id="an amount of nothing"),
        pytest.param({"payment_hash": bytes(31)}, id="a short payment hash"),
        pytest.param({"payment_secret": bytes(33)}, id="a long payment secret"),
        pytest.param({"description": None, "description_hash": bytes(31)}, id="a short description hash"),
        pytest.param({"description": None}, id="no description"),
        pytest.param({"description_hash": bytes(32)}, id="two descriptions"),
        pytest.param({"description": "x" * (MOST_DESCRIPTION_BYTES + 1)}, id="a long description"),
        pytest.param({"description": "\ud800"}, id="a description that is not text"),
        pytest.param({"created_at": datetime(1969, 12, 31, tzinfo=UTC)}, id="made before 1970"),
        pytest.param({"created_at": datetime(3059, 1, 1, tzinfo=UTC)}, id="made after 35 bits of seconds"),
        pytest.param({"expires_in": timedelta(seconds=-1)}, id="an expiry below zero"),
        pytest.param({"expires_in": timedelta(days=9_999_999)}, id="an expiry beyond the calendar"),
        pytest.param({"min_final_cltv": -1}, id="blocks below zero"),
        pytest.param({"min_final_cltv": 1 << 65}, id="blocks beyond 64 bits"),
    ],
)
def test_what_an_invoice_can_not_say_is_not_signed(wrong: dict[str, object]) -> None:
    with pytest.raises(MalformedInvoice):
        signed(**wrong)  # type: ignore[arg-type]  # one wrong argument of many types


def test_no_invoice_is_signed_with_a_key_that_is_none() -> None:
    with pytest.raises(ValueError, match="must be greater than 0"):
        sign(
            secret_key=bytes(32),
            network=Network.REGTEST,
            amount=None,
            payment_hash=PAYMENT_HASH,
            payment_secret=PAYMENT_SECRET,
            description="",
            created_at=CREATED_AT,
            expires_in=timedelta(minutes=1),
        )


# --- what others write ------------------------------------------------------------------------------------------------


def test_every_fact_of_an_invoice_is_read() -> None:
    text = build(P, S, D, field("x", number(60)), field("c", number(144)), timestamp=1_496_314_658)
    assert decode(text) == Invoice(
        text=text,
        network=Network.REGTEST,
        amount=Amount.sats(21),
        payment_hash=PAYMENT_HASH,
        payment_secret=PAYMENT_SECRET,
        payee=PAYEE,
        created_at=datetime(2017, 6, 1, 10, 57, 38, tzinfo=UTC),
        expires_in=timedelta(minutes=1),
        description="a call",
        description_hash=None,
        min_final_cltv=144,
    )


def test_upper_case_is_read_as_the_same_invoice() -> None:
    text = build(P, S, D)
    assert decode(text) == decode(text.upper())


def test_without_an_expiry_an_invoice_is_good_for_an_hour_and_eighteen_blocks() -> None:
    invoice = decode(build(P, S, D))
    assert timedelta(hours=1) == invoice.expires_in
    assert invoice.min_final_cltv == 18


def test_an_empty_number_is_zero() -> None:
    invoice = decode(build(P, S, D, field("x", []), field("c", []), field("9", [])))
    assert timedelta(0) == invoice.expires_in
    assert invoice.min_final_cltv == 0


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(field("p", [0] * 51), id="a short p"),
        pytest.param(field("p", [0] * 53), id="a long p"),
        pytest.param(field("s", [0] * 51), id="a short s"),
        pytest.param(field("h", [0] * 51), id="a short h"),
        pytest.param(field("n", [0] * 52), id="a short n"),
        pytest.param(field("n", [0] * 54), id="a long n"),
        pytest.param(field("2", [1, 2, 3]), id="a field nobody knows"),
        pytest.param(field("f", [19]) + field("f", [0] * 40), id="fallback addresses"),
        pytest.param(field("r", [0] * 82) + field("r", [0] * 82), id="two routes"),
        pytest.param(field("m", symbols_of(b"\1\xfa\xfa\xf0")), id="metadata"),
        pytest.param(field("9", number(1 << 99 | 1 << 15)), id="odd features nobody knows"),
        pytest.param(
            field("9", number(sum(1 << bit for bit in (8, 14, 16, 24, 36, 48)))), id="every feature that is known"
        ),
    ],
)
def test_what_is_to_be_skipped_changes_nothing(extra: Symbols) -> None:
    text = build(extra, P, S, D)
    assert replace(decode(build(P, S, D)), text=text) == decode(text)


def test_the_key_that_an_invoice_names_is_used_whatever_the_recovery_id() -> None:
    assert decode(build(P, S, D, N, flip_recovery=True)).payee == PAYEE


def test_a_high_s_is_good_enough_to_recover_a_key_from() -> None:
    assert decode(build(P, S, D, high_s=True)).payee == PAYEE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "it is not bech32", id="nothing"),
        pytest.param("1", "it is not bech32", id="a separator"),
        pytest.param(build(P, S, D).replace("1", ""), "it is not bech32", id="no separator"),
        pytest.param("lightning:" + build(P, S, D), "its checksum is wrong", id="a URI"),
        pytest.param(build(P, S, D) + "\n", "it is not bech32", id="a line break behind"),
        pytest.param(" " + build(P, S, D), "its checksum is wrong", id="a blank before"),
        pytest.param(build(P, S, D).capitalize(), "it is not plain text in one case", id="mixed case"),
        pytest.param(build(P, S, D)[:-1] + "q", "its checksum is wrong", id="a wrong checksum"),
        pytest.param(
            build(P, S, D).replace("s", "ſ"), "it is not plain text in one case", id="letters that fold to ASCII"
        ),
        pytest.param(bech32("lnbcrt", [0] * 110), "it is too short", id="too short"),
        pytest.param(bech32("lnbcrt", [0] * 111), "it has no payment hash", id="nothing but a signature of zeros"),
        pytest.param(
            build(P, S, D, field("2", [0] * 1023), *[field("2", [0] * 1023)] * 3), "it is too long", id="too long"
        ),
        pytest.param(
            build(P, S, D, prefix="lnsb1u"),
            "it starts with no network and amount that are known here",
            id="another network",
        ),
        pytest.param(
            build(P, S, D, prefix="bc1u"), "it starts with no network and amount that are known here", id="no ln"
        ),
        pytest.param(
            build(P, S, D, prefix="lnbcrt1x"),
            "it starts with no network and amount that are known here",
            id="a multiplier nobody knows",
        ),
        pytest.param(
            build(P, S, D, prefix="lnbcrt1uu"),
            "it starts with no network and amount that are known here",
            id="two multipliers",
        ),
        pytest.param(
            build(P, S, D, prefix="lnbcrtu"),
            "it starts with no network and amount that are known here",
            id="a multiplier alone",
        ),
        pytest.param(
            build(P, S, D, prefix="lnbcrt01u"),
            "it starts with no network and amount that are known here",
            id="an amount that starts with zero",
        ),
        pytest.param(
            build(P, S, D, prefix="lnbcrt0"),
            "it starts with no network and amount that are known here",
            id="an amount of zero",
        ),
        pytest.param(
            build(P, S, D, prefix="lnbcrt-1u"),
            "it starts with no network and amount that are known here",
            id="an amount below zero",
        ),
        pytest.param(
            build(P, S, D, prefix="lnbcrt1_0u"),
            "it starts with no network and amount that are known here",
            id="an amount that only Python reads",
        ),
        pytest.param(
            build(P, S, D, prefix="lnbcrt21000001"), "its amount is more than there is", id="more than there is"
        ),
        pytest.param(
            build(P, S, D, prefix="lnbcrt" + "9" * 400),
            "it starts with no network and amount that are known here",
            id="a very long amount",
        ),
        pytest.param(
            build(P, S, D, prefix="lnbcrt11p"),
            "its amount has a fraction of a millisatoshi",
            id="a tenth of a millisatoshi",
        ),
        pytest.param(build(S, D), "it has no payment hash", id="no payment hash"),
        pytest.param(build(P, D), "it has no payment secret", id="no payment secret"),
        pytest.param(
            build(field("p", [0] * 51), S, D), "it has no payment hash", id="a payment hash of the wrong length"
        ),
        pytest.param(
            build(P, field("s", [0] * 53), D), "it has no payment secret", id="a payment secret of the wrong length"
        ),
        pytest.param(build(P, S), "it needs either a description or the hash of one", id="no description"),
        pytest.param(
            build(P, S, D, H), "it needs either a description or the hash of one", id="a description and a hash of one"
        ),
        pytest.param(build(P, P, S, D), "its field p comes twice", id="p twice"),
        pytest.param(build(P, S, S, D), "its field s comes twice", id="s twice"),
        pytest.param(build(P, S, D, D), "its field d comes twice", id="d twice"),
        pytest.param(build(P, S, H, H), "its field h comes twice", id="h twice"),
        pytest.param(build(P, S, D, N, N), "its field n comes twice", id="n twice"),
        pytest.param(build(P, S, D, *[field("x", [1])] * 2), "its field x comes twice", id="x twice"),
        pytest.param(build(P, S, D, *[field("c", [1])] * 2), "its field c comes twice", id="c twice"),
        pytest.param(build(P, S, D, *[field("9", [0])] * 2), "its field 9 comes twice", id="features twice"),
        pytest.param(build(P, S, D, [0]), "something is left over after its last field", id="one symbol left over"),
        pytest.param(build(P, S, D, [0, 0]), "something is left over after its last field", id="two symbols left over"),
        pytest.param(build(P, S, D, [0, 0, 1]), "its field q is cut off", id="a field cut off"),
        pytest.param(
            build([*P[:-1], P[-1] | 1], S, D), "its padding is not zero", id="padding of a hash that is not zero"
        ),
        pytest.param(
            build(P, S, [*D[:-1], D[-1] | 1]), "its padding is not zero", id="padding of a description that is not zero"
        ),
        pytest.param(build(P, S, field("d", [0])), "its padding is not zero", id="a description of half a byte"),
        pytest.param(
            build(P, S, field("d", symbols_of(b"\xff"))),
            "its description is not UTF-8",
            id="a description that is not UTF-8",
        ),
        pytest.param(
            build(P, S, field("d", symbols_of(b"\xed\xa0\x80"))),
            "its description is not UTF-8",
            id="a description of half a character",
        ),
        pytest.param(
            build(P, S, D, field("x", [31] * 13)),
            "it expires after the last year of the calendar",
            id="an expiry beyond the calendar",
        ),
        pytest.param(
            build(P, S, D, field("x", [0] * 14)), "it has a number that is too long", id="an expiry of 70 bits"
        ),
        pytest.param(build(P, S, D, field("c", [0] * 14)), "it has a number that is too long", id="blocks of 70 bits"),
        pytest.param(
            build(P, S, D, field("9", number(1 << 100))),
            "it demands a feature that is not known here",
            id="an even feature nobody knows",
        ),
        pytest.param(build(P, S, D, field("9", [1])), "it demands a feature that is not known here", id="feature zero"),
        pytest.param(
            build(P, S, D, field("9", [31] * 1023)),
            "it demands a feature that is not known here",
            id="every feature there could be",
        ),
        pytest.param(
            build(P, S, D, N, high_s=True),
            "its signature is not by the node that it names",
            id="a high S by a named key",
        ),
        pytest.param(
            build(P, S, D, field("n", symbols_of(b"\2" + b"\1" * 32))),
            "its signature is not by the node that it names",
            id="signed by another than it names",
        ),
        pytest.param(
            build(P, S, D, field("n", symbols_of(b"\7" * 33))),
            "its signature is not by the node that it names",
            id="a named key that is none",
        ),
    ],
)
def test_what_is_not_a_good_invoice_is_refused_for_what_is_wrong_with_it(text: str, why: str) -> None:
    with pytest.raises(MalformedInvoice) as raised:
        decode(text)
    assert why == raised.value.detail


def test_the_refusal_says_what_is_wrong_and_repeats_nothing_of_the_invoice() -> None:
    with pytest.raises(MalformedInvoice) as raised:
        decode(build(P, D))
    assert str(raised.value) == "This is not a valid BOLT11 invoice: it has no payment secret"


@pytest.mark.parametrize("text", ["lnbc1" + "q" * 10**7, "é" * 10**7])
def test_a_huge_text_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(MalformedInvoice, match="too long"):
        decode(text)
    assert time.process_time() - started < 0.01


def test_an_invoice_is_read_within_half_a_millisecond() -> None:
    text = signed(description="Summarise this text in three sentences, please. " * 3).text

    def seconds_to_read() -> float:
        started = time.perf_counter()
        decode(text)
        return time.perf_counter() - started

    assert min(seconds_to_read() for _ in range(50)) <= 0.0005  # the quickest of many: the others share the machine


# --- anything at all --------------------------------------------------------------------------------------------------

SYMBOLS = st.lists(st.integers(0, 31), max_size=300)


def read_or_refused(text: str) -> Invoice | None:
    try:
        return decode(text)
    except MalformedInvoice:
        return None


@given(st.text() | st.text("lnbcrts1u0q "))
@settings(deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    assert read_or_refused(text) is None


@given(st.from_regex(r"ln(bc|tb|tbs|bcrt)[0-9]{0,25}[munpx]?", fullmatch=True), SYMBOLS)
@settings(deadline=None)
def test_any_data_with_a_good_checksum_is_read_or_refused(prefix: str, symbols: Symbols) -> None:
    invoice = read_or_refused(bech32(prefix, symbols))
    assert invoice is None or invoice.text.startswith(prefix)


@given(st.lists(st.builds(field, st.sampled_from(CHARACTERS), SYMBOLS), max_size=4), st.integers(0, 2**35 - 1))
@settings(deadline=None)
def test_any_fields_with_a_good_signature_are_read_or_refused(fields: list[Symbols], timestamp: int) -> None:
    invoice = read_or_refused(build(P, S, *fields, timestamp=timestamp))
    assert invoice is None or invoice.expires_at >= invoice.created_at
    invoice = read_or_refused(build(P, S, D, *fields, timestamp=timestamp))
    assert invoice is None or invoice.payment_hash == PAYMENT_HASH


@given(INVOICES, st.data())
@settings(deadline=None)
def test_an_invoice_with_one_changed_character_is_refused(invoice: Invoice, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(invoice.text) - 1))
    character = data.draw(st.characters().filter(lambda character: character != invoice.text[at]))
    with pytest.raises(MalformedInvoice):
        decode(invoice.text[:at] + character + invoice.text[at + 1 :])


@given(INVOICES, st.data())
@settings(deadline=None)
def test_a_cut_or_doubled_stretch_is_read_or_refused(invoice: Invoice, data: st.DataObject) -> None:
    text = invoice.text
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    shorter, longer = text[:start] + text[end:], text[:end] + text[start:]
    assert read_or_refused(shorter) is None or shorter == text
    assert read_or_refused(longer) is None or longer == text


# --- the specification's own examples, where they are at hand ---------------------------------------------------------

VECTORS = Path(__file__).parents[2] / "../shared/vectors/bolt11.json"
SPEC_PAYEE = bytes.fromhex("03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad")
SPEC_HASH = bytes.fromhex("0001020304050607080900010203040506070809000102030405060708090102")
SPEC_LIST = (
    "One piece of chocolate cake, one icecream cone, one pickle, one slice of swiss cheese, one slice of salami, "
    "one lollypop, one piece of cherry pie, one sausage, one cupcake, and one slice of watermelon"
)
SPEC_STORE = (
    'Blockstream Store: 88.85 USD for Blockstream Ledger Nano S x 1, "Back In My Day" Sticker x 2, '
    '"I Got Lightning Working" Sticker x 2 and 1 more items'
)
DONATION = "Please consider supporting this project"


def vectors(kind: str) -> list[tuple[str, str]]:
    """(what the specification says of it, the text); none where they are not at hand, which skips the tests."""
    return [(told, text) for told, text in json.loads(VECTORS.read_text())[kind]] if VECTORS.exists() else []


# (amount in msat, description, seconds, network) in the order of the examples
FACTS: list[tuple[int | None, str, int, Network]] = [
    (None, DONATION, 3600, Network.MAINNET),
    (250_000_000, "1 cup coffee", 60, Network.MAINNET),
    (250_000_000, "ナンセンス 1杯", 60, Network.MAINNET),
    (2_000_000_000, SPEC_LIST, 3600, Network.MAINNET),
    (2_000_000_000, SPEC_LIST, 3600, Network.TESTNET),
    *[(2_000_000_000, SPEC_LIST, 3600, Network.MAINNET)] * 4,
    (967_878_534, SPEC_STORE, 604_800, Network.MAINNET),
    *[(2_500_000_000, "coffee beans", 3600, Network.MAINNET)] * 3,
    (1_000_000_000, "payment metadata inside", 3600, Network.MAINNET),
    (None, DONATION, 3600, Network.MAINNET),
    (2_000_000_000, SPEC_LIST, 3600, Network.MAINNET),
]


@pytest.mark.parametrize(
    ("text", "facts"),
    [pytest.param(text, facts, id=told[:50]) for (told, text), facts in zip(vectors("valid"), FACTS, strict=False)],
)
def test_the_good_examples_of_the_specification_are_read_right(
    text: str, facts: tuple[int | None, str, int, Network]
) -> None:
    msat, description, seconds, network = facts
    invoice = decode(text)
    assert (None if msat is None else Amount.msats(msat)) == invoice.amount
    assert network == invoice.network
    assert timedelta(seconds=seconds) == invoice.expires_in
    assert invoice.payment_secret == b"\x11" * 32
    if description == SPEC_LIST:
        assert (None, hashlib.sha256(SPEC_LIST.encode()).digest()) == (invoice.description, invoice.description_hash)
    else:
        assert (description, None) == (invoice.description, invoice.description_hash)
    if description == SPEC_STORE:
        assert datetime(2019, 10, 30, 20, 51, 43, tzinfo=UTC) == invoice.created_at
        assert invoice.min_final_cltv == 10
    else:
        assert datetime(2017, 6, 1, 10, 57, 38, tzinfo=UTC) == invoice.created_at
        assert invoice.payment_hash == SPEC_HASH


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=told[:50]) for told, text in vectors("valid") if "high-S" not in told]
)
def test_the_good_examples_of_the_specification_are_by_its_node(text: str) -> None:
    assert decode(text).payee == SPEC_PAYEE


@pytest.mark.parametrize("text", [pytest.param(text, id=told[:50]) for told, text in vectors("invalid")])
def test_the_bad_examples_of_the_specification_are_refused(text: str) -> None:
    with pytest.raises(MalformedInvoice):
        decode(text)


@pytest.mark.skipif(not VECTORS.exists(), reason="the specification's examples are not at hand")
def test_every_good_example_has_its_facts() -> None:
    assert len(FACTS) == len(vectors("valid"))
