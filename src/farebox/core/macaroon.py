"""Macaroons: mint, attenuate and verify, in the binary form that libmacaroons calls version 2.

Rules
1. One macaroon, one spelling: reading accepts exactly what writing produces, so no two byte strings mean the same.
2. `sig_0 = HMAC(HMAC("macaroons-key-generator", root key), identifier)`; every caveat makes `sig = HMAC(sig, caveat)`.
   This is what libmacaroons and go-macaroon do; the L402 repository's macaroon-spec.md differs, and is wrong.
3. First-party caveats only; a third-party caveat is refused, not skipped.
4. The location is not covered by the signature: it proves nothing, and whoever verifies has to compare it.
5. Only MalformedMacaroon is ever raised.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Final

from farebox.core.errors import MalformedMacaroon

MOST_BYTES: Final = 4096
MOST_CAVEATS: Final = 32

_VERSION: Final = 2
_END: Final = 0
_LOCATION: Final = 1
_IDENTIFIER: Final = 2
_SIGNATURE: Final = 6
_SIGNATURE_BYTES: Final = 32

_GENERATOR: Final = b"macaroons-key-generator".ljust(32, b"\0")
_INNER: Final = bytes(octet ^ 0x36 for octet in range(256))
_OUTER: Final = bytes(octet ^ 0x5C for octet in range(256))
_INNER_REST: Final = b"\x36" * 32
_OUTER_REST: Final = b"\x5c" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Macaroon:
    """A bearer token that its holder can narrow and nobody can widen.

    The signature does not print, nor do the caveats: one of them may be the preimage.
    """

    location: bytes
    identifier: bytes
    caveats: tuple[bytes, ...] = field(repr=False)
    signature: bytes = field(repr=False)

    @classmethod
    def mint(cls, root_key: bytes, identifier: bytes, *, location: bytes, caveats: Iterable[bytes] = ()) -> Macaroon:
        """A new macaroon under a root key of any length. Raises MalformedMacaroon when it would be too large."""
        signature = _sign(_GENERATOR, (root_key, identifier))
        bare = cls(location=location, identifier=identifier, caveats=(), signature=signature)
        return bare.attenuate(*caveats)

    def attenuate(self, *caveats: bytes) -> Macaroon:
        """The same macaroon with more caveats, which needs no key. Raises MalformedMacaroon when it gets too large."""
        narrowed = Macaroon(
            location=self.location,
            identifier=self.identifier,
            caveats=self.caveats + caveats,
            signature=_sign(self.signature, caveats),
        )
        narrowed.write()
        return narrowed

    def verify(self, root_key: bytes) -> bool:
        """Whether the signature covers identifier and caveats under this root key; compared in constant time."""
        signature = _sign(_GENERATOR, (root_key, self.identifier, *self.caveats))
        return hmac.compare_digest(signature, self.signature)

    def write(self) -> bytes:
        """The macaroon in bytes. Raises MalformedMacaroon for what could not be read again."""
        if len(self.caveats) > MOST_CAVEATS or not all((self.location, self.identifier, *self.caveats)):
            raise MalformedMacaroon(f"it has an empty part or more than {MOST_CAVEATS} caveats")
        parts = [bytes((_VERSION,)), _write_field(_LOCATION, self.location), _write_field(_IDENTIFIER, self.identifier)]
        parts.append(bytes((_END,)))
        for caveat in self.caveats:
            parts += (_write_field(_IDENTIFIER, caveat), bytes((_END,)))
        parts += (bytes((_END,)), _write_field(_SIGNATURE, self.signature))
        data = b"".join(parts)
        if len(data) > MOST_BYTES or len(self.signature) != _SIGNATURE_BYTES:
            raise MalformedMacaroon(f"it has more than {MOST_BYTES} bytes or a signature of the wrong length")
        return data

    @classmethod
    def read(cls, data: bytes) -> Macaroon:
        """Read what `write` makes, and nothing else. Raises MalformedMacaroon."""
        if len(data) > MOST_BYTES:
            raise MalformedMacaroon(f"it has more than {MOST_BYTES} bytes")
        try:
            return cls._read(data)
        except IndexError:
            raise MalformedMacaroon("it ends too early") from None

    def write_base64(self) -> str:
        """The macaroon in standard base64 with padding, as L402 puts it into headers. Raises MalformedMacaroon."""
        return base64.b64encode(self.write()).decode()

    @staticmethod
    @lru_cache(maxsize=256)  # a token is read when it is shown and once more when it is verified
    def read_base64(text: str) -> Macaroon:
        """Read standard or URL-safe base64, padded or not, but without bits that are thrown away.

        Raises MalformedMacaroon.
        """
        bare = text.rstrip("=").replace("-", "+").replace("_", "/")
        padded = bare + "=" * (-len(bare) % 4)
        try:
            data = binascii.a2b_base64(padded, strict_mode=True)
        except ValueError:
            raise MalformedMacaroon("it is not base64") from None
        if len(text) not in (len(bare), len(padded)) or binascii.b2a_base64(data, newline=False) != padded.encode():
            raise MalformedMacaroon("it is not base64 of one meaning")
        return Macaroon.read(data)

    @classmethod
    def read_hex(cls, text: str) -> Macaroon:
        """Read hex digits. Raises MalformedMacaroon."""
        try:
            return cls.read(binascii.unhexlify(text))
        except MalformedMacaroon:
            raise
        except ValueError:
            raise MalformedMacaroon("it is not hex") from None

    @classmethod
    def _read(cls, data: bytes) -> Macaroon:
        if data[0] != _VERSION:
            raise MalformedMacaroon("it is not of version 2")
        location, at = _read_field(_LOCATION, data, 1)
        identifier, at = _read_field(_IDENTIFIER, data, at)
        if data[at] != _END:
            raise MalformedMacaroon("there is more than a location and an identifier in front")
        at += 1
        caveats = []
        while data[at] != _END:
            caveat, at = _read_field(_IDENTIFIER, data, at)
            if data[at] != _END:
                raise MalformedMacaroon("only first-party caveats are taken")
            at += 1
            caveats.append(caveat)
        if len(caveats) > MOST_CAVEATS:
            raise MalformedMacaroon(f"it has more than {MOST_CAVEATS} caveats")
        signature, at = _read_field(_SIGNATURE, data, at + 1)
        if len(signature) != _SIGNATURE_BYTES or at != len(data):
            raise MalformedMacaroon("the signature has the wrong length, or something follows it")
        return cls(location=location, identifier=identifier, caveats=tuple(caveats), signature=signature)


def _read_field(kind: int, data: bytes, at: int) -> tuple[bytes, int]:
    if data[at] != kind:
        raise MalformedMacaroon("a field is missing, unknown or out of order")
    length = data[at + 1]
    at += 2
    if length > 0x7F:  # a second octet; a third would say more than any macaroon may hold
        more = data[at]
        if not 0 < more <= 0x7F:
            raise MalformedMacaroon("a length is too large, or longer than it need be")
        length = length & 0x7F | more << 7
        at += 1
    end = at + length
    if not length or end > len(data):
        raise MalformedMacaroon("a field is empty or goes beyond the end")
    return data[at:end], end


def _write_field(kind: int, content: bytes) -> bytes:
    length = len(content)
    if length > MOST_BYTES:
        raise MalformedMacaroon(f"a field has more than {MOST_BYTES} bytes")
    if length > 0x7F:
        return bytes((kind, length & 0x7F | 0x80, length >> 7)) + content
    return bytes((kind, length)) + content


def _sign(key: bytes, messages: tuple[bytes, ...]) -> bytes:
    """HMAC-SHA256 of the first message under the key, of the second under the result, and so on."""
    # By hand, for keys of exactly 32 bytes, which all of these are: it costs two thirds of `hmac.digest`, and there are
    # seven on each paid call that is not in a cache.
    for message in messages:
        inner = sha256(key.translate(_INNER) + _INNER_REST + message).digest()
        key = sha256(key.translate(_OUTER) + _OUTER_REST + inner).digest()
    return key
