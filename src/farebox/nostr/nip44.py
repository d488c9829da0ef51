"""NIP-44, version 2: a text that only the two holders of two keys can read, or change unnoticed.

Rules
1. The key of a conversation is the same from both sides; every message has a nonce of its own.
2. A message is believed only after its code was checked, and read only if its padding is what it has to be.
"""

from __future__ import annotations

import base64
import hmac
import os
from typing import Final

MOST_PLAINTEXT_BYTES: Final = 65_535
_VERSION: Final = b"\x02"
_SALT: Final = b"nip44-v2"
_NONCE_BYTES: Final = 32
_CODE_BYTES: Final = 32
_LENGTH_BYTES: Final = 2
_LEAST_PADDED: Final = 32
_LEAST_PAYLOAD, _MOST_PAYLOAD = 132, 87_472  # characters
_CHACHA_KEY, _CHACHA_NONCE = slice(0, 32), slice(32, 44)
_CODE_KEY: Final = slice(44, 76)
_FIRST_BLOCK: Final = bytes(4)  # the library wants the number of the block before the nonce


def conversation_key(shared_x: bytes) -> bytes:
    """The key of a conversation, for `encrypt` and `decrypt`, from what both sides know (`keys.shared_x`)."""
    return hmac.digest(_SALT, shared_x, "sha256")


def encrypt(key: bytes, text: str, *, nonce: bytes | None = None) -> str:
    """The text, 1 to 65,535 bytes of UTF-8, encrypted. nonce: for tests only. Raises ValueError for another length."""
    plaintext = text.encode()
    if not 1 <= len(plaintext) <= MOST_PLAINTEXT_BYTES:
        raise ValueError("a message has 1 to 65,535 bytes")
    nonce = os.urandom(_NONCE_BYTES) if nonce is None else nonce
    keys = _message_keys(key, nonce)
    length = len(plaintext).to_bytes(_LENGTH_BYTES, "big")
    padded = length + plaintext.ljust(padded_length(len(plaintext)), b"\0")
    ciphertext = _chacha20(keys, padded)
    code = hmac.digest(keys[_CODE_KEY], nonce + ciphertext, "sha256")
    return base64.b64encode(_VERSION + nonce + ciphertext + code).decode()


def decrypt(key: bytes, payload: str) -> str | None:
    """The text of a payload; None when it is of another version or key, or was changed."""
    if not _LEAST_PAYLOAD <= len(payload) <= _MOST_PAYLOAD:
        return None
    try:
        octets = base64.b64decode(payload, validate=True)
    except ValueError:
        return None
    nonce = octets[1 : 1 + _NONCE_BYTES]
    ciphertext, code = octets[1 + _NONCE_BYTES : -_CODE_BYTES], octets[-_CODE_BYTES:]
    if octets[:1] != _VERSION or len(ciphertext) < _LENGTH_BYTES + _LEAST_PADDED:
        return None
    keys = _message_keys(key, nonce)
    if not hmac.compare_digest(code, hmac.digest(keys[_CODE_KEY], nonce + ciphertext, "sha256")):
        return None
    padded = _chacha20(keys, ciphertext)
    length, rest = int.from_bytes(padded[:_LENGTH_BYTES], "big"), padded[_LENGTH_BYTES:]
    if not length or len(rest) != padded_length(length):
        return None
    try:
        return rest[:length].decode()
    except UnicodeDecodeError:
        return None


def padded_length(length: int) -> int:
    """To how many bytes a text of so many, at least one, is padded."""
    if length <= _LEAST_PADDED:
        return _LEAST_PADDED
    next_power = 1 << (length - 1).bit_length()
    chunk = max(_LEAST_PADDED, next_power // 8)
    return chunk * ((length - 1) // chunk + 1)


def _message_keys(key: bytes, nonce: bytes) -> bytes:
    """76 bytes: HKDF-Expand (RFC 5869) of the conversation's key with the nonce."""
    keys = block = b""
    for number in (1, 2, 3):
        block = hmac.digest(key, block + nonce + bytes([number]), "sha256")
        keys += block
    return keys[: _CODE_KEY.stop]


def _chacha20(keys: bytes, octets: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    algorithm = algorithms.ChaCha20(keys[_CHACHA_KEY], _FIRST_BLOCK + keys[_CHACHA_NONCE])
    return Cipher(algorithm, mode=None).encryptor().update(octets)
