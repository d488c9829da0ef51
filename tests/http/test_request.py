"""Reading a priced request: the digest, and the cutting out of proofs."""

import json
import struct
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.errors import BodyTooLarge, HeadersTooLarge, MalformedCredential, MalformedRequest
from farebox.core.exchange import Wire
from farebox.http.request import (
    MOST_HEADER_BYTES,
    MOST_HEADERS,
    Disconnected,
    PricedRequest,
    Reader,
    overrides_method,
    raw_path,
    read_body,
)

HASH = "ab" * 32
BODY = b'{"prompt": "hi"}'


def reader(**changes: Any) -> Reader:
    plain: dict[str, Any] = {
        "proof_headers": frozenset({"x-payment-hash"}),
        "proof_fields": frozenset({"payment_hash"}),
    }
    return Reader(**plain | changes)


def scope(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": "/api/dvm",
        "raw_path": b"/api/dvm",
        "query_string": b"a=1&b=2",
        "headers": [(b"host", b"shop.test"), (b"content-type", b"application/json"), (b"accept", b"*/*")],
    }
    return plain | changes


def take(body: bytes = BODY, method: str = "POST", **changes: Any) -> PricedRequest:
    return reader().take(scope(**changes), body, method)


def digest_of(*parts: bytes) -> str:
    """The digest as it is defined: the length of each part, then the parts."""
    return sha256(b"".join([struct.pack(">I", len(part)) for part in parts]) + b"".join(parts)).hexdigest()


def test_the_digest_is_the_same_in_every_version_for_it_is_kept_with_the_payment() -> None:
    headers = [(b"Host", b"Shop.Test"), (b"Content-Type", b"text/plain"), (b"accept", b"a"), (b"accept", b"b")]
    parts = (b"farebox request 1", b"POST", b"http://shop.test", b"/api/dvm", b"a=1&b=2", b"text/plain", b"a,b")
    assert digest_of(*parts, sha256(BODY).digest()) == take(headers=headers).digest.hex()


def test_what_a_request_does_not_say_is_told_apart_from_what_it_says_empty() -> None:
    parts = (b"farebox request 1", b"GET", b"http://", b"/api/dvm", b"")
    bare = take(b"", "GET", headers=[], query_string=b"")
    assert digest_of(*parts, b"\x00", b"\x00", sha256(b"").digest()) == bare.digest.hex()
    empty = take(b"", "GET", headers=[(b"content-type", b""), (b"accept", b"")], query_string=b"")
    assert digest_of(*parts, b"", b"", sha256(b"").digest()) == empty.digest.hex()


def test_a_request_without_a_proof_shows_none() -> None:
    for request in (take(), take(b"", "GET", query_string=b"")):
        assert Wire() == request.wire
        assert (None, False) == (request.authorization, request.forced)
    assert ("POST", b"a=1&b=2", BODY) == (take().method, take().query, take().body)


@pytest.mark.parametrize(
    ("raw_path", "path", "expected"),
    [(b"/a%2Fb", "/a/b", b"/a%2Fb"), (b"", "/ü", "/ü".encode()), (None, "/ü", "/ü".encode())],
)
def test_the_path_is_the_one_that_was_sent_where_the_server_knows_it(
    raw_path: bytes | None, path: str, expected: bytes
) -> None:
    assert expected == path_of(raw_path=raw_path, path=path)


def path_of(**changes: Any) -> bytes:
    return raw_path(scope(**changes))


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"},
        {"body": b'{"prompt": "hj"}'},
        {"raw_path": b"/api/dvn"},
        {"query_string": b"b=2&a=1"},
        {"query_string": b"a=1&b=2&c=3"},
        {"scheme": "https"},
        {"headers": [(b"host", b"other.test"), (b"content-type", b"application/json"), (b"accept", b"*/*")]},
        {"headers": [(b"host", b"shop.test"), (b"content-type", b"text/plain"), (b"accept", b"*/*")]},
        {"headers": [(b"host", b"shop.test"), (b"content-type", b"application/json"), (b"accept", b"text/html")]},
        {"headers": [(b"host", b"shop.test"), (b"content-type", b"application/json")]},
    ],
    ids=str,
)
def test_whatever_makes_it_another_request_changes_the_digest(changed: dict[str, Any]) -> None:
    assert take().digest != take(**changed).digest


