"""Routes: which call costs what.

Rules
1. A key names a method and a path: `POST /api/dvm`, `GET /files/*`, `* /users/{id}`; without a method it means any.
2. The most specific path wins, and on one path the named method before any method. `*` stands only for the whole rest.
3. HEAD is looked up as GET and then as whatever is sold at that path, so that a probe by HEAD sees the price.
4. A spelling that some servers take for a priced path (another case, a slash too many at the end) is priced as that
   path, unless a route names it exactly: what is behind us may be one of those servers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Self

from farebox.catalog.path import canonical, plainest, readings, spelt
from farebox.catalog.price import Price
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, MalformedAmount, MalformedRequest
from farebox.core.fiat import Fiat

ANY_METHOD: Final = "*"
FREE: Final = "free"

_ABOUT_THE_PROOF: Final = frozenset({401, 402, 407})  # a caller who paid would be sent away to prove it again
_MOST_CROOKED_BYTES: Final = 1024
_KEY: Final = re.compile(r"\s*(?:(\*|[A-Za-z]+)\s+)?(/\S*)\s*")
_PARAMETER: Final = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One line of the price list.

    method: upper case, or `*` for any. path: decoded; a segment may be `{name}`, and the last one `*` for the rest.
    price: None when it is free. name, summary: for the invoice and the pricing document.
    rerun: whether a call may be run again when nobody knows whether it ran; a GET may always.
    charge_for: statuses between 400 and 499 that are an answer like any other here, and are charged, such as a 404 of a
    search that found nothing; all others refuse the call, and are not charged.
    on_success: whether the node is to hold the money until the call has succeeded, where it can.
    Raises ConfigError for what is no method or no text, and for a price of nothing. The path is checked where it is
    to be matched.
    """

    method: str
    path: str
    price: Amount | Fiat | None
    name: str = ""
    summary: str = ""
    rerun: bool = False
    charge_for: tuple[int, ...] = ()
    on_success: bool = False

    def __post_init__(self) -> None:
        if self.method != ANY_METHOD and not (
            self.method.isascii() and self.method.isalpha() and self.method.isupper()
        ):
            raise ConfigError(f"{self.method!r} is no HTTP method; write it in capitals, or `*` for any.")
        if self.price is not None and not self.price:
            raise ConfigError(f"The price of {self.resource} is nothing; write `free` if that is meant.")
        if any("\ud800" <= letter <= "\udfff" for letter in self.path + self.name + self.summary):
            raise ConfigError(f"The path, name or summary of {self.resource!a} is no Unicode text.")
        if any(not 400 <= status < 500 or status in _ABOUT_THE_PROOF for status in self.charge_for):
            raise ConfigError(
                f"{self.resource} can be charged for statuses from 400 to 499, and not for 401, 402 or 407."
            )

    @classmethod
    def read(cls, key: str, price: str | Amount | Fiat | Price | None, *, name: str = "", summary: str = "") -> Route:
        """A route from a key such as `POST /api/dvm` and a price such as `21 sat` or `2 EUR`; `free` or None for none.

        Raises ConfigError.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise ConfigError(f"{key!r} is no route; write one as `POST /api/dvm`, or `/files/*` for any method.")
        try:
            amount = None if price is None or price == FREE else Price.read(price).amount
        except MalformedAmount as error:
            raise ConfigError(f"The price of {key} can't be read. {error}") from None
        path = _decoded(match[2])
        _check_path(path)
        return cls(method=(match[1] or ANY_METHOD).upper(), path=path, price=amount, name=name, summary=summary)

    @property
    def resource(self) -> str:
        """The route as one text, such as `POST /api/dvm`; for any method only the path."""
        return self.path if self.method == ANY_METHOD else f"{self.method} {self.path}"

    @property
    def dearness(self) -> tuple[bool, Decimal]:
        """Sorts what is free before what costs less before what costs more; fiat counts as dearer than bitcoin."""
        if isinstance(self.price, Fiat):
            return True, self.price.amount
        return False, Decimal(-1 if self.price is None else self.price.msat)

    @property
    def title(self) -> str:
        """What to call it before a person: its name, or the route itself."""
        return self.name or self.resource


def _decoded(path: str) -> str:
    """The path of a key, which may be written percent-encoded as well as plainly."""
    if "%" not in path:
        return path
    try:
        return canonical(path.encode("utf-8"))
    except MalformedRequest as error:
        raise ConfigError(f"The path {path} can't be sold. {error.detail}") from None


def _check_path(path: str) -> None:
    segments = path.split("/")[1:]
    literal = [segment for segment in segments[:-1] if not _PARAMETER.fullmatch(segment)]
    last = segments[-1] if segments else ""
    if last != ANY_METHOD and not _PARAMETER.fullmatch(last):
        literal.append(last)
    if any(set(segment) & set("{}*") for segment in literal):
        raise ConfigError(f"In the path {path} a segment may be `{{name}}`, and only the last one `*` for the rest.")
    try:
        spelt(path.replace("{", "").replace("}", ""))
    except MalformedRequest as error:
        raise ConfigError(f"The path {path} can't be sold. {error.detail}") from None


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A path with parameters or a rest, and what is sold there under each method."""

    matches: Callable[[str], object]
    by_method: dict[str, Route]


