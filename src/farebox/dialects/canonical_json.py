"""JSON that is written in one way only (JCS, RFC 8785) and read strictly, and base64url without slack.

Rules
1. Writing: members sorted by UTF-16 code units, no blanks, only the escapes that RFC 8785 asks for; no fractions.
2. Reading: one object, no member twice, no NaN, no depth that exhausts the stack.
3. base64url: padded or not, but no foreign character and no bits that are thrown away.
4. Only MalformedValue is ever raised.
"""

from __future__ import annotations

import binascii
import json
from typing import Final, NoReturn

from farebox.core.errors import MalformedValue
from farebox.core.exchange import Json
from farebox.core.json_text import load_json

_ASCII: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_MOST_INTEGER: Final = 2**53 - 1  # beyond it, an I-JSON reader may round


def write_canonical(value: Json) -> str:
    """The canonical text of strings, whole numbers, true, false, null, arrays and objects. Raises MalformedValue."""
    if isinstance(value, dict):
        if all(type(text) is str and name.isascii() and text.isascii() for name, text in value.items()):
            return _ASCII.encode(value)  # the same text, and a receipt is written for each paid call
        names = sorted(value, key=_utf16)
        return "{" + ",".join(f"{_write_text(name)}:{write_canonical(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(write_canonical, value)) + "]"
    if isinstance(value, str):
        return _write_text(value)
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > _MOST_INTEGER):
        raise MalformedValue("a number in canonical JSON is whole and below 2^53 here")
    return json.dumps(value)


def read_object(text: str | bytes) -> dict[str, Json]:
    """The members of the one object that the text is. Raises MalformedValue."""
    try:
        value: Json = load_json(text, _DECODER)
    except ValueError:
        raise MalformedValue("it is not JSON, or not of one meaning") from None
    if not isinstance(value, dict):
        raise MalformedValue("it is not a JSON object")
    return value


def write_base64url(data: bytes) -> str:
    """base64url without padding."""
    return binascii.b2a_base64(data, newline=False).decode().rstrip("=").replace("+", "-").replace("/", "_")


def read_base64url(text: str) -> bytes:
    """Undo `write_base64url`; padding is taken where it is complete. Raises MalformedValue."""
    bare = text.rstrip("=")
    fill = -len(bare) % 4
    if "+" in bare or "/" in bare or len(text) - len(bare) not in (0, fill):
        raise MalformedValue("it is not base64url")
    padded = bare.replace("-", "+").replace("_", "/") + "=" * fill
    try:
        data = binascii.a2b_base64(padded, strict_mode=True)
    except ValueError:
        raise MalformedValue("it is not base64url") from None
    if binascii.b2a_base64(data, newline=False) != padded.encode():
        raise MalformedValue("its last character has bits that say nothing")
    return data


def write_members(members: dict[str, Json]) -> str:
    """base64url of the canonical text of an object. Raises MalformedValue."""
    return write_base64url(write_canonical(members).encode())


def read_members(text: str) -> dict[str, Json]:
    """The members of an object in base64url. Raises MalformedValue."""
    return read_object(read_base64url(text))


def _write_text(text: str) -> str:
    _utf16(text)
    # It escapes just what RFC 8785, section 3.2.2.2, does, and in its way: quote, backslash, control characters.
    return _ENCODER.encode(text)


def _utf16(text: str) -> bytes:
    try:
        return text.encode("utf-16-be")
    except UnicodeEncodeError:
        raise MalformedValue("half a surrogate pair is no text") from None


def _each_once(members: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(members)
    if len(value) != len(members):
        raise MalformedValue("a member is given twice")
    return value


def _refuse_constant(_name: str) -> NoReturn:
    raise MalformedValue("NaN and infinities are not JSON")


# Made once: `json.loads` and `json.dumps` make a new one on each call that differs from the default.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_each_once, parse_constant=_refuse_constant)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)
