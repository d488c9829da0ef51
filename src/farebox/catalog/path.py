"""Paths that can be read one way only.

Rules
1. A path that two servers may read differently is refused, never repaired: what repairs it here and what repairs it
   behind us might not agree, and then one path is priced and another is served.
2. What is returned is the decoded path, as an application behind us sees it.
3. The bytes that were sent are what is digested and forwarded; nothing is re-encoded.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from farebox.core.errors import MalformedRequest, TargetTooLong

MAX_PATH_BYTES: Final = 4096

# The characters that RFC 3986 section 3.3 lets stand in a path as they are, less `;`, which some servers cut off.
_PLAIN: Final = rb"A-Za-z0-9._~!$&'()*+,=:@-"
_ORDINARY: Final = re.compile(rb"(?:/(?!\.{1,2}(?:/|\Z))[" + _PLAIN + rb"]+)*/?").fullmatch
_CHARACTER: Final = re.compile(rb"[/%" + _PLAIN + rb"]*").fullmatch
_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_TWICE_ENCODED: Final = re.compile(rb"%25(?:[0-9A-Fa-f]{2}|[uU][0-9A-Fa-f]{4})").search
_DOT_SEGMENT: Final = re.compile(rb"/\.{1,2}(?:/|\Z)").search
_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})").findall
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SEPARATORS: Final = frozenset(b"/\\;")
_CONTROLS: Final = frozenset(range(0x20)) | {0x7F}

_MOST_DECODINGS: Final = 3
_NEEDLESSLY_ENCODED: Final = re.compile(rb"%(2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])").sub
_U_ENCODED: Final = re.compile(rb"%[uU]([0-9a-fA-F]{4})").sub
_OVERLONG: Final = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]").sub
_AUTHORITY: Final = re.compile(rb"\A[A-Za-z][A-Za-z0-9+.-]*://[^/]*").sub
_PARAMETERS: Final = re.compile(r";[^/]*").sub
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]+").sub
_CUT: Final = re.compile(r"[\0?#]").split
_LOOKS_SEPARATING: Final = re.compile(r"[/\\;?#%]").findall
_LOOKS_LIKE_DOTS: Final = re.compile(r"/(?:\.{1,2}|(?=[. ]* )[. ]*\.[. ]*)(?:[/?#]|\Z)").search


def canonical(raw_path: bytes) -> str:
    """The path of a request target (without the query), decoded, if every server reads it the same way.

    Raises MalformedRequest for dot segments, empty segments, `;`, a backslash, an encoded `/`, `\\` or `;`, control
    characters, characters that no path has unencoded, a bad or doubled percent encoding, encoded unreserved characters
    (RFC 3986, section 6.2.2.2), text that is not UTF-8, characters that Unicode takes for a separator or dots (NFKC);
    and TargetTooLong, which is one, for more than 4096 bytes.
    """
    if len(raw_path) <= MAX_PATH_BYTES and raw_path and _ORDINARY(raw_path):
        return raw_path.decode("ascii")
    return _decoded(raw_path)


def _decoded(raw_path: bytes) -> str:
    if len(raw_path) > MAX_PATH_BYTES:
        raise TargetTooLong(f"The path is longer than {MAX_PATH_BYTES} bytes.")
    if not raw_path.startswith(b"/"):
        raise MalformedRequest("A path begins with a slash.")
    if b"//" in raw_path:
        raise MalformedRequest("The path has an empty segment.")
    if b";" in raw_path or b"\\" in raw_path:
        raise MalformedRequest("The path has a semicolon or a backslash.")
    if not _CHARACTER(raw_path):
        raise MalformedRequest("The path has a character that must be percent-encoded.")
    if _DOT_SEGMENT(raw_path):
        raise MalformedRequest("The path has a dot segment.")
    if _BAD_PERCENT(raw_path):
        raise MalformedRequest("The path has a percent sign that encodes nothing.")
    if _TWICE_ENCODED(raw_path):
        raise MalformedRequest("The path is percent-encoded twice.")
    encoded = {int(digits, 16) for digits in _ENCODED(raw_path)}
    if encoded & _UNRESERVED:
        raise MalformedRequest("The path encodes a character that needs no encoding.")
    if encoded & _SEPARATORS:
        raise MalformedRequest("The path encodes a slash, a backslash or a semicolon.")
    if encoded & _CONTROLS:
        raise MalformedRequest("The path has a control character.")
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedRequest("The path is not UTF-8.") from None
    plain = path if path.isascii() else unicodedata.normalize("NFKC", path)
    if _LOOKS_SEPARATING(plain) != _LOOKS_SEPARATING(path) or _LOOKS_LIKE_DOTS(plain):
        raise MalformedRequest("The path has a segment that looks like dots, or a character like a separator.")
    return path


def spelt(path: str) -> bytes:
    """A spelling of a decoded path that is read back: `canonical(spelt(path)) == path`. Raises MalformedRequest."""
    raw_path = quote(path, safe="/!$&'()*+,=:@").encode("ascii")
    canonical(raw_path)
    return raw_path


def plainest(path: str) -> str:
    """One form for all decoded paths that some server takes for the same one.

    Without regard to case and to Unicode's compatible characters, to blanks around a segment and dots at its end and to
    a slash at the end of all; and without what a server that decodes first takes for a query.
    """
    if "?" in path or "#" in path:
        path = _CUT(path, 1)[0]
    if not path.isascii():
        path = unicodedata.normalize("NFKC", path)
    if "." in path or " " in path:
        segments = (each if each in (".", "..") else each.strip(" ").rstrip(". ") for each in path.split("/"))
        path = "/" + "/".join(segment for segment in segments if segment)
    return path.casefold().rstrip("/") or "/"


def readings(raw_path: bytes) -> set[str]:
    """What forgiving servers of various manners may make of a path that `canonical` refuses.

    With a scheme and a host in front or without; decoded never, where it was not needed, once, twice and thrice, also
    from `%u002f` and from overlong UTF-8; cut at a NUL or a `?` or not; cut at the first `;` or at that of each
    segment; backslashes as slashes; control characters and empty segments dropped; dot segments taken as names or
    resolved, and what looks like a separator taken for one.
    """
    found: set[str] = set()
    whole = {text.replace("\\", "/") for text in _texts(raw_path)}
    whole |= {unicodedata.normalize("NFKC", text).replace("\\", "/") for text in whole if not text.isascii()}
    whole |= {_CUT(text, 1)[0] for text in whole}
    cut = {part for each in whole for part in (_PARAMETERS("", each), each.partition(";")[0])}
    for path in cut | {_CONTROL("", each) for each in cut}:
        segments = path.split("/")[1:] if path.startswith("/") else path.split("/")
        solid = [segment for segment in segments if segment]
        for each in (solid, _resolved(solid), [segment for segment in _resolved(segments) if segment]):
            found.add("/" + "/".join(each))
    return found


def _texts(raw_path: bytes) -> set[str]:
    found: set[str] = set()
    for target in {raw_path, _AUTHORITY(b"", raw_path)}:
        levels = [target, _NEEDLESSLY_ENCODED(lambda hit: bytes.fromhex(hit[1].decode()), target)]
        for _ in range(_MOST_DECODINGS):
            levels += [unquote_to_bytes(levels[-1]), unquote_to_bytes(_shortened(levels[-1]))]
        for each in {*levels, *map(_shortened, levels)}:
            found |= {each.decode("utf-8", "replace"), each.decode("latin-1")}
    return found


def _shortened(raw: bytes) -> bytes:
    """With `%u002f` and overlong UTF-8 as the characters that they stand for."""
    if b"%u" in raw or b"%U" in raw:
        raw = _U_ENCODED(lambda hit: chr(int(hit[1], 16)).encode("utf-8", "replace"), raw)
    return raw if raw.isascii() else _OVERLONG(_shorter, raw)


def _shorter(hit: re.Match[bytes]) -> bytes:
    number = hit[0][0] & (0x1F if len(hit[0]) == 2 else 0x0F)
    for byte in hit[0][1:]:
        number = number << 6 | byte & 0x3F
    return chr(number).encode()


def _resolved(segments: list[str]) -> list[str]:
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return kept
