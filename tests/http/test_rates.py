"""Rates as they are seen: what a source says is read strictly, and no caller waits for one that is away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import cast

import pytest
import structlog

from farebox.catalog.rates import RatesInForce
from farebox.core.conversation import HttpCall, HttpReply
from farebox.core.errors import ConfigError, RateUnavailable
from farebox.core.fiat import Rate
from farebox.http.rates import FixedRate, RateFile, Rates, RateUrl, Source, default_sources, number_at, read_source
from farebox.testing.market import StillClock
from farebox.testing.scripted import said, tell

pytestmark = pytest.mark.anyio

MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
URL = "https://rates.test/v1?key=hidden"


@dataclass
class Teller:
    """Says what it is told to say, and counts how often it is asked."""

    says: str | None = "64000"
    name: str = "teller"
    asked: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.held.set()

    async def read(self, now: datetime) -> tuple[Decimal, datetime]:
        self.asked += 1
        await self.held.wait()
        if self.says is None:
            raise RateUnavailable("it is away")
        return Decimal(self.says), now


def web(text: str = f"{URL}#/data/amount") -> RateUrl:
    source = read_source(text)
    assert isinstance(source, RateUrl)
    return source


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


# --- what a source says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "pointer", "number"),
    [
        (b'{"data": {"amount": "64000.10", "currency": "USD"}}', "/data/amount", "64000.10"),
        (b'{"USD": 64000, "EUR": 58000.123456789}', "/EUR", "58000.123456789"),
        (b'{"result": {"XXBTZUSD": {"c": ["64000.10000", "0.1"]}}}', "/result/XXBTZUSD/c/0", "64000.10000"),
        (b'{"a/b": {"~": 1}}', "/a~1b/~0", "1"),
        (b" 64000\n", "", "64000"),
        (b'{"USD": 64000.10000000000001}', "/USD", None),
    ],
)
def test_a_number_is_read_at_its_place_as_it_is_written(body: bytes, pointer: str, number: str | None) -> None:
    if number is None:
        with pytest.raises(RateUnavailable):
            number_at(body, pointer)
    else:
        assert number == str(number_at(body, pointer))


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>64000</html>", b"\xff\xfe", b"64000", b"null", b"[]", b'{"USD": 64000', b"[" * 100_000),
        *(b'{"USD": 0}', b'{"USD": 0.0}', b'{"USD": "0"}', b'{"USD": -64000}', b'{"USD": "-1"}', b'{"USD": 6.4e4}'),
        *(b'{"USD": NaN}', b'{"USD": Infinity}', b'{"USD": "NaN"}', b'{"USD": "inf"}', b'{"USD": "64,000"}'),
        *(b'{"USD": true}', b'{"USD": null}', b'{"USD": [64000]}', b'{"USD": {}}', b'{"USD": ""}', b'{"usd": 64000}'),
        pytest.param(b'{"USD": ' + b"9" * 5000 + b"}", id="a long number"),
        pytest.param(b'{"USD": "' + b"9" * 16 + b'"}', id="a huge number"),
    ],
)
def test_anything_but_a_plain_number_of_more_than_nothing_is_no_rate(body: bytes) -> None:
    with pytest.raises(RateUnavailable):
        number_at(body, "/USD")


@pytest.mark.parametrize("pointer", ["/c/1", "/c/-1", "/c/x", "/c/٠", "/c/00000", "/c/", "/c/0/0", "/c/-"])
def test_a_place_that_is_not_there_holds_no_rate(pointer: str) -> None:
    with pytest.raises(RateUnavailable, match="there is no rate at"):
        number_at(b'{"c": ["64000"]}', pointer)


def test_a_service_is_asked_once_and_answers_with_the_number() -> None:
    number, calls = tell(web().ask(), said(data={"amount": "64000.5"}))
    (call,) = calls
    assert (Decimal("64000.5"), "GET", URL) == (number, call.method if isinstance(call, HttpCall) else "", web().url)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (said(301, data={"amount": "64000"}), "it answered 301"),
        (said(404, data={"amount": "64000"}), "it answered 404"),
        (said(500, data={"amount": "64000"}), "it answered 500"),
        (said(206, data={"amount": "64000"}), "it answered 206"),
        (HttpReply(status=200, body=b"<!doctype html><p>64000"), "its answer is no JSON"),
        (said(data={"amount": "0"}), "there is no rate at /data/amount"),
        (HttpReply(status=0, reason="the reply is larger than 1048576 bytes"), "larger than"),
        (HttpReply(status=0, reason="connection refused", sent=False), "connection refused"),
    ],
)
def test_any_other_answer_is_no_rate_and_its_reason_holds_no_key(reply: HttpReply, told: str) -> None:
    with pytest.raises(RateUnavailable) as refused:
        tell(web().ask(), reply)
    assert told in str(refused.value)
    assert "hidden" not in str(refused.value) + repr(web())


# --- who is asked -----------------------------------------------------------------------------------------------------


def test_a_source_is_a_service_a_file_or_the_rate_itself() -> None:
    assert ("rates.test", URL, "/data/amount") == (web().name, web().url, web().pointer)
    assert "127.0.0.1:8000" == web("http://127.0.0.1:8000/").name
    assert RateFile(path=Path("rates.json"), pointer="/US D") == read_source("file:rates.json#/US%20D")
    assert FixedRate(per_btc=Decimal("64000.5")) == read_source("64000.5")


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-1", "64,000", "1e5", "file:", "rates.json", "ftp://rates.test/", "https://", "https:///x#/y"),
        *("https://user:secret@rates.test/#/x", "https://rates.test/#x", "https://rates.test:0/", "https://[/"),
        "https://rates.test:99999/",
    ],
)
def test_what_is_no_source_is_refused_in_one_line_without_its_secrets(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_source(text)
    assert "a source of rates is `https://" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("currency", ["USD", "EUR", "GBP", "CAD", "JPY"])
def test_three_public_services_are_asked_where_the_seller_names_none(currency: str) -> None:
    sources = cast(tuple[RateUrl, ...], default_sources(currency))
    assert ["api.coinbase.com", "api.kraken.com", "mempool.space"] == [each.name for each in sources]
    assert all(each.url.startswith("https://") and currency in each.url + each.pointer for each in sources)


def test_nobody_is_asked_about_a_currency_of_which_nobody_was_named() -> None:
    assert () == default_sources("CHF")
    assert (False, True) == (Rates().knows("CHF"), Rates({"CHF": "57000"}).knows("CHF"))
    with pytest.raises(ConfigError, match="UDS is no currency"):
        Rates({"UDS": "64000"})


def test_a_file_is_as_old_as_it_is_and_one_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    source = RateFile(path=path, pointer="/USD")
    with pytest.raises(RateUnavailable, match="No such file"):
        asyncio.run(source.read(NOW))
    path.write_text('{"USD": "64000"}')
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    assert (Decimal(64000), NOW) == asyncio.run(source.read(NOW + MINUTE))
    with pytest.raises(RateUnavailable, match="no file of a sensible size"):
        asyncio.run(RateFile(path=tmp_path, pointer="/USD").read(NOW))
    path.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(RateUnavailable, match="no file of a sensible size"):
        asyncio.run(source.read(NOW))


# --- rates in force ---------------------------------------------------------------------------------------------------


def rates_of(clock: StillClock, *sources: Source, most_jump_percent: int = 25) -> Rates:
    return Rates({"USD": sources}, clock=clock, in_force=RatesInForce(most_jump_percent=most_jump_percent))


async def test_a_rate_tells_who_said_it_and_when_and_is_asked_for_once_a_minute() -> None:
    clock, teller = StillClock(NOW), Teller()
    rates = rates_of(clock, teller)
    assert 0 == teller.asked
    expected = Rate(currency="USD", per_btc=Decimal(64000), seen_at=NOW, source="teller")
    assert [expected] * 3 == await asyncio.gather(*(rates.find("USD") for _ in range(3)))
    clock.pass_by(MINUTE - timedelta(seconds=1))
    assert expected == await rates.find("USD")
    assert 1 == teller.asked


async def test_who_asks_while_it_is_looked_at_again_has_the_last_rate_at_once() -> None:
    clock, teller = StillClock(NOW), Teller()
    rates = rates_of(clock, teller)
    await rates.find("USD")
    teller.says = "65000"
    teller.held.clear()
    clock.pass_by(MINUTE)
    assert Decimal(64000) == (await rates.find("USD")).per_btc
    await until(lambda: teller.asked == 2)
    teller.held.set()
    while (await rates.find("USD")).per_btc != Decimal(65000):
        await asyncio.sleep(0)
    assert 2 == teller.asked


async def test_beyond_its_time_there_is_no_rate_and_nobody_waits_for_a_source_that_is_away() -> None:
    clock, teller = StillClock(NOW), Teller()
    rates = rates_of(clock, teller)
    await rates.find("USD")
    teller.says = None
    clock.pass_by(11 * MINUTE)
    with pytest.raises(RateUnavailable, match="no rate for USD"):
        await rates.find("USD")
    teller.held.clear()  # it hangs
    clock.pass_by(MINUTE)
    for _ in range(3):
        with pytest.raises(RateUnavailable):
            await rates.find("USD")
    await until(lambda: teller.asked == 3)
    teller.says = "64500"
    teller.held.set()
    with pytest.raises(RateUnavailable):
        await rates.find("USD")
    while not (found := await rates.find_all(["USD"])):
        await asyncio.sleep(0)
    assert (Decimal(64500), 3) == (found["USD"].per_btc, teller.asked)


async def test_a_source_that_is_away_is_not_asked_by_every_caller() -> None:
    clock, teller = StillClock(NOW), Teller(says=None)
    rates = rates_of(clock, teller)
    for _ in range(100):
        with pytest.raises(RateUnavailable):
            await rates.find("USD")
    assert 1 == teller.asked
    clock.pass_by(timedelta(seconds=10))
    with pytest.raises(RateUnavailable):
        await rates.find("USD")
    await until(lambda: teller.asked == 2)


async def test_one_source_of_three_can_lie_or_be_away_and_the_rate_is_named_by_who_said_it() -> None:
    liar, away, honest = Teller("1", name="liar"), Teller(None, name="away"), Teller("64000", name="honest")
    other = Teller("64100", name="other")
    found = await rates_of(StillClock(NOW), liar, honest, other).find("USD")
    assert ("honest", Decimal(64000)) == (found.source, found.per_btc)
    found = await rates_of(StillClock(NOW), away, other, honest).find("USD")
    assert ("honest", Decimal(64000)) == (found.source, found.per_btc)


async def test_a_jump_is_told_in_the_log_and_not_believed() -> None:
    clock, teller = StillClock(NOW), Teller()
    rates = rates_of(clock, teller)
    await rates.find("USD")
    teller.says = "640"
    clock.pass_by(MINUTE)
    with structlog.testing.capture_logs() as told:
        assert Decimal(64000) == (await rates.find("USD")).per_btc
        await until(lambda: bool(told))
    assert ("rate-doubted", "USD", "640", "teller") == tuple(
        told[0][name] for name in ("event", "currency", "per_btc", "source")
    )
    assert Decimal(64000) == (await rates.find("USD")).per_btc


async def test_what_an_old_file_says_is_no_rate(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text("64000")
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    clock = StillClock(NOW + 11 * MINUTE)
    rates = rates_of(clock, RateFile(path=path, pointer=""))
    with structlog.testing.capture_logs() as told, pytest.raises(RateUnavailable):
        await rates.find("USD")
    assert "what it tells is of 2026-01-02 03:04:05 UTC" == told[0]["reason"]


async def test_a_source_that_breaks_tells_nothing_and_ends_nothing() -> None:
    class Broken(Teller):
        async def read(self, now: datetime) -> tuple[Decimal, datetime]:
            raise ZeroDivisionError

    found = await rates_of(StillClock(NOW), Broken(), Teller()).find("USD")
    assert Decimal(64000) == found.per_btc


async def test_a_source_that_stays_away_is_told_once_and_again_when_it_is_back() -> None:
    clock, teller = StillClock(NOW), Teller(None)
    rates = rates_of(clock, teller)
    with structlog.testing.capture_logs() as told:
        for says in (None, None, None, "64000", "64000"):
            teller.says = says
            before = teller.asked
            while teller.asked == before:
                await rates.find_all(["USD"])
                await asyncio.sleep(0)
            clock.pass_by(MINUTE)
        await rates.find_all(["USD"])
    assert ["rate-not-read", "rate-read-again"] == [line["event"] for line in told]


async def test_rates_that_can_be_found_are_found_without_the_others() -> None:
    rates = Rates({"USD": "64000", "EUR": [Teller(None)]}, clock=StillClock(NOW))
    assert ["USD"] == [*await rates.find_all(["USD", "EUR", "USD"])]


async def test_rates_are_kept_looked_at_before_somebody_asks() -> None:
    clock, teller = StillClock(NOW), Teller()
    rates = Rates({"USD": [teller]}, clock=clock, refresh_every=timedelta(milliseconds=1))
    keeping = asyncio.create_task(rates.keep(["USD"]))
    await until(lambda: teller.asked > 2)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert Decimal(64000) == (await rates.find("USD")).per_btc
