"""Purse token: what lets somebody spend from a named sub-purse, and can be narrowed by whoever holds it.

Rules
1. A token is a macaroon under the sub-purse's own key. Every caveat narrows; nothing that is added can widen.
2. `limit=<window>` counts all that is spent with this token and every token made from it. What it counts is named by
   the signature up to this caveat, which nobody can make who does not hold the token.
3. `host=<pattern>,<pattern>` and `until=<Unix seconds>`. A caveat that is not known is refused, not skipped.
4. Whose token is not good is told nothing but that.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from hashlib import sha256
from typing import Final

from farebox.core.allowance import Allowance, host_patterns
from farebox.core.budget import PURSE, Window
from farebox.core.errors import MalformedBudget, MalformedMacaroon, MalformedValue, TokenRefused
from farebox.core.macaroon import Macaroon
from farebox.core.secret import Secret

KEY_BYTES: Final = 32

PREFIX: Final = "fbx_"
_LOCATION: Final = b"farebox purse"
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
_PATTERN: Final = re.compile(r"(?:\*|(?:\*\.)?[a-z0-9.:_-]+|\[[0-9a-f:.]+\])", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_MARK_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class PurseToken:
    """A token, as its holder sees it. It does not print unless asked with `reveal()`."""

    _macaroon: Macaroon

    @classmethod
    def mint(cls, name: str, key: Secret[bytes]) -> PurseToken:
        """The token of a sub-purse, limited by nothing but the sub-purse itself. Raises MalformedValue for a name."""
        return cls(Macaroon.mint(key.reveal(), checked_name(name).encode(), location=_LOCATION))

    @classmethod
    def read(cls, text: str) -> PurseToken:
        """Read a token. Raises TokenRefused."""
        if not text.startswith(PREFIX):
            raise TokenRefused(f"it is no farebox token: one begins with {PREFIX}")
        try:
            macaroon = Macaroon.read_base64(text.removeprefix(PREFIX))
            checked_name(macaroon.identifier.decode())
            if macaroon.location != _LOCATION:
                raise MalformedMacaroon("of something else")
        except (MalformedValue, UnicodeDecodeError):
            raise TokenRefused(f"it can't be read: a farebox token is copied whole, {PREFIX} and all") from None
        return cls(macaroon)

    @property
    def name(self) -> str:
        """The sub-purse that it is of, or claims to be."""
        return self._macaroon.identifier.decode()

    def attenuate(
        self, *, limits: Iterable[Window] = (), hosts: Iterable[str] = (), until: datetime | None = None
    ) -> PurseToken:
        """A token that may less, made without asking anybody. Raises MalformedValue."""
        caveats = [f"limit={_plain(window)}" for window in limits]
        patterns = [pattern.lower() for pattern in host_patterns(hosts)]
        if patterns:
            if not all(map(_PATTERN.fullmatch, patterns)):
                raise MalformedValue(
                    "a host is such as api.example.com or *.example.com", given=",".join(patterns)[:60]
                )
            caveats.append(f"host={','.join(patterns)}")
        if until is not None:
            caveats.append(f"until={int(until.timestamp())}")
        try:
            return PurseToken(self._macaroon.attenuate(*(caveat.encode() for caveat in caveats)))
        except MalformedMacaroon as error:
            raise MalformedValue(f"the token gets too long: {error.detail}") from None

    def reveal(self) -> str:
        """The token itself, such as `fbx_AgEN…`."""
        text = base64.urlsafe_b64encode(self._macaroon.write()).decode()
        return PREFIX + text.rstrip("=")

    def allowance(
        self, key: Secret[bytes], *, limits: Iterable[Window], now: datetime, zone: tzinfo = UTC
    ) -> Allowance:
        """What its holder may spend: the sub-purse's limits, and those that were added.

        Raises TokenRefused for one that was not made under this key, is over, or has a caveat that is not known.
        """
        if not self._macaroon.verify(key.reveal()):
            raise TokenRefused("it is not of this purse, or was changed")
        allowance = Allowance(
            windows=tuple(_labelled(window, PURSE + self.name) for window in limits),
            labels=frozenset((PURSE + self.name,)),
        )
        chain = Macaroon.mint(key.reveal(), self._macaroon.identifier, location=_LOCATION)
        for caveat in self._macaroon.caveats:
            chain = chain.attenuate(caveat)
            allowance = allowance.narrowed(self._narrowing(caveat, chain.signature, now, zone))
        return allowance

    def _narrowing(self, caveat: bytes, signature: bytes, now: datetime, zone: tzinfo) -> Allowance:
        try:
            kind, _, value = caveat.decode().partition("=")
            if kind == "limit":
                mark = sha256(_LOCATION + signature).hexdigest()[:_MARK_DIGITS]
                label = f"{PURSE}{self.name}/{mark}"
                window = Window.read(value, zone)
                return Allowance(windows=(_labelled(window, label),), labels=frozenset((label,)))
            if kind == "host" and all(map(_PATTERN.fullmatch, value.split(","))):
                return Allowance(hosts=(tuple(value.split(",")),))
            if kind == "until" and _SECONDS.fullmatch(value):
                if now.timestamp() < int(value):
                    return Allowance()
                raise TokenRefused("it has run out")
        except (MalformedBudget, UnicodeDecodeError):
            pass  # as one that is not known
        raise TokenRefused("it has a caveat that is not known here")


def checked_name(name: str) -> str:
    """The name of a sub-purse, if it can be one: lower-case letters, digits and `-`. Raises MalformedValue."""
    if not _NAME.fullmatch(name):
        raise MalformedValue("a purse is named with up to 40 lower-case letters, digits and -", given=name[:60])
    return name


def _labelled(window: Window, label: str) -> Window:
    return Window(limit=window.limit, per=window.per, calendar=window.calendar, label=label, zone=window.zone)


def _plain(window: Window) -> Window:
    if window.label:
        raise MalformedBudget("a limit of a token is for all that is spent with it", given=str(window))
    return window
