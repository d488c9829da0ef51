"""Allowance: what narrows a single call, or a single caller, besides the buyer's budget. It never widens anything."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Final

from farebox.core.amount import Amount
from farebox.core.budget import PURSE, Window
from farebox.core.errors import MalformedValue
from farebox.core.host import canonical_host

_MOST_RESOURCE: Final = 200
_MOST_SHOWN: Final = 60
_PATTERN: Final = re.compile(r"[^\s/,;@]++")
_FOR: Final = f" {PURSE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one call, or one caller, may spend.

    windows: limits besides the budget's. labels: what its purchases are counted under, such as `tag:research`.
    most: the highest price of one call, without the fee. hosts: lists of patterns such as `*.example.com`; a host must
    be in each of the lists. accepts: a price that was agreed to, though it is far above the last one. payee: another
    node than the last one, that was agreed to.
    """

    windows: tuple[Window, ...] = ()
    labels: frozenset[str] = frozenset()
    most: Amount | None = None
    hosts: tuple[tuple[str, ...], ...] = ()
    accepts: Amount | None = None
    payee: bytes | None = None

    def narrowed(self, other: Allowance) -> Allowance:
        """Both at once."""
        mosts = [most for most in (self.most, other.most) if most is not None]
        return Allowance(
            windows=self.windows + other.windows,
            labels=self.labels | other.labels,
            most=min(mosts, default=None),
            hosts=self.hosts + other.hosts,
            accepts=self.accepts if other.accepts is None else other.accepts,
            payee=self.payee if other.payee is None else other.payee,
        )

    @property
    def account(self) -> str:
        """The sub-purse that is spent from, such as `purse:researcher`; empty for the purse itself."""
        return account_of(self.labels)

    def admits(self, host: str) -> bool:
        """Whether this host may be paid."""
        return all(matches(host, patterns) for patterns in self.hosts)


def account_of(labels: Iterable[str]) -> str:
    """The sub-purse among labels, such as `purse:researcher`; empty for none."""
    return min((label for label in labels if label.startswith(PURSE)), default="")


def priced_as(resource: str, labels: Iterable[str]) -> str:
    """What the last price of a resource is remembered by: within each sub-purse by itself, and at a bounded length."""
    kept = resource.replace(_FOR, f"%20{PURSE}")  # so that no path is taken for a sub-purse's
    if len(kept) > _MOST_RESOURCE:
        kept = kept[:_MOST_RESOURCE] + sha256(kept.encode(errors="replace")).hexdigest()
    account = account_of(labels)
    return f"{kept} {account}" if account else kept


def priced_for(priced: str) -> str:
    """The sub-purse that remembers what `priced_as` tells; empty for none."""
    _, mark, name = priced.partition(_FOR)
    return PURSE + name if mark else ""


def host_patterns(hosts: str | Iterable[str]) -> tuple[str, ...]:
    """The patterns for `matches`; one text is one of them. Raises MalformedValue for one that no host could match."""
    listed = (hosts,) if isinstance(hosts, str) else tuple(hosts)
    for pattern in listed:
        host = canonical_host(pattern)
        is_address = host.startswith("[") and host.endswith("]")
        if not _PATTERN.fullmatch(pattern.strip()) or (":" in host and not is_address):
            told = "a host is such as api.example.com or *.example.com, without scheme, port, path or network"
            raise MalformedValue(told, given=pattern[:_MOST_SHOWN])
    return listed


def matches(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host is one of these: `api.example.com`, `*.example.com` (which example.com itself is not), `*`.

    However they are spelt: `127.1` is `127.0.0.1`.
    """
    # The brackets of an IPv6 address are no choice of letters.
    return any(fnmatchcase(canonical_host(host), canonical_host(pattern).replace("[", "[[]")) for pattern in patterns)


UNNARROWED = Allowance()