@pytest.mark.parametrize(
    "changed",
    [
        {"query_string": b"a=1&b=2&payment_hash=" + HASH.encode()},
        {"query_string": b"payment_hash=" + HASH.encode() + b"&a=1&b=2"},
        {"query_string": b"a=1&payment%5Fhash=" + HASH.encode() + b"&b=2"},
        {"query_string": b"a=1&b=2&l402=require"},
        {"body": json.dumps({"prompt": "hi", "payment_hash": HASH}).encode()},
        {"body": json.dumps({"payment_hash": HASH, "prompt": "hi"}).encode()},
        {"headers": [*scope()["headers"], (b"x-payment-hash", HASH.encode())]},
        {"headers": [*scope()["headers"], (b"authorization", b"L402 abc")]},
        {"headers": [*scope()["headers"], (b"user-agent", b"other")]},
        {"headers": [*scope()["headers"], (b"prefer", b"l402=require")]},
        {"headers": [*scope()["headers"], (b"range", b"bytes=4-"), (b"if-range", b'"1"')]},
    ],
    ids=str,
)
def test_the_proof_and_what_does_not_matter_leave_the_digest_alone(changed: dict[str, Any]) -> None:
    assert take().digest == take(**changed).digest


def test_a_configured_authority_stands_for_scheme_and_host() -> None:
    named = reader(authority="https://shop.example", vary=("X-Tenant",))
    other = scope(scheme="https", headers=[(b"host", b"10.0.0.1"), *scope()["headers"][1:]])
    tenant = scope(headers=[*scope()["headers"], (b"x-tenant", b"a")])
    assert named.take(scope(), b"", "GET").digest == named.take(other, b"", "GET").digest
    assert named.take(scope(), b"", "GET").digest != named.take(tenant, b"", "GET").digest


# --- where a proof can be ---------------------------------------------------------------------------------------------


PROOF = [(b"user-agent", b"a"), (b"Authorization", b"L402 abc")]
MEMBER = f'{{"payment_hash":"{HASH}","prompt":"hi"}}'.encode()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"headers": PROOF}, "L402 abc"),
        ({"headers": [*PROOF, (b"x-payment-hash", b"ab")]}, None),
        ({"headers": [(b"x-payment-hash", b"ab")]}, None),
        ({"headers": PROOF, "query_string": b"payment_hash=ab"}, None),
        ({"headers": PROOF, "body": MEMBER}, None),
    ],
    ids=str,
)
def test_an_authorization_stands_alone_when_nothing_else_may_be_a_proof(
    changed: dict[str, Any], expected: str | None
) -> None:
    assert expected == take(**changed).authorization


def test_every_header_that_may_be_a_proof_is_shown_in_order_and_by_its_lower_case_name() -> None:
    headers = [(b"X-Payment-Hash", b"ab"), *PROOF, (b"x-payment-hash", b"\xe9")]
    expected = (("x-payment-hash", "ab"), ("authorization", "L402 abc"), ("x-payment-hash", "é"))
    assert expected == take(headers=headers).wire.headers


def test_a_proof_in_the_query_is_decoded_and_what_is_left_of_the_query_is_as_it_was() -> None:
    request = take(query_string=b"a=%41&payment%5Fhash=%C3%BC+=1&b&payment_hash=2&&c=3")
    assert (("payment_hash", "ü =1"), ("payment_hash", "2")) == request.wire.query
    assert (b"a=%41&b&&c=3", False) == (request.query, request.forced)


def test_a_probe_in_the_query_asks_for_the_price_and_is_cut_out() -> None:
    request = take(query_string=b"a=1&l402=require&b=2")
    assert (b"a=1&b=2", True) == (request.query, request.forced)
    assert not take(query_string=b"l402=required").forced


@pytest.mark.parametrize("blank", [b"", b" ", b"\n", b"\r", b"\t"])
def test_a_proof_is_cut_out_of_a_compact_body_whatever_blank_is_before_it(blank: bytes) -> None:
    request = take(blank + MEMBER)
    assert {"payment_hash": HASH} == request.wire.body
    assert blank + b'{"prompt":"hi"}' == request.body


def test_a_proof_behind_the_other_members_is_cut_out_of_a_compact_body() -> None:
    request = take(f'{{"a":1,"b":[2],"payment_hash":"{HASH}"}}'.encode())
    assert (b'{"a":1,"b":[2]}', {"payment_hash": HASH}) == (request.body, request.wire.body)


@pytest.mark.parametrize(("others", "found"), [(255, True), (256, False)])
def test_a_proof_is_looked_for_among_256_members(others: int, found: bool) -> None:
    members: dict[str, Any] = {**{f"{number}": number for number in range(others)}, "payment_hash": HASH}
    body = json.dumps(members).encode()
    assert found == ("payment_hash" in take(body).wire.body)
    assert found == (take(body).body != body)


