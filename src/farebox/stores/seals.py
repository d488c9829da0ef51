"""Seals: the entries of the ledger as a chain of digests, so that nobody changes the past without its being seen.

Rules
1. A seal covers entries that no other covers, and the digest of the seal before it; so the newest covers everything.
2. The digest needs no key, its MAC does: who has the database and not the keys can recompute the one and not the other.
3. Keys come and go. A seal whose key was revoked is vouched for by every later one, which has its digest inside.
4. What is not sealed yet, and the end of the chain, is not protected by the chain itself: cutting off the newest seals
   is seen by whoever noted one of them elsewhere (`Head`), which the log of a running shop does by itself.
5. An entry goes into a digest by its payment's hash and without its row number, so that the chain outlives a move to
   another database.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self

from farebox.core.errors import MalformedValue, StoreUnavailable
from farebox.core.secret import KeyRing
from farebox.stores.engine import Engine, Operation, Row, rows_of, span_in_ms
from farebox.stores.statements import statements

SQL: Final = statements("ledger")

PURPOSE: Final = "ledger seal"
MOST_ENTRIES: Final = 2000  # in one seal: what a write transaction does in a few hundredths of a second
_PAGE: Final = 25  # seals read at once by who verifies them
_ABOUT: Final = b"ledger seals"
_BEGINNING: Final = bytes(hashlib.sha256().digest_size)
_VERSION: Final = b"farebox seal 1\0"
_SEAL: Final = struct.Struct(">qqq")  # number, time, how many entries
_ENTRY: Final = struct.Struct(">Bqqq")  # length of the payment hash, epoch, amount, time
_SLACK: Final = timedelta(minutes=1)  # an entry may be written while a seal is made, and become visible after it
_LEAST_NOTED: Final = 16  # hex digits of a digest that tell it from any other


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest seal, and so the whole chain: what to note elsewhere. As text `17:` and the digest in hex."""

    seal: int
    digest: bytes

    def __str__(self) -> str:
        return f"{self.seal}:{self.digest.hex()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """A head that somebody wrote down, or the beginning of its digest."""

    seal: int
    digits: str

    @classmethod
    def read(cls, text: str) -> Self:
        """`17:9f86d081884c7d65…`, at least 16 digits. Raises MalformedValue."""
        number, _, digits = text.strip().lower().partition(":")
        digits = digits.rstrip("….")
        if not number.isdigit() or len(digits) < _LEAST_NOTED or not set(digits) <= set("0123456789abcdef"):
            raise MalformedValue("a noted head is the number of a seal and its digest, such as 17:9f86d081884c7d65")
        return cls(seal=int(number), digits=digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What one seal did."""

    head: Head
    entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What verifying the chain has seen: a sentence for each thing that is not as it was sealed.

    entries: under a seal; unsealed: not yet. by_later_keys: seals whose own key is gone, vouched for by later ones.
    """

    seals: int
    entries: int
    unsealed: int
    by_later_keys: int
    head: Head | None
    findings: Sequence[str]


async def seal_entries(engine: Engine, ring: KeyRing, *, most: int = MOST_ENTRIES) -> Sealed | None:
    """Seal what is not sealed yet, at most so many entries; None when there was nothing.

    Raises StoreUnavailable, with nothing done, also when another process has sealed at the same moment.
    """
    return await engine.write(lambda now_ms: _seal(ring, most, now_ms), about=_ABOUT)


async def verify_seals(engine: Engine, ring: KeyRing, *, noted: Iterable[Noted] = ()) -> Verified:
    """Recompute the whole chain from the entries. Raises StoreUnavailable."""
    check = _Check(ring, tuple(noted))
    while True:
        page = await engine.read(lambda _: _read_page(check.last))
        if not page or page[-1][0][0] <= check.last:
            break
        for row, entries in page:
            check.add(row, entries)
    astray = await engine.read(lambda _: rows_of(SQL["entries_of_no_seal"], {}))
    waiting = await engine.read(lambda _: rows_of(SQL["unsealed_entries"], {}))
    return check.result(astray, waiting[0])


def _seal(ring: KeyRing, most: int, now_ms: int) -> Operation[Sealed | None]:
    newest = yield SQL["newest_seal"], {}
    number, before = (newest[0][0] + 1, _octets(newest[0][1])) if newest else (1, _BEGINNING)
    if not (yield SQL["mark_entries"], {"seal": number, "most": most}):
        return None
    entries = [row[1:] for row in (yield SQL["sealed_entries"], {"first": number, "last": number})]
    digest = _digest(before, number, now_ms, entries)
    key_id, mac = _mac(ring, digest)
    seal = {"seal": number, "entries": len(entries), "digest": digest, "mac": mac, "key_id": key_id, "now_ms": now_ms}
    if not (yield SQL["keep_seal"], seal):
        raise StoreUnavailable("Another process has sealed the entries at the same moment.")
    return Sealed(head=Head(seal=number, digest=digest), entries=len(entries))


def _read_page(after: int) -> Operation[list[tuple[Row, list[Row]]]]:
    seals = yield SQL["seals_after"], {"after": after, "most": _PAGE}
    if not seals:
        return []
    by_seal: dict[int, list[Row]] = {row[0]: [] for row in seals}
    for number, *entry in (yield SQL["sealed_entries"], {"first": seals[0][0], "last": seals[-1][0]}):
        if number in by_seal:
            by_seal[number].append(tuple(entry))
    return [(row, by_seal[row[0]]) for row in seals]


@dataclass(slots=True)
class _Check:
    ring: KeyRing
    noted: tuple[Noted, ...]
    last: int = 0
    before: bytes = _BEGINNING
    seals: int = 0
    entries: int = 0
    unvouched: list[tuple[int, str]] = field(default_factory=list)  # seals since the last good MAC, and their key ids
    vouched_by_later: int = 0
    sealed_at_ms: int = 0
    findings: list[str] = field(default_factory=list)

    def add(self, row: Row, entries: Sequence[Row]) -> None:
        number, count, sealed_at_ms = row[0], row[1], row[5]
        digest, mac, key_id = (_octets(each) for each in row[2:5])
        missing = range(self.last + 1, number)
        if missing:
            self.findings.append(f"{_seals(missing[0], missing[-1])} missing before seal {number}")
        elif digest != _recomputed(self.before, number, sealed_at_ms, entries):
            counted = "" if len(entries) == count else f": it had {count}, and there are {len(entries)}"
            self.findings.append(f"seal {number} does not fit its entries or the seal before it{counted}")
        self._check_mac(number, digest, mac, key_id)
        for noted in self.noted:
            if noted.seal == number and not digest.hex().startswith(noted.digits):
                self.findings.append(f"seal {number} is not the one that was noted")
        self.last, self.before = number, digest
        self.sealed_at_ms = sealed_at_ms if isinstance(sealed_at_ms, int) else self.sealed_at_ms
        self.seals += 1
        self.entries += len(entries)

    def _check_mac(self, number: int, digest: bytes, mac: bytes, key_id: bytes) -> None:
        if key_id not in self.ring:
            self.unvouched.append((number, key_id.hex()))
        elif hmac.compare_digest(mac, _mac(self.ring, digest, key_id)[1]):
            self.vouched_by_later += len(self.unvouched)
            self.unvouched.clear()
        else:
            self.findings.append(f"seal {number} was not made with the key that it names")

    def result(self, astray: Sequence[Row], waiting: Row) -> Verified:
        unsealed, oldest_ms = waiting
        if self.unvouched:
            (first, _), (last, key_id) = self.unvouched[0], self.unvouched[-1]
            self.findings.append(
                f"{_seals(first, last)} under a key that is not in the ring ({key_id}); if you have revoked that key, "
                "the seal of the next sale vouches for them"
            )
        self.findings += [
            f"{count} entries say that they are under seal {number}, which is missing" for number, count in astray
        ]
        if unsealed and self.seals and not _is_later(oldest_ms, self.sealed_at_ms - span_in_ms(_SLACK)):
            self.findings.append("an entry is not sealed that is older than the newest seal")
        self.findings += [f"seal {each.seal} was noted, and is missing" for each in self.noted if each.seal > self.last]
        return Verified(
            seals=self.seals,
            entries=self.entries,
            unsealed=unsealed,
            by_later_keys=self.vouched_by_later,
            head=Head(seal=self.last, digest=self.before) if self.seals else None,
            findings=tuple(self.findings),
        )


def _seals(first: int, last: int) -> str:
    return f"seal {first} is" if first == last else f"seals {first} to {last} are"


def _octets(value: object) -> bytes:
    """What a column of bytes holds. Whoever tampers with SQLite may have put anything there."""
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else b""


def _is_later(at_ms: object, before_ms: int) -> bool:
    return isinstance(at_ms, int) and at_ms >= before_ms


def _recomputed(before: bytes, number: int, sealed_at_ms: int, entries: Sequence[Row]) -> bytes | None:
    try:
        return _digest(before, number, sealed_at_ms, entries)
    except (AttributeError, TypeError, ValueError, struct.error):  # a text for a number, or a number for a text
        return None


def _digest(before: bytes, number: int, sealed_at_ms: int, entries: Sequence[Row]) -> bytes:
    """Everything that was sealed until then: the digest before, and these entries in the order of their keys."""
    parts = [_VERSION, before, _SEAL.pack(number, sealed_at_ms, len(entries))]
    said: dict[tuple[str, str], bytes] = {}  # there are only a few
    for payment_hash, epoch, source, target, amount_msat, at_ms in sorted(entries, key=_key):
        accounts = said.get((source, target))
        if accounts is None:
            accounts = said[source, target] = b"".join(_text(each) for each in (source, target))
        named = _octets(payment_hash)
        parts += (_ENTRY.pack(len(named), epoch, amount_msat, at_ms), named, accounts)
    return hashlib.sha256(b"".join(parts)).digest()


def _text(text: str) -> bytes:
    octets = text.encode()
    return bytes([len(octets)]) + octets


def _key(entry: Row) -> tuple[bytes, int, str, str]:
    payment_hash, epoch, source, target, *_ = entry
    return _octets(payment_hash), epoch, source, target


def _mac(ring: KeyRing, digest: bytes, key_id: bytes | None = None) -> tuple[bytes, bytes]:
    derived = ring.derive(PURPOSE, b"", key_id)
    if derived is None:
        raise MalformedValue("no key of that id is in the ring")
    return derived.key_id, hmac.digest(derived.key.reveal(), _VERSION + digest, "sha256")
