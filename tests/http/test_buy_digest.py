"""What tells a call that is made again: the digest under which the purse keeps a purchase."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import httpx
import httpx2
import pytest

from farebox.http.buy_wire import read_call

URL = "https://shop.test/api?q=1"
BODY = b'{"prompt": "hi"}'


def digest(method: str = "POST", url: str = URL, *, library: Any = httpx, **changes: Any) -> bytes | None:
    headers = {"accept": "text/plain", "content-type": "application/json"} | changes.pop("headers", {})
    return read_call(library.Request(method, url, headers=headers, content=changes.pop("content", BODY))).digest


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_the_digest_is_the_same_in_every_version_for_it_is_kept_in_the_purse(library: Any) -> None:
    fields = (b"farebox call 1", b"POST", URL.encode(), b"application/json", b"text/plain", sha256(BODY).digest())
    expected = sha256(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).digest()
    assert expected == digest(library=library)


def test_a_header_that_is_not_there_counts_as_empty() -> None:
    empty = digest("GET", headers={"accept": "", "content-type": ""}, content=b"")
    assert empty == read_call(httpx.Request("GET", URL)).digest


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"},
        {"url": URL + "&r=2"},
        {"content": BODY + b" "},
        {"headers": {"accept": "text/html"}},
        {"headers": {"content-type": "text/plain"}},
    ],
    ids=str,
)
def test_whatever_makes_it_another_call_changes_the_digest(changed: dict[str, Any]) -> None:
    assert digest() != digest(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"headers": {"x-other": "1"}},
        {"headers": {"range": "bytes=4-", "if-range": "x"}},
        {"url": URL + "#here"},
        {"url": URL.replace("//", "//me:secret@")},
    ],
    ids=str,
)
def test_what_is_not_sent_or_does_not_matter_leaves_the_digest_alone(changed: dict[str, Any]) -> None:
    assert digest() == digest(**changed)


def test_a_body_that_can_be_read_only_once_has_no_digest() -> None:
    assert digest(content=iter([BODY])) is None
