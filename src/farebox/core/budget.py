"""Budget: what a buyer allows itself to spend.

Rules
1. A budget is any number of windows; a purchase must fit in every one of them.
2. A window is an amount per span of time, or per call. A span rolls (the last 24 hours) unless it is a calendar's
   (since midnight, in the time zone of the budget).
3. A window counts everything, or what was spent at one host or under one tag. `per host` is a window for each host.
4. Fees count. What is held or unresolved counts as spent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from ipaddress import IPv6Address
from types import MappingProxyType
from typing import Final

from farebox.core.amount import Amount
from farebox.core.errors import MalformedAmount, MalformedBudget, MalformedValue
from farebox.core.host import canonical_host

HOST: Final = "host:"
TAG: Final = "tag:"
PURSE: Final = "purse:"
EACH: Final = "*"  # instead of a name: a window for each of them

_SPANS: Final = MappingProxyType(
    {
        "call": None,
        "min": timedelta(minutes=1),
        "minute": timedelta(minutes=1),
        "hour": timedelta(hours=1),
        "day": timedelta(days=1),
        "week": timedelta(weeks=1),
        "month": timedelta(days=30),
    }
)
# Where a calendar's day, week (a Monday) and month begin, of a midnight in it.
_FIRST_DAYS: Final[MappingProxyType[str, Callable[[datetime], datetime]]] = MappingProxyType(
    {
        "day": lambda midnight: midnight,
        "week": lambda midnight: midnight - timedelta(days=midnight.weekday()),
        "month": lambda midnight: midnight.replace(day=1),
    }
)
_NAME: Final = re.compile(r"[a-z0-9_:](?:[a-z0-9._:-]*[a-z0-9_:])?", re.ASCII)
_MOST_NAME: Final = 253  # of a host (RFC 1035)
_WINDOW: Final = re.compile(
    r"(?P<limit>[^/]+?)\s*(?:/|\bper\b)\s*(?P<calendar>calendar[ -])?(?P<per>[a-z]+)"
    r"(?:\s+(?P<scope>on|tagged)\s+(?P<name>\S+)|\s+per\s+(?P<each>host|tag))?",
    re.IGNORECASE | re.ASCII,
)
_MOST_CHARACTERS: Final = 512
_MOST_SHOWN: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A limit per span of time, or per call.

    per: `call`, `min`, `hour`, `day`, `week` or `month` (30 days, unless it is a calendar's). calendar: it begins at
    midnight in `zone`, the first one of that week or month, instead of so long ago.
    label: what it counts, such as `host:api.example.com` or `tag:research`; `host:*` for each host by itself; empty for
    everything.
    """

    limit: Amount
    per: str
    calendar: bool = False
    label: str = ""
    zone: tzinfo = UTC

    @classmethod
    def read(cls, text: str, zone: tzinfo = UTC) -> Window:
        """Read `500 sat/day`, `50 sat/call`, `1000 sat per calendar month`, `100 sat/day on api.example.com`,
        `20 sat/min per host`, `100 sat/day tagged research`. Raises MalformedBudget.
        """
        given = text[:_MOST_SHOWN]
        told = _WINDOW.fullmatch(" ".join(text.split())) if len(text) <= _MOST_CHARACTERS else None
        if told is None:
            raise MalformedBudget(given=given)
        try:
            label = _label(told)
        except MalformedValue as error:
            raise MalformedBudget(error.detail, given=given) from None
        per, calendar = told["per"].lower(), told["calendar"] is not None
        spans = _FIRST_DAYS if calendar else _SPANS
        if per not in spans:
            of = "calendar" if calendar else "span"
            raise MalformedBudget(f"{per[:_MOST_SHOWN]!r} is no {of}; there are {', '.join(spans)}", given=given)
        if _SPANS[per] is None and label.endswith(EACH):
            raise MalformedBudget("a limit per call is the same for each host and tag; leave that out", given=given)
        try:
            limit = Amount.read(told["limit"])
        except MalformedAmount:
            limit_text = told["limit"][:_MOST_SHOWN]
            raise MalformedBudget(f"{limit_text!r} is no amount, such as 21 sat or 500 msat", given=given) from None
        return cls(limit=limit, per="min" if per == "minute" else per, calendar=calendar, label=label, zone=zone)

    @property
    def span(self) -> timedelta | None:
        """How long it lasts at least; None for a limit per call."""
        return _SPANS[self.per]

    def since(self, now: datetime) -> datetime | None:
        """What was spent after this instant counts; None for a limit per call."""
        span = self.span
        if span is None:
            return None
        if not self.calendar:
            return now - span
        # By the wall, not by elapsed time: on the day that clocks are changed midnight is not 24 hours from the next.
        # Where midnight comes twice (Havana, in autumn) the day begins with the first one.
        midnight = now.astimezone(self.zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
        return _FIRST_DAYS[self.per](midnight).replace(tzinfo=self.zone).astimezone(UTC) - timedelta(microseconds=1)

    def ends(self, now: datetime) -> datetime | None:
        """When a calendar's window begins anew; None for one that rolls, and for one per call."""
        since = self.since(now) if self.calendar else None
        if since is None:
            return None
        days = {"day": 1, "week": 7, "month": 31}[self.per]
        # By the wall; where there is no midnight (Cairo, in spring) it began an hour later.
        first = (since + timedelta(microseconds=1)).astimezone(self.zone).replace(hour=0, minute=0, tzinfo=None, fold=0)
        midnight = _FIRST_DAYS[self.per](first + timedelta(days=days))
        return midnight.replace(tzinfo=self.zone).astimezone(UTC)

    def among(self, labels: Iterable[str]) -> tuple[Window, ...]:
        """What it comes to for a purchase with these labels: itself, one for each host or tag of it, or nothing."""
        if not self.label:
            return (self,)
        if not self.label.endswith(EACH):
            return (self,) if self.label in labels else ()
        kind = self.label.removesuffix(EACH)
        return tuple(replace(self, label=label) for label in sorted(labels) if label.startswith(kind))

    def __str__(self) -> str:
        kind, _, name = self.label.partition(":")
        scope = {"": "", "host": f" on {name}", "tag": f" tagged {name}", "purse": f" in {name}"}[kind]
        if name == EACH:
            scope = f" per {kind}"
        elif kind == "purse" and "/" in name:  # whom the rest of the label is told does not know it by that
            scope = f" of this token (purse {name.partition('/')[0]})"
        return f"{self.limit}/{'calendar ' if self.calendar else ''}{self.per}{scope}"


def _label(told: re.Match[str]) -> str:
    if told["each"]:
        return (HOST if told["each"].lower() == "host" else TAG) + EACH
    if not told["scope"]:
        return ""
    return label_of(HOST if told["scope"].lower() == "on" else TAG, told["name"])


def label_of(kind: str, name: str) -> str:
    """What purchases at a host or under a tag are counted by, such as `tag:research`. Raises MalformedValue."""
    lower = canonical_host(name) if kind == HOST else name.lower()
    if len(lower) > _MOST_NAME or not _NAME.fullmatch(lower.strip("[]")):
        raise MalformedValue(f"a {kind.rstrip(':')} is of letters, digits and . _ -", given=name[:_MOST_SHOWN])
    if kind == HOST and ":" in lower:  # an address; with a port it would be the label of nothing, and limit nothing
        try:
            return f"{kind}[{IPv6Address(lower.strip('[]'))}]"
        except ValueError:
            raise MalformedValue("a host is named without a port", given=name[:_MOST_SHOWN]) from None
    return kind + lower


@dataclass(frozen=True, slots=True)
class Budget:
    """Every window that a purchase must fit in."""

    windows: tuple[Window, ...] = ()

    @classmethod
    def read(cls, text: str, zone: tzinfo = UTC) -> Budget:
        """Read windows with commas between them: `500 sat/day, 50 sat/call`. Raises MalformedBudget.

        zone: where a calendar's day begins.
        """
        return cls(tuple(Window.read(part, zone) for part in text.split(",")))

    @classmethod
    def of(cls, given: object, zone: tzinfo = UTC) -> Budget:
        """A budget as a program may say it: as text, or as one that was read. Raises MalformedBudget."""
        if isinstance(given, Budget):
            return given
        if not isinstance(given, str):
            raise MalformedBudget("say it as text", given=repr(given)[:_MOST_SHOWN])
        return cls.read(given, zone)

    def among(self, labels: Iterable[str]) -> tuple[Window, ...]:
        """The windows that a purchase with these labels must fit in."""
        known = frozenset(labels)
        return tuple(each for window in self.windows for each in window.among(known))

    def __str__(self) -> str:
        return ", ".join(map(str, self.windows)) or "no limit"
