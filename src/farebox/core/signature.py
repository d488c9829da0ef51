"""Signatures on secp256k1: the one place that knows the library.

The library is loaded when the first signature is made or checked, so that importing the core stays light.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from coincurve import PrivateKey

COMPACT_BYTES: Final = 64  # r and s
RECOVERABLE_BYTES: Final = 65  # r, s and the recovery id
_SCALAR_BYTES: Final = 32
_INTEGER_TAG: Final = b"\x02"
_SEQUENCE_TAG: Final = b"\x30"


def sign_recoverable(secret_key: bytes, message_hash: bytes) -> bytes:
    """A deterministic (RFC 6979) low-S signature over a 32-byte hash: r, s, recovery id.

    Raises ValueError when the key is not a number of the curve, or the hash not 32 bytes long.
    """
    return _private_key(secret_key).sign_recoverable(message_hash, hasher=None)


def public_key(secret_key: bytes) -> bytes:
    """The compressed public key, 33 bytes. Raises ValueError when the secret is not a number of the curve."""
    return _private_key(secret_key).public_key.format()


def recover_public_key(signature: bytes, message_hash: bytes) -> bytes | None:
    """The compressed public key that made a recoverable signature; None when there is no such key.

    A high-S signature recovers too, as BOLT11 wants.
    """
    from coincurve import PublicKey

    try:
        return PublicKey.from_signature_and_message(signature, message_hash, hasher=None).format()
    except ValueError:  # all that the library raises: a wrong length, an r or s off the curve, no such point
        return None


def verify_compact(public_key: bytes, signature: bytes, message_hash: bytes) -> bool:
    """Whether a 64-byte r and s, low-S only, by this compressed public key covers the 32-byte hash."""
    from coincurve import PublicKey

    if len(signature) != COMPACT_BYTES:
        return False
    try:
        return PublicKey(public_key).verify(_der(signature), message_hash, hasher=None)
    except ValueError:  # a public key that is no point, an r or s that is no number of the curve
        return False


@lru_cache(maxsize=4)  # a node has one key, and making the object costs as much as two signatures
def _private_key(secret_key: bytes) -> PrivateKey:
    from coincurve import PrivateKey

    return PrivateKey(secret_key)


def _der(compact: bytes) -> bytes:
    """The same r and s as DER, the only form the library verifies."""
    integers = b"".join(map(_der_integer, (compact[:_SCALAR_BYTES], compact[_SCALAR_BYTES:])))
    return _SEQUENCE_TAG + bytes([len(integers)]) + integers


def _der_integer(scalar: bytes) -> bytes:
    number = int.from_bytes(scalar, "big")
    octets = number.to_bytes(number.bit_length() // 8 + 1, "big")  # one bit more, so that it never reads as negative
    return _INTEGER_TAG + bytes([len(octets)]) + octets
