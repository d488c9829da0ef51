"""Reading a priced request: the digest, and the cutting out of proofs."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.errors import BodyTooLarge, HeadersTooLarge, MalformedCredential, MalformedRequest
from farebox.http.request import Disconnected, PricedRequest, Reader, read_body

READER = Reader(proof_headers=frozenset({"x-payment-hash"}), proof_fields=frozenset({"payment_hash"}))
HASH = "ab" * 32


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


def take(body: bytes = b'{"prompt": "hi"}', method: str = "POST", **changes: Any) -> PricedRequest:
    return READER.take(scope(**changes), body, method)


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
    ],
    ids=str,
)
def test_the_proof_and_what_does_not_matter_leave_the_digest_alone(changed: dict[str, Any]) -> None:
    assert take().digest == take(**changed).digest


def test_a_configured_authority_stands_for_scheme_and_host() -> None:
    reader = Reader(
        proof_headers=frozenset(), proof_fields=frozenset(), authority="https://shop.example", vary=("x-tenant",)
    )
    other = scope(scheme="https", headers=[(b"host", b"10.0.0.1"), *scope()["headers"][1:]])
    tenant = scope(headers=[*scope()["headers"], (b"x-tenant", b"a")])
    assert reader.take(scope(), b"", "GET").digest == reader.take(other, b"", "GET").digest
    assert reader.take(scope(), b"", "GET").digest != reader.take(tenant, b"", "GET").digest


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
    [b'{"payment_hash"', b'{"a": {"payment_hash": "x"}}', b'["payment_hash"]', b'{"payment_hash": "x"} tail', b"\xff{"],
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
    names = [name for name, _ in READER.passed_on(request)]
    assert names == [b"host", b"content-type", b"accept", b"content-length"]


def test_the_length_of_what_is_passed_on_is_the_length_without_the_proof() -> None:
    request = take(json.dumps({"prompt": "hi", "payment_hash": HASH}).encode())
    assert dict(READER.passed_on(request))[b"content-length"] == str(len(b'{"prompt": "hi"}')).encode()


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([(b"x", b"y")] * 101, HeadersTooLarge),
        ([(b"x", b"y" * 17_000)], HeadersTooLarge),
        ([(b"host", b"a"), (b"Host", b"b")], MalformedRequest),
        ([(b"X-HTTP-Method-Override", b"GET")], MalformedRequest),
    ],
)
def test_headers_that_nobody_can_trust_are_refused(headers: list[tuple[bytes, bytes]], error: type[Exception]) -> None:
    with pytest.raises(error):
        take(headers=headers)


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
