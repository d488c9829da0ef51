from __future__ import annotations

import json
from datetime import timedelta
from urllib.parse import parse_qs

import pytest

from farebox.core.conversation import Line
from farebox.core.errors import WalletError
from farebox.core.secret import Secret
from farebox.lightning.api import ANSWER_WITHIN, Api
from farebox.lightning.url import read_url

API = Api(base_url="http://127.0.0.1:8080/api", headers=Secret("x-api-key: hunter2"), line=Line(socket="/rpc"))
FORM = "acme+https://HOST?key=KEY"


def test_a_call_carries_its_json_the_headers_and_the_line() -> None:
    call = API.call("POST", "/pay", {"amount": 21}, within=timedelta(seconds=90), endless=timedelta(seconds=1))
    assert ("POST", "http://127.0.0.1:8080/api/pay", {"amount": 21}) == (call.method, call.url, json.loads(call.body))
    assert (API.headers, API.line) == (call.headers, call.line)
    assert (timedelta(seconds=90), timedelta(seconds=1)) == (call.timeout, call.endless)


def test_a_call_without_members_has_no_body_and_does_not_wait_for_long() -> None:
    call = API.call("GET", "/balance")
    assert (b"", ANSWER_WITHIN, None) == (call.body, call.timeout, call.endless)


def test_a_form_is_posted() -> None:
    call = API.post_form("/pay", {"invoice": "ln bc", "max": "9"})
    assert ("POST", {"invoice": ["ln bc"], "max": ["9"]}) == (call.method, parse_qs(call.body.decode()))


def test_an_api_names_its_place_and_shows_no_key() -> None:
    assert API.place == "127.0.0.1:8080/api"
    assert "hunter2" not in repr(API)


def test_the_key_of_a_url_is_read_as_a_secret() -> None:
    read = read_url("acme+https://host?key=hunter2", FORM, {"acme+https": "https"}, "key!")
    assert read.key(FORM) == Secret("hunter2")


@pytest.mark.parametrize(
    "url", ["acme+https://host?key=a%0Ab", "acme+https://host?key=k%C3%A9y", "acme+https://:p@host?key=k"]
)
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(WalletError, match=r"it is written as acme\+https://HOST\?key=KEY$"):
        read_url(url, FORM, {"acme+https": "https"}, "key!").key(FORM)
