"""Event: what is said on Nostr, signed (NIP-01).

Rules
1. An event is read only with the id that its content has, and a signature of its author over that id.
2. Whatever else comes is no event: None, and never an exception.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from farebox.core.exchange import Json
from farebox.core.json_text import load_json
from farebox.nostr.keys import KEY_BYTES, SIGNATURE_BYTES, public_key, sign_schnorr, verify_schnorr

MOST_KIND: Final = 65_535
_LOWER_HEX: Final = frozenset("0123456789abcdef")

Tags = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event; `id`, `author` and `signature` are lower hexadecimal digits, and `created_at` has whole seconds."""

    id: str
    author: str
    created_at: datetime
    kind: int
    tags: Tags
    content: str
    signature: str

    def tagged(self, name: str) -> tuple[str, ...]:
        """The first value of every tag of this name."""
        return tuple(tag[1] for tag in self.tags if len(tag) > 1 and tag[0] == name)

    def as_json(self) -> dict[str, Json]:
        """Its members, as relays know them."""
        return {
            "id": self.id,
            "pubkey": self.author,
            "created_at": int(self.created_at.timestamp()),
            "kind": self.kind,
            "tags": [list(tag) for tag in self.tags],
            "content": self.content,
            "sig": self.signature,
        }

    def write(self) -> str:
        """Its JSON, without white space."""
        return _written(self.as_json())


def sign_event(
    secret_key: bytes, *, kind: int, content: str, tags: Iterable[Sequence[str]] = (), created_at: datetime
) -> Event:
    """A new event of this key. Raises ValueError when the key is none, or a text can't be written as UTF-8."""
    author, kept = public_key(secret_key).hex(), tuple(tuple(tag) for tag in tags)
    digest = _digest(author, int(created_at.timestamp()), kind, kept, content)
    return Event(
        id=digest.hex(),
        author=author,
        created_at=created_at.astimezone(UTC).replace(microsecond=0),
        kind=kind,
        tags=kept,
        content=content,
        signature=sign_schnorr(secret_key, digest).hex(),
    )


def read_event(told: str | bytes | Mapping[str, Json]) -> Event | None:
    """The event, if it is one: well formed, with its own id, and signed by its author."""
    try:
        members = told if isinstance(told, Mapping) else load_json(told)
        return _verified(members) if isinstance(members, Mapping) else None
    except (ValueError, OverflowError, OSError):  # no JSON, no UTF-8, or an instant that is none
        return None


def _verified(members: Mapping[str, Json]) -> Event | None:
    author, event_id, signature = (members.get(name) for name in ("pubkey", "id", "sig"))
    created_s, kind, content = (members.get(name) for name in ("created_at", "kind", "content"))
    tags = _tags_of(members.get("tags"))
    if not (_is_hex(author, KEY_BYTES) and _is_hex(event_id, KEY_BYTES) and _is_hex(signature, SIGNATURE_BYTES)):
        return None
    if tags is None or not isinstance(content, str) or not _is_count(created_s) or not _is_count(kind):
        return None
    if not isinstance(created_s, int) or not isinstance(kind, int) or kind > MOST_KIND:
        return None
    digest = _digest(str(author), created_s, kind, tags, content)
    if digest.hex() != event_id:
        return None
    if not verify_schnorr(bytes.fromhex(str(author)), bytes.fromhex(str(signature)), digest):
        return None
    return Event(
        id=str(event_id),
        author=str(author),
        created_at=datetime.fromtimestamp(created_s, UTC),
        kind=kind,
        tags=tags,
        content=content,
        signature=str(signature),
    )


def _digest(author: str, created_s: int, kind: int, tags: Tags, content: str) -> bytes:
    """The id. What the specification wants verbatim among the control characters is written as everybody does."""
    return sha256(_written([0, author, created_s, kind, tags, content]).encode()).digest()


def _written(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _tags_of(value: Json) -> Tags | None:
    if not isinstance(value, list):
        return None
    tags = []
    for tag in value:
        if not isinstance(tag, list):
            return None
        texts = tuple(each for each in tag if isinstance(each, str))
        if len(texts) != len(tag):
            return None
        tags.append(texts)
    return tuple(tags)


def _is_hex(value: Json, octets: int) -> bool:
    return isinstance(value, str) and len(value) == 2 * octets and set(value) <= _LOWER_HEX


def _is_count(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
