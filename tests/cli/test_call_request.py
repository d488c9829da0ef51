"""What `farebox call` sends, and what it refuses to send."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import pytest

from farebox.cli.call_request import Wanted, read_request
from farebox.core.errors import ConfigError, MalformedValue, UsageError
from farebox.core.exchange import Wire
from farebox.http.buy_wire import FileBody, read_call, with_proof

URL = "https://api.example.com/x"


def wanted(url: str = URL, **more: object) -> Wanted:
    return Wanted(url=url, budget="500 sat/day", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com/x",
        "ftp://api.example.com/x",
        "https://",
        "https://user:secret@api.example.com/x",
        "https://api.example.com/x\r\nHost: other",
        "https://api.example.com/\x1b[2J",
        "https://api.example.com/\u202egpj.exe",
        "https://[::1",
        "https://a..b/",
        f"https://{'a' * 300}.example/",
        "https://xn--a/",
        "https://api.example.com:99999/x",
    ],
)
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(MalformedValue) as refused:
        read_request(wanted(url))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("line", ["Authorization", ": x", "a b: c", "X: a\r\nY: b", "X: a\x00", "X: für"])
def test_what_is_no_header_is_refused(line: str) -> None:
    with pytest.raises(MalformedValue):
        read_request(wanted(headers=(line,)))


@pytest.mark.parametrize("method", ["GET /", "", "G\tT", "Ä"])
def test_what_is_no_method_is_refused(method: str) -> None:
    if method:
        with pytest.raises(MalformedValue):
            read_request(wanted(method=method))
    else:
        assert "GET" == read_request(wanted(method=method)).method


@pytest.mark.parametrize("probing", [False, True])
@pytest.mark.parametrize(
    ("idle", "told"), [({"resume": True}, "-c goes with -o FILE"), ({"include": True, "as_json": True}, "--json")]
)
def test_an_option_that_would_say_nothing_is_refused(idle: dict[str, object], told: str, *, probing: bool) -> None:
    with pytest.raises(UsageError, match=told):
        read_request(wanted(**idle), probing=probing)


def test_a_body_makes_it_a_post_whose_type_is_what_it_looks_like() -> None:
    sent = [read_request(wanted(data=(data,))) for data in ('{"a": 1}', " [1]", "a=1")]
    assert {"POST"} == {request.method for request in sent}
    assert ["application/json", "application/json", "text/plain; charset=utf-8"] == [
        request.headers["content-type"] for request in sent
    ]


def test_what_was_said_stays_as_it_was_said() -> None:
    request = read_request(
        wanted(method="put", data=("a=1",), headers=("Content-Type: x/y", "Accept: a/b", "User-Agent: me"))
    )
    assert "PUT" == request.method
    assert ("x/y", "a/b", "me") == tuple(request.headers[name] for name in ("content-type", "accept", "user-agent"))


def test_a_file_is_sent_as_the_bytes_that_it_is(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"\r\n\xff\x00\n")
    assert b"\r\n\xff\x00\n" == read_request(wanted(data=(f"@{file}",))).content


def piped(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(body)))


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        (("a=1", "b=2"), b"a=1&b=2"),
        (("a=1", "@FILE", "@-", "z"), b"a=1&\r\n\xff\n&piped&z"),
        (("@-", "@FILE"), b"piped&\r\n\xff\n"),
        (("a", "", "b"), b"a&&b"),
        (("", ""), b"&"),
        (("",), b""),
    ],
)
def test_several_bodies_are_the_parts_of_one_as_with_curl(
    data: tuple[str, ...], sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped(monkeypatch, b"piped")
    (tmp_path / "body").write_bytes(b"\r\n\xff\n")
    request = read_request(wanted(data=tuple(part.replace("FILE", str(tmp_path / "body")) for part in data)))
    assert ("POST", sent, str(len(sent))) == (request.method, request.content, request.headers["content-length"])


def test_a_large_file_that_is_only_a_part_of_the_body_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"x" * 2_000_000)
    for data in (("a=1", f"@{file}"), (f"@{file}", "a=1")):
        with pytest.raises(UsageError, match=r"over 1 MiB.*nothing was sent"):
            read_request(wanted(data=data))


def test_standard_input_is_one_part_of_the_body_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"piped")
    with pytest.raises(UsageError, match="read once"):
        read_request(wanted(data=("@-", "@-")))


def test_a_file_that_is_not_there_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing was sent"):
        read_request(wanted(data=(f"@{tmp_path / 'none'}",)))


def test_only_a_question_for_the_price_says_so() -> None:
    assert [None, "l402=require"] == [
        read_request(wanted(), probing=probing).headers.get("prefer") for probing in (False, True)
    ]


def test_a_large_file_is_sent_from_where_it_is_as_often_as_it_has_to_be(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"[" + b"x" * 2_000_000)
    request = read_request(wanted(data=(f"@{file}",)))
    again = with_proof(request, Wire(headers=(("authorization", "L402 a:b"),)))
    for each in (request, again):
        assert isinstance(each.stream, FileBody)
        assert file.read_bytes() == b"".join(each.stream)
        assert ("2000001", "application/json") == (each.headers["content-length"], each.headers["content-type"])
    assert "L402 a:b" == again.headers["authorization"]


def test_a_large_file_is_the_same_call_as_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"x" * 2_000_000)
    from_disk = read_request(wanted(data=(f"@{file}",)))
    in_memory = httpx.Request("POST", URL, headers=from_disk.headers, content=file.read_bytes())
    digest = read_call(from_disk).digest
    assert digest is not None
    assert digest == read_call(in_memory).digest


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding"])
def test_how_long_the_body_is_can_not_be_said(name: str) -> None:
    with pytest.raises(UsageError, match="leave it out"):
        read_request(wanted(headers=(f"{name}: 3",)))
