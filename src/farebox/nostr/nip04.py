"""NIP-04: the older encryption between two keys, for those who know no other.

It hides a text and does not protect it from being changed, so what it carries is believed only inside a signed event.
"""

from __future__ import annotations

import base64
import os
from typing import Final

MOST_PAYLOAD: Final = 131_072  # characters
MARK: Final = "?iv="
_BLOCK_BYTES: Final = 16


def conversation_key(shared_x: bytes) -> bytes:
    """The key of a conversation, for `encrypt` and `decrypt`: what both sides know (`keys.shared_x`), as it is."""
    return shared_x


def encrypt(key: bytes, text: str, *, iv: bytes | None = None) -> str:
    """The text, encrypted. iv: for tests only."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    iv = os.urandom(_BLOCK_BYTES) if iv is None else iv
    plaintext = text.encode()
    missing = _BLOCK_BYTES - len(plaintext) % _BLOCK_BYTES
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(plaintext + bytes([missing]) * missing) + encryptor.finalize()
    return f"{base64.b64encode(ciphertext).decode()}{MARK}{base64.b64encode(iv).decode()}"


def decrypt(key: bytes, payload: str) -> str | None:
    """The text of a payload; None when it is none, or of another key."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if len(payload) > MOST_PAYLOAD:
        return None
    told, _, told_iv = payload.partition(MARK)
    try:
        ciphertext, iv = base64.b64decode(told, validate=True), base64.b64decode(told_iv, validate=True)
    except ValueError:
        return None
    if not ciphertext or len(ciphertext) % _BLOCK_BYTES or len(iv) != _BLOCK_BYTES:
        return None
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    missing = padded[-1]
    if not 1 <= missing <= _BLOCK_BYTES or padded[-missing:] != bytes([missing]) * missing:
        return None
    try:
        return padded[:-missing].decode()
    except UnicodeDecodeError:
        return None
