"""Keys on secp256k1 as Nostr has them: public keys of 32 bytes, Schnorr signatures (BIP-340), a shared secret.

The libraries are loaded when they are first needed, so that importing this room stays light.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from coincurve import PrivateKey

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_EVEN: Final = b"\x02"  # of the two points with this x, the one that Nostr means


def public_key(secret_key: bytes) -> bytes:
    """The public key, 32 bytes. Raises ValueError when the secret is not a number of the curve."""
    return _private_key(_checked(secret_key)).public_key.format()[1:]


def sign_schnorr(secret_key: bytes, message_hash: bytes) -> bytes:
    """A signature of 64 bytes over a 32-byte hash. Raises ValueError when the secret is no number of the curve."""
    return _private_key(_checked(secret_key)).sign_schnorr(message_hash)


def verify_schnorr(public_key: bytes, signature: bytes, message_hash: bytes) -> bool:
    """Whether a signature by this public key covers the 32-byte hash."""
    from coincurve import PublicKeyXOnly

    if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        return PublicKeyXOnly(public_key).verify(signature, message_hash)
    except ValueError:  # no such point
        return False


@lru_cache(maxsize=16)  # two keys talk often, and this takes as long as ten signatures
def shared_x(secret_key: bytes, public_key: bytes) -> bytes:
    """What both sides of two keys know: the x of their product, not hashed. Raises ValueError when one is none.

    OpenSSL multiplies in constant time, which the other library does only for a secret that it hashes itself.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = ec.SECP256K1()
    other = ec.EllipticCurvePublicKey.from_encoded_point(curve, _EVEN + _checked(public_key))
    return ec.derive_private_key(int.from_bytes(_checked(secret_key), "big"), curve).exchange(ec.ECDH(), other)


@lru_cache(maxsize=4)  # making the object costs as much as a signature
def _private_key(secret_key: bytes) -> PrivateKey:
    from coincurve import PrivateKey

    return PrivateKey(secret_key)


def _checked(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError("a key has 32 bytes")
    return key