fields = st.dictionaries(st.text(max_size=5).filter(lambda name: name != "payment_hash"), st.integers() | st.text())


@given(fields, st.integers(0, 5), st.sampled_from([None, 2]), st.booleans())
def test_cutting_a_proof_out_of_a_json_body_leaves_the_bytes_that_were_there_without_it(
    members: dict[str, Any], at: int, indent: int | None, ascii_only: bool
) -> None:
    items = list(members.items())
    items.insert(min(at, len(items)), ("payment_hash", HASH))
    shown = take(json.dumps(dict(items), indent=indent, ensure_ascii=ascii_only).encode())
    plain = json.dumps(members, indent=indent, ensure_ascii=ascii_only).encode()
    assert shown.wire.body == {"payment_hash": HASH}
    assert json.loads(shown.body) == members
    if indent is None:
        assert plain == shown.body


@given(st.binary(max_size=200))
def test_no_body_breaks_the_reading(body: bytes) -> None:
    request = take(b'{"payment_hash": ' + body)
    assert isinstance(request.body, bytes)


@pytest.mark.parametrize(
    "body",
    [
        b'{"payment_hash"',
        b'{"a": {"payment_hash": "x"}}',
        b'["payment_hash"]',
        b' ["payment_hash"]',
        b'{"payment_hash":}',
        b'{"payment_hash": "x"} tail',
        b"\xff{",
    ],
)
def test_what_is_not_a_member_of_a_json_object_is_no_proof_and_stays(body: bytes) -> None:
    request = take(body)
    assert (request.body, dict(request.wire.body)) == (body, {})


def test_a_proof_given_twice_in_a_body_is_refused() -> None:
    with pytest.raises(MalformedCredential):
        take(f'{{"payment_hash": "{HASH}", "payment_hash": "{HASH}"}}'.encode())


def test_headers_that_would_make_the_answer_a_part_or_another_are_dropped() -> None:
    dropped = [(b"Range", b"bytes=0-1"), (b"If-None-Match", b"x"), (b"Expect", b"100-continue")]
    request = take(headers=[*scope()["headers"], *dropped, (b"Transfer-Encoding", b"chunked")])
    names = [name for name, _ in reader().passed_on(request)]
    assert names == [b"host", b"content-type", b"accept", b"content-length"]


def test_nothing_of_a_proof_and_no_upgrade_is_passed_on_but_an_authorization_is_left_to_others() -> None:
    headers = [*PROOF, (b"X-Payment-Hash", b"ab"), (b"Upgrade", b"h2c"), (b"X-Other", b"1"), (b"host", b"shop.test")]
    expected = [(b"user-agent", b"a"), (b"authorization", b"L402 abc"), (b"x-other", b"1"), (b"host", b"shop.test")]
    assert expected == reader().passed_on(take(b"", "GET", headers=headers))


@pytest.mark.parametrize(
    ("method", "body", "expected"),
    [
        *((method, b"", b"0") for method in ("POST", "PUT", "PATCH")),
        *((method, b"", None) for method in ("GET", "DELETE")),
        *((method, b"12", b"2") for method in ("DELETE", "PUT")),
    ],
)
def test_a_length_is_passed_on_where_there_is_a_body_or_one_is_expected(
    method: str, body: bytes, expected: bytes | None
) -> None:
    assert expected == dict(reader().passed_on(take(body, method))).get(b"content-length")


def test_a_request_prints_without_what_its_caller_sent() -> None:
    request = take(MEMBER, headers=PROOF)
    assert f"PricedRequest(method='POST', digest={request.digest.hex()})" == repr(request)


@pytest.mark.parametrize(("body", "expected"), [(b"", False), (b" {}\n", False), (b"{ }", True), (b"0", True)])
def test_an_empty_object_is_no_content(body: bytes, expected: bool) -> None:
    assert expected == take(body).has_content


def test_the_length_of_what_is_passed_on_is_the_length_without_the_proof() -> None:
    request = take(json.dumps({"prompt": "hi", "payment_hash": HASH}).encode())
    assert dict(reader().passed_on(request))[b"content-length"] == str(len(b'{"prompt": "hi"}')).encode()


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([(b"x", b"y")] * 101, HeadersTooLarge),
        ([(b"x", b"y" * 17_000)], HeadersTooLarge),
        ([(b"host", b"a"), (b"Host", b"b")], MalformedRequest),
        *(([(b"connection", b"close, %b" % name)], MalformedRequest) for name in (b"Content-Type", b"accept")),
        *(([(name, b"GET")], MalformedRequest) for name in (b"X-HTTP-Method-Override", b"x-http-method")),
        ([(b"x-a", b"y" * 8_190), (b"x-b", b"y" * 8_189)], HeadersTooLarge),
    ],
)
def test_headers_that_nobody_can_trust_are_refused(headers: list[tuple[bytes, bytes]], error: type[Exception]) -> None:
    with pytest.raises(error):
        take(headers=headers)


