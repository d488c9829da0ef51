"""Secret: a value that does not print itself, and the key ring from which every key is derived.

Rules
1. A secret is seen only by calling `reveal()`, so a search for that word finds every place where one leaves.
2. The newest master key signs; every key of the ring verifies. Rotating is adding one; revoking is removing one.
3. A derived key is `HMAC(master, purpose, message)`: nothing is read from a database to verify.
4. A ring never changes. What lasts longer than one call holds Keys, and asks for the ring anew each time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Generic, Protocol, TypeVar

from farebox.core.errors import ConfigError

T = TypeVar("T", str, bytes)

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 4


@dataclass(frozen=True, slots=True, repr=False)
class Secret(Generic[T]):
    """A text or bytes that print as dots and compare in constant time."""

    _value: T

    def reveal(self) -> T:
        """The value itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('•••')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        same_kind = type(self._value) is type(other._value)
        return hmac.compare_digest(_octets(self._value), _octets(other._value)) and same_kind

    def __hash__(self) -> int:
        return hash((Secret, hashlib.sha256(_octets(self._value)).digest()))


def _octets(value: str | bytes) -> bytes:
    return value.encode(errors="surrogatepass") if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class DerivedKey:
    """A key for one purpose and message, and the id of the master key that it came from."""

    key_id: bytes
    key: Secret[bytes]


class KeyRing:
    """Master keys of at least 32 bytes, oldest first.

    Raises ConfigError for an empty ring, a short key or one that is obviously not random.
    """

    __slots__ = ("_masters", "newest")

    def __init__(self, masters: Iterable[bytes]) -> None:
        self._masters: dict[bytes, bytes] = {}
        self.newest = b""
        for master in masters:
            if len(master) < KEY_BYTES or _looks_made_up(master):
                raise ConfigError(f"a master key needs {KEY_BYTES} random bytes or more; make one with `farebox init`")
            self.newest = hashlib.sha256(b"farebox key id" + master).digest()[:KEY_ID_BYTES]
            self._masters[self.newest] = master
        if not self._masters:
            raise ConfigError("there is no master key; make one with `farebox init`")

    @classmethod
    def generate(cls) -> KeyRing:
        """A ring of one fresh key, for tests and for a shop that forgets."""
        return cls([secrets.token_bytes(KEY_BYTES)])

    def derive(self, purpose: str, message: bytes, key_id: bytes | None = None) -> DerivedKey | None:
        """The key for this purpose and message; under the newest master unless a key id is named.

        None when no key of that id is in the ring.
        """
        chosen = self.newest if key_id is None else key_id
        master = self._masters.get(chosen)
        if master is None:
            return None
        label = purpose.encode()
        derived = hmac.digest(master, bytes([len(label)]) + label + message, "sha256")
        return DerivedKey(chosen, Secret(derived))

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._masters

    def key_ids(self) -> tuple[bytes, ...]:
        """Every key id, oldest first."""
        return tuple(self._masters)

    def ring(self, key_id: bytes | None = None) -> KeyRing:
        """This ring: it is Keys that never change."""
        return self


class Keys(Protocol):
    """Where the key ring of the moment is to be had, for those who serve longer than a ring lasts."""

    def ring(self, key_id: bytes | None = None) -> KeyRing:
        """The ring as it is now; with a key id, looked at afresh before that id is called unknown.

        The same object as long as nothing was added or removed, so whoever remembers what a ring verified compares it.
        """


def _looks_made_up(master: bytes) -> bool:
    """Whether a key is text, a pattern or a count rather than random: by chance, less often than once in 2 ** 40."""
    few = len(set(master)) < KEY_BYTES // 4
    text = all(32 <= octet < 127 or octet in b"\t\r\n" for octet in master)
    repeated = any(master[span:] == master[:-span] for span in range(1, len(master) - 7))
    counted = len({(after - before) % 256 for before, after in pairwise(master)}) < 4
    return few or text or repeated or counted
