"""What a bitcoin costs: rates, seen at sources that the seller chose, for prices in fiat.

Rules
1. Nothing is asked of anybody until a price in that currency is, and then a rate is looked at again now and then.
2. A source is read strictly: a plain answer, in time, of a sensible size, with a plain decimal number at its place.
   What is anything else is told in the log, when it begins and ends, and does not count.
3. Callers wait for a source only when it answered the last time; else they are told at once that there is no rate.
4. A URL can hold a key, so a source is called by its host.
"""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final, Never, Protocol
from urllib.parse import unquote, urlsplit

import structlog

from farebox.catalog.rates import RatesInForce, middle
from farebox.core.conversation import Conversation, HttpCall
from farebox.core.errors import ConfigError, RateUnavailable
from farebox.core.fiat import CURRENCIES, Rate, read_decimal
from farebox.core.json_text import load_json
from farebox.core.ports import Clock
from farebox.core.secret import Secret
from farebox.http.converse import MOST_REPLY_BYTES, Lines, aconverse

log = structlog.get_logger("farebox")

REFRESH_EVERY: Final = timedelta(minutes=1)
ANSWER_WITHIN: Final = timedelta(seconds=5)
_AGAIN_AFTER: Final = timedelta(seconds=10)  # when nobody told a rate
_HEADERS: Final = Secret("accept: application/json\nuser-agent: farebox")
_FILE: Final = "file:"
_OK: Final = 200
_AS_WRITTEN: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
_FORMS: Final = (
    "a source of rates is `https://host/path#/member/member`, `file:path#/member`, or the rate itself, such as `64000`"
)


