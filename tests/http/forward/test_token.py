"""The token of a request: one, or none."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from farebox.core.secret import Secret
from farebox.http.forward.refusal import Refusal
from farebox.http.forward.token import no_token, read_token


def basic(text: str) -> bytes:
    return b"Basic " + b64encode(text.encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Proxy-Authorization", basic("AgEtoken_-=:")),
        (b"Proxy-Authorization", basic("purse:AgEtoken_-=")),
        (b"proxy-authorization", b"basic " + b64encode(b"AgEtoken_-=:")),
        (b"Proxy-Authorization", b"Bearer AgEtoken_-="),
        (b"Proxy-Authorization", b"bearer  AgEtoken_-= "),
        (b"Farebox-Purse", b"AgEtoken_-="),
    ],
)
def test_it_is_a_password_a_user_a_bearers_or_in_a_field_of_its_own(name: bytes, value: bytes) -> None:
    assert Secret("AgEtoken_-=") == read_token([(b"Accept", b"*/*"), (name, value)])


def test_without_one_there_is_none() -> None:
    assert read_token([(b"Authorization", basic("token:")), (b"X-Farebox-Purse", b"token")]) is None


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Proxy-Authorization", b"Bearer one"), (b"Proxy-Authorization", b"Bearer one")],
        [(b"Proxy-Authorization", b"Bearer one"), (b"Proxy-Authorization", b"Bearer two")],
        [(b"Proxy-Authorization", b"Bearer one"), (b"Farebox-Purse", b"one")],
        [(b"Farebox-Purse", b"one"), (b"Farebox-Purse", b"two")],
        [(b"Farebox-Purse", b"one two")],
        [(b"Farebox-Purse", b"")],
        [(b"Farebox-Purse", b"one\xe9")],
        [(b"Proxy-Authorization", b"Bearer")],
        [(b"Proxy-Authorization", b"Bearer one, Bearer two")],
        [(b"Proxy-Authorization", b"Digest token")],
        [(b"Proxy-Authorization", b"Basic !!!")],
        [(b"Proxy-Authorization", b"Basic " + b64encode(b"\xff:"))],
        [(b"Proxy-Authorization", basic("token"))],
        [(b"Proxy-Authorization", basic(":token"))],
        [(b"Proxy-Authorization", basic("token:password"))],
    ],
)
def test_two_of_them_and_what_is_none_are_refused(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Refusal) as told:
        read_token(fields)
    assert 400 == told.value.status


def test_a_proxys_caller_is_asked_for_one_as_a_proxys_and_another_as_a_servers() -> None:
    as_proxy, as_server = no_token(proxied=True), no_token(proxied=False, detail="it has run out")
    assert (407, {b"proxy-authenticate"}) == (as_proxy.status, {name for name, _ in as_proxy.headers})
    assert ((b"www-authenticate", b'Farebox-Purse realm="farebox"'),) == as_server.headers
    told = json.loads(as_server.body())
    assert (401, "it has run out") == (as_server.status, told["detail"])
    assert "HTTP_PROXY, as http://purse:TOKEN@" in json.loads(as_proxy.body())["next_step"]
    assert "`Farebox-Purse: TOKEN`" in told["next_step"]


def test_the_challenge_is_named_as_the_header_that_is_taken() -> None:
    (challenge,) = (value for _, value in no_token(proxied=False).headers)
    name = challenge.partition(b" ")[0]
    assert Secret("AgEtoken") == read_token([(name, b"AgEtoken")])
    assert read_token([(b"Authorization", name + b" AgEtoken")]) is None  # which is the caller's, for the server
