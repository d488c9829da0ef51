"""Fiat: a price in the money of a country, and the rate that turns it into bitcoin.

Rules
1. Numbers are decimal and exact, as they were written; none of them is ever a float.
2. A price in fiat becomes bitcoin by a rate that somebody saw, at an instant, and by nothing else.
3. It is rounded up to whole satoshis, which every node can ask for, so it is never nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final, Self

from farebox.core.amount import Amount
from farebox.core.errors import MalformedPrice

# ISO 4217, without funds, metals and what is for tests.
_CODES: Final = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY
    COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS
    INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP
    MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR
    SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV
    WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CURRENCIES: Final = frozenset(_CODES.split())
_CENTS: Final = {"US": "USD", "USD": "USD", "EUR": "EUR"}
_CENT: Final = Decimal("0.01")
_MOST_SHOWN: Final = 40
_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,12})?"  # no more than Decimal multiplies exactly
_DECIMAL: Final = re.compile(_NUMBER, re.ASCII)
_TEXT: Final = re.compile(rf"\s*(?:\$({_NUMBER})|({_NUMBER})\s*([A-Za-z]{{2,4}})(\s+cents?)?)\s*", re.ASCII)


def read_decimal(text: str) -> Decimal | None:
    """The number that is written like `64000` or `0.005`; None for any other way to write one."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fiat:
    """An amount of a currency, which is one of ISO 4217; more than nothing."""

    amount: Decimal
    currency: str

    def __post_init__(self) -> None:
        if self.currency not in CURRENCIES:
            raise MalformedPrice(f"{self.currency} is no currency of ISO 4217, such as USD or EUR.")
        if not self.amount.is_finite() or self.amount <= 0:
            raise MalformedPrice("It is more than nothing.")

    @classmethod
    def read(cls, text: str) -> Self:
        """Read `0.005 USD`, `$0.005`, `0.5 US cent`, `2 EUR`, `3 EUR cent`. Raises MalformedPrice."""
        match = _TEXT.fullmatch(text)
        if match is None or "sat" in (match[3] or "").lower():
            raise MalformedPrice(given=text[:_MOST_SHOWN])
        dollars, count, unit, cent = match.groups()
        if dollars is not None:
            return cls(amount=Decimal(dollars), currency="USD")
        if cent is None:
            return cls(amount=Decimal(count), currency=unit)
        if unit.upper() in _CENTS and unit not in _CENTS:
            raise MalformedPrice(f"A currency is written in capitals, such as `{count} {unit.upper()} cent`.")
        if unit not in _CENTS:
            raise MalformedPrice(f"Cents are US or EUR cents; write hundredths of others, such as `0.01 {unit}`.")
        return cls(amount=Decimal(count) * _CENT, currency=_CENTS[unit])

    @property
    def number(self) -> str:
        """How many of the currency, in digits."""
        digits = f"{self.amount:f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits

    def __str__(self) -> str:
        return f"{self.number} {self.currency}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What one bitcoin costs in a currency, when that was seen, and what the place is called where it was."""

    currency: str
    per_btc: Decimal
    seen_at: datetime
    source: str

    def __post_init__(self) -> None:
        if not self.per_btc.is_finite() or self.per_btc <= 0:
            raise MalformedPrice("A rate is more than nothing.")

    def differs(self, other: Rate, *, percent: int) -> bool:
        """Whether the larger of both is more than so many hundredths above the smaller."""
        less, more = sorted((self.per_btc, other.per_btc))
        return Fraction(more) * 100 > Fraction(less) * (100 + percent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A price in fiat, and the rate at which it is asked for."""

    price: Fiat
    rate: Rate

    @property
    def amount(self) -> Amount:
        """The price in whole satoshis, rounded up. Raises MalformedAmount when that is more than all bitcoin."""
        return Amount.part_of_bitcoin(Fraction(self.price.amount) / Fraction(self.rate.per_btc))
