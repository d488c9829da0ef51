"""Paths that can be read one way only.

Rules
1. A path that two servers may read differently is refused, never repaired: what repairs it here and what repairs it
   behind us might not agree, and then one path is priced and another is served.
2. What is returned is the decoded path, as an application behind us sees it.
3. The bytes that were sent are what is digested and forwarded; nothing is re-encoded.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from farebox.core.errors import MalformedRequest

MAX_PATH_BYTES: Final = 4096

# The characters that RFC 3986 section 3.3 lets stand in a path as they are, less `;`, which some servers cut off.
_PLAIN: Final = rb"A-Za-z0-9._~!$&'()*+,=:@-"
_ORDINARY: Final = re.compile(rb"(?:/(?!\.{1,2}(?:/|\Z))[" + _PLAIN + rb"]+)*/?").fullmatch
_CHARACTER: Final = re.compile(rb"[/%" + _PLAIN + rb"]*").fullmatch
_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_TWICE_ENCODED: Final = re.compile(rb"%25[0-9A-Fa-f]{2}").search
_DOT_SEGMENT: Final = re.compile(rb"/\.{1,2}(?:/|\Z)").search
_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})").findall
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SEPARATORS: Final = frozenset(b"/\\;")
_CONTROLS: Final = frozenset(range(0x20)) | {0x7F}

_MOST_DECODINGS: Final = 3
_NEEDLESSLY_ENCODED: Final = re.compile(r"%(2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])").sub
_PARAMETERS: Final = re.compile(r";[^/]*").sub
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]+").sub


def canonical(raw_path: bytes) -> str:
    """The path of a request target (without the query), decoded, if every server reads it the same way.

    Raises MalformedRequest for dot segments, empty segments, `;`, a backslash, an encoded `/`, `\\` or `;`, control
    characters, characters that no path has unencoded, a bad or doubled percent encoding, encoded unreserved characters
    (RFC 3986, section 6.2.2.2), text that is not UTF-8, and more than 4096 bytes.
    """
    if len(raw_path) <= MAX_PATH_BYTES and raw_path and _ORDINARY(raw_path):
        return raw_path.decode("ascii")
    return _decoded(raw_path)


def _decoded(raw_path: bytes) -> str:
    if len(raw_path) > MAX_PATH_BYTES:
        raise MalformedRequest(f"The path is longer than {MAX_PATH_BYTES} bytes.")
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
        return unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedRequest("The path is not UTF-8.") from None


def spelt(path: str) -> bytes:
    """A spelling of a decoded path that is read back: `canonical(spelt(path)) == path`. Raises MalformedRequest."""
    raw_path = quote(path, safe="/!$&'()*+,=:@").encode("ascii")
    canonical(raw_path)
    return raw_path


def readings(raw_path: bytes) -> set[str]:
    """What forgiving servers of various manners may make of a path that `canonical` refuses.

    Decoded never, where it was not needed, once, twice and thrice; cut at a NUL or not; cut at the first `;` or at that
    of each segment; backslashes as slashes; control characters and empty segments dropped; dot segments taken as names
    or resolved.
    """
    text = raw_path.decode("utf-8", "replace")
    levels = [text, _NEEDLESSLY_ENCODED(lambda found: chr(int(found[1], 16)), text)]
    for _ in range(_MOST_DECODINGS):
        text = unquote(text, errors="replace")
        levels.append(text)
    whole = {cut.replace("\\", "/") for level in levels for cut in (level, level.partition("\0")[0])}
    cut = {_CONTROL("", part) for each in whole for part in (_PARAMETERS("", each), each.partition(";")[0])}
    found: set[str] = set()
    for path in cut:
        segments = [segment for segment in path.split("/") if segment]
        found |= {"/" + "/".join(segments), "/" + "/".join(_resolved(segments))}
    return found


def _resolved(segments: list[str]) -> list[str]:
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return kept