class RouteTable:
    """Every route, to be looked up by method and canonical path.

    Raises ConfigError for a path that can't be matched and for two routes of the same method and path.
    """

    __slots__ = ("_exact", "_near", "_near_patterns", "_patterns", "_routes", "_widest")

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self._routes = tuple(routes)
        self._exact, self._patterns = _index(self._routes, folded=False)
        priced = [route for route in self._routes if route.price is not None]
        self._near, self._near_patterns = _index(priced, folded=True)
        self._widest = [re.compile(_expression(plainest(route.path), parameter=".+")).fullmatch for route in priced]

    @classmethod
    def read(cls, prices: Mapping[str, str | Amount | Fiat | Price | None]) -> Self:
        """A table from keys and prices: `{"POST /api/dvm": "21 sat", "GET /files/*": "free"}`. Raises ConfigError."""
        return cls(Route.read(key, price) for key, price in prices.items())

    def lookup(self, method: str, path: str) -> Route | None:
        """What a call of this method and canonical path costs; None when no route says so."""
        by_method = self._exact.get(path)
        if method == "HEAD":
            return self._for_head(path, by_method)
        if by_method is not None and (route := by_method.get(method) or by_method.get(ANY_METHOD)):
            return route
        found = _first(self._patterns, method, path)
        if found is None or found.price is None:
            return self._priced_alike(method.upper(), path) or found
        return found

    def methods(self, path: str) -> frozenset[str]:
        """The methods under which something is listed at this path, for `Allow`; empty when nothing is.

        `*` is among them when any method is.
        """
        listed = [*self._exact.get(path, ())]
        for pattern in self._patterns:
            if pattern.matches(path):
                listed += pattern.by_method
        return frozenset(listed) | ({"HEAD"} if listed else frozenset())

    def could_mean(self, raw_path: bytes) -> bool:
        """Whether some server might take a path that `canonical` refuses for a priced one, under any method."""
        if len(raw_path) > _MOST_CROOKED_BYTES:  # not worth the time that it takes
            return bool(self._widest)
        return any(matches(plainest(reading)) for reading in readings(raw_path) for matches in self._widest)

    def _for_head(self, path: str, by_method: Mapping[str, Route] | None) -> Route | None:
        if by_method:
            return by_method.get("GET") or by_method.get(ANY_METHOD) or _dearest(by_method)
        found = self.lookup("GET", path)
        if found is None:
            found = next((_dearest(each.by_method) for each in self._patterns if each.matches(path)), None)
        return found

    def _priced_alike(self, method: str, path: str) -> Route | None:
        folded = plainest(path)
        by_method = self._near.get(folded, {})
        found = by_method.get(method) or by_method.get(ANY_METHOD) or _first(self._near_patterns, method, folded)
        # One that lists the path just as it is spelt lost against a more specific free route, and rightly so.
        return None if found is None or re.fullmatch(_expression(found.path), path) else found

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)


def _first(patterns: Iterable[_Pattern], method: str, path: str) -> Route | None:
    for pattern in patterns:
        if pattern.matches(path):
            route = pattern.by_method.get(method) or pattern.by_method.get(ANY_METHOD)
            if route is not None:
                return route
    return None


def _dearest(by_method: Mapping[str, Route]) -> Route:
    return max(by_method.values(), key=lambda route: route.dearness)


def _index(routes: Iterable[Route], *, folded: bool) -> tuple[dict[str, dict[str, Route]], list[_Pattern]]:
    """Plain paths by their text, and patterns with the most specific first."""
    exact: dict[str, dict[str, Route]] = {}
    patterns: dict[str, dict[str, Route]] = {}
    for route in routes:
        _check_path(route.path)
        plain = not (route.path.endswith("/*") or _PARAMETER.search(route.path))
        shape = plainest(route.path) if folded else route.path
        by_method = exact.setdefault(shape, {}) if plain else patterns.setdefault(_PARAMETER.sub("{}", shape), {})
        if not folded and route.method in by_method:
            raise ConfigError(f"{by_method[route.method].resource} is listed twice, again as {route.resource}.")
        by_method.setdefault(route.method, route)
    ordered = sorted(patterns, key=_specificity)
    return exact, [_Pattern(re.compile(_expression(shape)).fullmatch, patterns[shape]) for shape in ordered]


def _specificity(shape: str) -> list[int]:
    """Sorts literal segments before parameters before the rest, from the left."""
    return [2 if segment == ANY_METHOD else 1 if segment.startswith("{") else 0 for segment in shape.split("/")]


def _expression(path: str, *, parameter: str = "[^/]+") -> str:
    """A regular expression for a path with parameters: each is one segment, and `*` is the rest, even none."""
    parts = [
        parameter if segment.startswith("{") else "(?s:.*)" if segment == ANY_METHOD else re.escape(segment)
        for segment in path.split("/")
    ]
    return "/".join(parts)