def test_as_many_headers_of_as_many_bytes_as_are_allowed_are_read() -> None:
    assert MOST_HEADERS == len(take(headers=[(b"x", b"y")] * MOST_HEADERS).arrived)
    assert take(headers=[(b"x-a", b"y" * (MOST_HEADER_BYTES // 2 - 3)), (b"x-b", b"y" * (MOST_HEADER_BYTES // 2 - 3))])


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, False),
        ({"query_string": b"method=PUT"}, False),
        ({"query_string": b"a=1&_method=PUT"}, True),
        ({"headers": [(b"a", b"b"), (b"X-Method-Override", b"PUT")]}, True),
        ({"headers": [(b"x-http-method", b"PUT")], "query_string": b""}, True),
    ],
    ids=str,
)
def test_a_request_that_means_another_method_is_noticed(changed: dict[str, Any], expected: bool) -> None:
    assert expected == overrides_method(scope(**changed))


def fed(*messages: dict[str, Any]) -> Any:
    remaining = list(messages)

    async def receive() -> dict[str, Any]:
        return remaining.pop(0)

    return receive


@pytest.mark.anyio
async def test_a_body_is_refused_by_its_announced_length_before_it_is_read() -> None:
    with pytest.raises(BodyTooLarge):
        await read_body([(b"content-length", b"11")], fed(), 10)


@pytest.mark.anyio
async def test_a_body_without_a_length_is_refused_when_it_grows_too_large() -> None:
    part = {"type": "http.request", "body": b"12345678", "more_body": True}
    with pytest.raises(BodyTooLarge):
        await read_body([], fed(part, part), 10)


@pytest.mark.anyio
async def test_a_caller_who_leaves_while_sending_is_noticed() -> None:
    part = {"type": "http.request", "body": b"123", "more_body": True}
    with pytest.raises(Disconnected):
        await read_body([], fed(part, {"type": "http.disconnect"}), 10)


@pytest.mark.anyio
@pytest.mark.parametrize("length", [b"10", b"many", b"-1", b"1" * 5000 + b"x"])
async def test_a_body_of_all_the_bytes_that_are_allowed_is_read_whatever_length_it_announces(length: bytes) -> None:
    parts = ({"type": "http.request", "body": b"12345", "more_body": more} for more in (True, False))
    headers = [(b"content-length", length), (b"x-other", b"11")]
    assert b"1234512345" == await read_body(headers, fed(*parts), 10)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([{}], b""),
        ([{"body": b"1"}], b"1"),
        ([{"more_body": True}, {"body": b"1", "more_body": True}, {}], b"1"),
        ([{"body": b"1", "more_body": True}, {"body": b"2", "more_body": False}, {"body": b"3"}], b"12"),
    ],
    ids=str,
)
async def test_a_body_ends_with_the_message_that_does_not_say_that_there_is_more(
    messages: list[dict[str, Any]], body: bytes
) -> None:
    assert body == await read_body([], fed(*({"type": "http.request"} | message for message in messages)), 10)


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_an_announced_body_that_is_too_large_is_refused_before_it_is_read(method: str) -> None:
    with pytest.raises(BodyTooLarge):
        await reader(most_body=10).read(scope(headers=[(b"Content-Length", b"11")]), fed(), method)


@pytest.mark.anyio
async def test_what_is_read_is_the_request_that_was_sent() -> None:
    request = await reader(most_body=len(BODY)).read(scope(), fed({"type": "http.request", "body": BODY}), "POST")
    assert take() == request
    with pytest.raises(BodyTooLarge):
        await reader(most_body=len(BODY) - 1).read(scope(), fed({"type": "http.request", "body": BODY}), "POST")


@pytest.mark.anyio
async def test_a_get_that_announces_a_body_and_sends_none_is_read() -> None:
    headers = [(b"content-length", b"11")]
    request = await reader(most_body=10).read(scope(headers=headers), fed({"type": "http.request"}), "GET")
    assert take(b"", "GET", headers=headers) == request
