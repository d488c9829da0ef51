"""The request of `farebox call`: what was asked for on the command line, read strictly.

Rules
1. What can't be meant is refused before anything is sent: control characters, credentials in a URL, half a header, an
   option that says nothing without another.
2. A body is sent as the bytes that it is, and can be sent again.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from farebox.cli.options import Prefer
from farebox.core.errors import MalformedValue, UsageError
from farebox.core.host import can_be_called
from farebox.http.buy_wire import FileBody

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD: Final = re.compile(r"[A-Za-z][A-Za-z-]{0,31}")
_MOST_IN_MEMORY: Final = 1024 * 1024  # of a body; a larger file is sent from where it is
_USUAL: Final = (("accept", "*/*"), ("accept-encoding", "identity"), ("user-agent", "farebox"))
_PROBE: Final = ("prefer", "l402=require")  # has a seller that knows it name its price, and count no free call


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for on the command line.

    data: the body, or the parts of one that are joined by `&`; each as it is, or `@FILE`, or `@-`.
    resume: go on with a download that broke off. most_redirects: 0 for none followed. token: of a sub-purse.
    payment_timeout_s: how long to wait for a payment of which the wallet can't tell yet. approval_wait_s: how long to
    wait for a person's word on a price above `approve_above`.
    """

    url: str
    budget: str
    time_zone: str | None = None
    method: str | None = None
    headers: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    most: str | None = None
    most_fee: str | None = None
    accept_price: str | None = None
    approve_above: str | None = None
    approval_wait_s: float = 0.0
    tags: tuple[str, ...] = ()
    token: str | None = None
    prefer: tuple[Prefer, ...] = ()
    output: Path | None = None
    resume: bool = False
    include: bool = False
    most_redirects: int = 0
    timeout_s: float = 120.0
    payment_timeout_s: float = 60.0
    quiet: bool = False
    verbose: bool = False
    as_json: bool = False


def read_request(wanted: Wanted, *, probing: bool = False) -> httpx.Request:
    """The request. probing: one that asks for the price. Raises MalformedValue, UsageError."""
    _refuse_idle(wanted)
    url = _url(wanted.url)
    headers = [_header(line) for line in wanted.headers]
    given = {name.lower() for name, _ in headers}
    body = _body(wanted.data)
    if body is not None and "content-type" not in given:
        start = body if isinstance(body, bytes) else next(iter(body), b"")
        kind = "application/json" if start.lstrip()[:1] in (b"{", b"[") else "text/plain; charset=utf-8"
        headers.append(("content-type", kind))
    headers += [pair for pair in _USUAL if pair[0] not in given]
    if probing:
        headers.append(_PROBE)
    method = (wanted.method or ("GET" if body is None else "POST")).upper()
    if not _METHOD.fullmatch(method):
        raise MalformedValue(f"{method[:20]!r} is no method")
    if isinstance(body, FileBody):
        headers += [("host", url.netloc.decode("ascii")), ("content-length", str(body.length))]
        return httpx.Request(method, url, headers=headers, stream=body)
    return httpx.Request(method, url, headers=headers, content=body)


def refuse_control(what: str, text: str) -> None:
    """Raises MalformedValue for a text with characters that a line, a header or a terminal takes for something else."""
    if _CONTROL.search(text):
        raise MalformedValue(f"there is a control character in the {what}; nothing was sent")


def _refuse_idle(wanted: Wanted) -> None:
    if wanted.resume and wanted.output is None:
        raise UsageError("-c goes with -o FILE; nothing was sent")
    if wanted.include and wanted.as_json:
        raise UsageError("-i prints the head before the answer; leave it out, or --json. Nothing was sent")


def _url(text: str) -> httpx.URL:
    refuse_control("URL", text)
    try:
        url = httpx.URL(text)
        host = url.host  # which is spelt out here
    except (httpx.InvalidURL, ValueError) as error:
        raise MalformedValue(f"this is no URL: {error}") from None
    if url.scheme not in ("http", "https") or not host:
        raise MalformedValue("this is no URL; write it out, such as http://127.0.0.1:8402/api/dvm")
    if not can_be_called(url.raw_host.decode("ascii"), url.port):
        raise MalformedValue("this is no URL: nobody can have such a host or port")
    if url.userinfo:
        raise MalformedValue("a URL with credentials ends up in logs; use -H 'Authorization: Basic …'")
    return url


def _header(line: str) -> tuple[str, str]:
    refuse_control("header", line)
    name, colon, value = line.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _NAME.fullmatch(name):
        raise MalformedValue(f'a header is "Name: value", not {name[:20]!r}')
    if name.lower() in ("content-length", "transfer-encoding"):
        raise UsageError(f"{name} is what the body says; leave it out. Nothing was sent")
    if not value.isascii():
        raise MalformedValue(f"the header {name} has letters that can't be sent; encode them")
    return name, value


def _body(data: tuple[str, ...]) -> bytes | FileBody | None:
    if len(data) < 2:
        return _part(data[0]) if data else None
    if data.count("@-") > 1:
        raise UsageError("standard input can be read once; nothing was sent")
    return b"&".join(_in_memory(part) for part in data)  # as curl does


def _in_memory(text: str) -> bytes:
    part = _part(text)
    if isinstance(part, FileBody):
        raise UsageError(f"{text[1:]} is over 1 MiB, and so can only be sent by itself; nothing was sent")
    return part


def _part(text: str) -> bytes | FileBody:
    if not text.startswith("@"):
        return text.encode(errors="surrogateescape")  # as the shell handed it over
    if text == "@-":
        return sys.stdin.buffer.read()
    refuse_control("name of the file", text)
    try:
        file = Path(text[1:])
        return FileBody(file) if file.is_file() and file.stat().st_size > _MOST_IN_MEMORY else file.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read {text[1:]}: {error.strerror}; nothing was sent") from None
