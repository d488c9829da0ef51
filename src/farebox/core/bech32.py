"""Bech32 (BIP 173, without its limit of 90 characters): the spelling of BOLT11 invoices.

The data part is handled as *digits*: bytes of `0-9a-v`, one for each 5-bit symbol, so that `int(digits, 32)` reads any
stretch of it in one call.
"""

from __future__ import annotations

from base64 import b32hexencode
from functools import reduce
from operator import xor
from typing import Final

from farebox.core.errors import MalformedValue

CHARACTERS: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"  # on the wire, by the value of the symbol
_WIRE: Final = CHARACTERS.encode()
_DIGITS: Final = b"0123456789abcdefghijklmnopqrstuv"
_WIRE_TO_DIGITS: Final = bytes.maketrans(_WIRE, _DIGITS)
_DIGITS_TO_WIRE: Final = bytes.maketrans(_DIGITS, _WIRE)
_DIGITS_TO_VALUES: Final = bytes.maketrans(_DIGITS, bytes(range(32)))

_SYMBOL_BITS: Final = 5
_BYTE_BITS: Final = 8
_CHECKSUM_SYMBOLS: Final = 6
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_MULTIPLES: Final = tuple(  # of the generator, by the symbol that is carried out
    reduce(xor, (part for bit, part in enumerate(_GENERATOR) if symbol >> bit & 1), 0) for symbol in range(32)
)


def read_bech32(text: str) -> tuple[str, bytes]:
    """The human-readable part in lower case, and the data as digits without its checksum.

    Raises MalformedValue for anything but one case throughout, a separator and a good checksum.
    """
    if not text.isascii() or text not in (text.lower(), text.upper()):
        raise MalformedValue("it is not plain text in one case")
    prefix, separator, rest = text.lower().rpartition("1")
    wire = rest.encode()
    if not prefix or not separator or len(wire) < _CHECKSUM_SYMBOLS or wire.translate(None, _WIRE):
        raise MalformedValue("it is not bech32")
    digits = wire.translate(_WIRE_TO_DIGITS)
    if _remainder(prefix, digits) != 1:
        raise MalformedValue("its checksum is wrong")
    return prefix, digits[:-_CHECKSUM_SYMBOLS]


def write_bech32(prefix: str, digits: bytes) -> str:
    """The text, in lower case, with its checksum; the prefix is lower-case ASCII."""
    checksum = _remainder(prefix, digits + b"0" * _CHECKSUM_SYMBOLS) ^ 1
    digits += number_to_digits(checksum).rjust(_CHECKSUM_SYMBOLS, b"0")
    return f"{prefix}1{digits.translate(_DIGITS_TO_WIRE).decode()}"


def digits_to_bytes(digits: bytes) -> bytes:
    """The bytes in a run of digits. Raises MalformedValue when what is left over is a whole digit or not zero."""
    length, spare = divmod(len(digits) * _SYMBOL_BITS, _BYTE_BITS)
    number = digits_to_number(digits)
    if spare >= _SYMBOL_BITS or number & ((1 << spare) - 1):
        raise MalformedValue("its padding is not zero")
    return (number >> spare).to_bytes(length, "big")


def bytes_to_digits(octets: bytes) -> bytes:
    """The digits of some bytes, the last one filled up with zero bits."""
    return b32hexencode(octets).rstrip(b"=").lower()


def digits_to_number(digits: bytes) -> int:
    """A big-endian number; no digits are nothing."""
    return int(digits or b"0", 32)


def number_to_digits(number: int) -> bytes:
    """A number, not below zero, in as few digits as it needs, and at least one."""
    count = max(1, -(-number.bit_length() // _SYMBOL_BITS))
    return bytes([_DIGITS[number >> _SYMBOL_BITS * place & 31] for place in range(count - 1, -1, -1)])


def _remainder(prefix: str, digits: bytes) -> int:
    """The remainder of everything by the generator; 1 when the checksum at the end is right."""
    codes = prefix.encode()
    rest = 1
    for value in (*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)):
        rest = (rest & 0x1FFFFFF) << 5 ^ value ^ _MULTIPLES[rest >> 25]
    for value in digits.translate(_DIGITS_TO_VALUES):
        rest = (rest & 0x1FFFFFF) << 5 ^ value ^ _MULTIPLES[rest >> 25]
    return rest