class Source(Protocol):
    """Somebody who says what a bitcoin costs in a currency. name: what the world may call it; never a secret."""

    @property
    def name(self) -> str:
        """What the world may call it; never a secret."""

    def read(self, now: datetime) -> Awaitable[tuple[Decimal, datetime]]:
        """How many units one bitcoin costs, and when that was seen. Raises RateUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRate:
    """A rate that the seller decided on; it does not grow old."""

    per_btc: Decimal
    name: str = "fixed"

    async def read(self, now: datetime) -> tuple[Decimal, datetime]:
        """The rate, as of now."""
        return self.per_btc, now


@dataclass(frozen=True, slots=True, kw_only=True)
class RateFile:
    """A file of JSON that somebody writes, and is as old as the file. pointer: where the number is (RFC 6901)."""

    path: Path
    pointer: str
    name: str = "file"

    async def read(self, now: datetime) -> tuple[Decimal, datetime]:
        """The number in it, and when it was written."""
        body, seen_at = await asyncio.to_thread(self._load)
        return number_at(body, self.pointer), seen_at

    def _load(self) -> tuple[bytes, datetime]:
        try:
            told = self.path.stat()
            if not stat.S_ISREG(told.st_mode) or told.st_size > MOST_REPLY_BYTES:
                raise RateUnavailable("it is no file of a sensible size")
            # The instant before reading: a file that is replaced meanwhile is newer than that.
            return self.path.read_bytes(), datetime.fromtimestamp(told.st_mtime, UTC)
        except OSError as trouble:
            raise RateUnavailable(f"it can't be read: {trouble.strerror}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateUrl:
    """A service that answers with JSON. pointer: where the number is (RFC 6901). within: how long it may take."""

    url: str = field(repr=False)
    name: str
    pointer: str
    within: timedelta = ANSWER_WITHIN

    async def read(self, now: datetime) -> tuple[Decimal, datetime]:
        """The number that it tells now."""
        lines = Lines()
        try:
            async with asyncio.timeout(self.within.total_seconds()):
                return await aconverse(self.ask(), lines), now
        except TimeoutError:
            raise RateUnavailable("it took too long") from None
        finally:
            await lines.aclose()

    def ask(self) -> Conversation[Decimal]:
        """The number that it tells. Raises RateUnavailable."""
        reply = yield HttpCall(method="GET", url=self.url, headers=_HEADERS, timeout=self.within)
        if reply.status != _OK:
            raise RateUnavailable(f"it answered {reply.status}" if reply.status else reply.reason)
        return number_at(reply.body, self.pointer)


def number_at(body: bytes, pointer: str) -> Decimal:
    """The number, or the text that is one, at a place in JSON (RFC 6901), exactly as it is written.

    Raises RateUnavailable for anything but a plain decimal number of more than nothing.
    """
    try:
        value = load_json(body, _AS_WRITTEN)
    except ValueError:
        raise RateUnavailable("its answer is no JSON") from None
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif (
            isinstance(value, list) and name.isascii() and name.isdecimal() and len(name) < 5 and int(name) < len(value)
        ):
            value = value[int(name)]
        else:
            value = None
    number = read_decimal(value) if isinstance(value, str) else None
    if not number:
        raise RateUnavailable(f"there is no rate at {pointer or 'its top'}")
    return number


def read_source(text: str) -> Source:
    """The source that is written as `https://host#/member`, `file:path#/member` or `64000`. Raises ConfigError."""
    number = read_decimal(text)
    if number:
        return FixedRate(per_btc=number)
    place, _, fragment = text.partition("#")
    pointer = unquote(fragment)
    if pointer and not pointer.startswith("/"):
        raise ConfigError(f"{_FORMS}; where the number is begins with `/`.")
    if place.startswith(_FILE) and len(place) > len(_FILE):
        return RateFile(path=Path(place.removeprefix(_FILE)), pointer=pointer)
    import httpx

    try:
        parts = urlsplit(place)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        httpx.URL(place)
    except (ValueError, httpx.InvalidURL):
        raise ConfigError(f"{_FORMS}.") from None
    if not good or parts.username or parts.password:
        raise ConfigError(f"{_FORMS}.")
    return RateUrl(url=place, name=parts.netloc, pointer=pointer)


def default_sources(currency: str) -> tuple[Source, ...]:
    """Three public services for the currencies that all of them know, and nobody for the others."""
    if currency not in ("USD", "EUR", "GBP", "CAD", "JPY"):
        return ()
    return (
        read_source(f"https://api.coinbase.com/v2/prices/BTC-{currency}/spot#/data/amount"),
        read_source(f"https://api.kraken.com/0/public/Ticker?pair=XBT{currency}#/result/XXBTZ{currency}/c/0"),
        read_source(f"https://mempool.space/api/v1/prices#/{currency}"),
    )


class Rates:
    """The rates that prices in fiat are asked for at: `rate = await rates.find("USD")`.

    sources: by currency, each of those that are written for `read_source`, or one's own; a currency that is not among
    them has `default_sources`. refresh_every: how often they are asked. in_force: which rates are believed, for how
    long. clock: None for this machine's. Raises ConfigError.
    """

    def __init__(
        self,
        sources: Mapping[str, str | Source | Sequence[str | Source]] | None = None,
        *,
        refresh_every: timedelta = REFRESH_EVERY,
        in_force: RatesInForce | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._sources: dict[str, tuple[Source, ...]] = {}
        for currency, given in (sources or {}).items():
            if currency not in CURRENCIES:
                raise ConfigError(f"{currency} is no currency of ISO 4217, such as USD or EUR.")
            several = [given] if isinstance(given, str) or not isinstance(given, Sequence) else given
            self._sources[currency] = tuple(read_source(each) if isinstance(each, str) else each for each in several)
        self._refresh_every = refresh_every
        self._in_force = in_force or RatesInForce()
        self._clock = clock or _now
        self._asking: dict[str, asyncio.Task[bool]] = {}
        self._asked: dict[str, tuple[datetime, bool]] = {}  # when, and whether a rate came of it
        self._reasons: dict[tuple[str, str], str | None] = {}  # why a source told nothing the last time

    def knows(self, currency: str) -> bool:
        """Whether there is anybody to be asked what a bitcoin costs in this currency."""
        return bool(self._of(currency))

    async def find(self, currency: str) -> Rate:
        """The rate in force. Raises RateUnavailable."""
        now = self._clock()
        rate = self._in_force.find(currency, now)
        asked_at, answered = self._asked.get(currency, (None, True))
        again_after = self._refresh_every if answered else min(_AGAIN_AFTER, self._refresh_every)
        if asked_at is None or abs(now - asked_at) >= again_after or (rate is None and answered):
            asking = self._ask(currency)
            if rate is None and answered:
                await asyncio.shield(asking)
                rate = self._in_force.find(currency, self._clock())
        if rate is None:
            raise RateUnavailable(f"there is no rate for {currency}")
        return rate

    async def find_all(self, currencies: Iterable[str]) -> Mapping[str, Rate]:
        """Those in force, by currency."""
        found = await asyncio.gather(*(self.find(each) for each in set(currencies)), return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, RateUnavailable):
                raise each
        return {rate.currency: rate for rate in found if isinstance(rate, Rate)}

    async def keep(self, currencies: Iterable[str]) -> Never:
        """Look at them again and again, so that no caller has to wait for it."""
        wanted = frozenset(currencies)
        while True:
            told = await asyncio.gather(*(self._ask(each) for each in wanted))
            pause = self._refresh_every if all(told) else min(_AGAIN_AFTER, self._refresh_every)
            await asyncio.sleep(pause.total_seconds())

    def _of(self, currency: str) -> tuple[Source, ...]:
        if currency not in self._sources:
            self._sources[currency] = default_sources(currency)
        return self._sources[currency]

    def _ask(self, currency: str) -> asyncio.Task[bool]:
        """All of a currency's sources are being asked; whether a rate comes of it."""
        asking = self._asking.get(currency)
        if asking is None or asking.done():
            asking = self._asking[currency] = asyncio.ensure_future(self._refresh(currency))
        return asking

    async def _refresh(self, currency: str) -> bool:
        now = self._clock()
        told = await asyncio.gather(*(self._read(source, currency, now) for source in self._of(currency)))
        seen = [rate for rate in told if rate is not None]
        taken = False
        if seen:
            rate = middle(seen)
            taken = self._in_force.take(rate)
            if not taken:
                log.warning(
                    "rate-doubted",
                    currency=currency,
                    per_btc=str(rate.per_btc),
                    source=rate.source,
                    mend="it is too far from the last one, and waits until it is confirmed; look at the source",
                )
        self._asked[currency] = now, taken
        return taken

    async def _read(self, source: Source, currency: str, now: datetime) -> Rate | None:
        try:
            per_btc, seen_at = await source.read(now)
            rate = Rate(currency=currency, per_btc=per_btc, seen_at=seen_at, source=source.name)
            if not self._in_force.is_fresh(rate, now):
                raise RateUnavailable(f"what it tells is of {seen_at:%Y-%m-%d %H:%M:%S} UTC")
        except RateUnavailable as trouble:
            self._tell(currency, source, trouble.detail or trouble.title)
            return None
        except Exception as trouble:  # noqa: BLE001 - a source of somebody's own must not end what asks the others
            self._tell(currency, source, type(trouble).__name__)
            return None
        self._tell(currency, source, None)
        return rate

    def _tell(self, currency: str, source: Source, reason: str | None) -> None:
        """How a source does is told when it changes, and not each time."""
        before = self._reasons.get((currency, source.name))
        if reason == before:
            return
        self._reasons[currency, source.name] = reason
        if reason is None:
            log.info("rate-read-again", currency=currency, source=source.name)
        else:
            log.warning("rate-not-read", currency=currency, source=source.name, reason=reason)


def _now() -> datetime:
    return datetime.now(UTC)
