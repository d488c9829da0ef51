"""Text from any OpenAI-compatible model."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest

from farebox.catalog.capability import Capability
from farebox.core.amount import Amount
from farebox.core.errors import ArgumentsInvalid, ConfigError, UpstreamFailed
from farebox.core.exchange import Json
from farebox.core.secret import Secret
from farebox.services.text import TextModel, text_capability

KEY = "sk-sesame"
Answer = Callable[[httpx.Request], httpx.Response]


def completion(text: object) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def on_sale(answer: Answer, *, most_prompt: int = 100, timeout: timedelta = timedelta(seconds=5)) -> Capability:
    return text_capability(
        "http://model.test/v1/",
        "tiny",
        price="21 sat",
        api_key=Secret(KEY),
        most_prompt=most_prompt,
        most_tokens=64,
        timeout=timeout,
        client=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
    )


def called(capability: Capability, **arguments: Json) -> object:
    return json.loads(asyncio.run(capability(arguments)))


def failed(answer: Answer) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as raised:
        called(on_sale(answer), prompt="hello")
    assert KEY not in str(raised.value)
    assert "model.test" not in str(raised.value)
    return raised.value


def test_it_is_sold_where_the_first_text_services_are() -> None:
    route = on_sale(lambda request: httpx.Response(200)).route
    assert (route.resource, route.price, route.title, route.summary, route.rerun) == (
        "POST /api/dvm",
        Amount.sats(21),
        "text",
        "Text by tiny.",
        True,
    )


def test_a_prompt_is_put_to_the_model_and_its_text_is_the_result() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=completion("Hello!"))

    assert called(on_sale(answer), prompt="Say hello", max_tokens=9) == {"result": "Hello!", "model": "tiny"}
    assert (requests[0].method, str(requests[0].url)) == ("POST", "http://model.test/v1/chat/completions")
    assert requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(requests[0].content) == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Say hello"}],
        "stream": False,
        "max_tokens": 9,
    }


def test_without_a_key_none_is_sent_and_without_a_limit_none_is_asked_for() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=completion("x"))

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    asyncio.run(TextModel("http://model.test/v1", "tiny", client=client).complete("x"))
    assert "authorization" not in requests[0].headers
    assert "max_tokens" not in json.loads(requests[0].content)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"prompt": ""}, {"prompt": "x" * 101}, {"prompt": "x", "max_tokens": 0}, {"prompt": "x", "max_tokens": 65}],
)
def test_arguments_outside_the_limits_are_refused_before_the_model_is_asked(arguments: dict[str, Json]) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=completion("x"))

    with pytest.raises(ArgumentsInvalid):
        called(on_sale(answer), **arguments)
    assert requests == []


@pytest.mark.parametrize("status", [201, 302, 400, 401, 404, 429, 500, 503])
def test_a_model_that_refuses_has_failed_and_only_its_status_is_told(status: int) -> None:
    error = failed(lambda request: httpx.Response(status, headers={"location": "/x"}, text=f"bad key {KEY}"))
    assert error.evidence == {"sent": True, "upstream_status": status}


@pytest.mark.parametrize(
    ("trouble", "sent"),
    [
        (httpx.ConnectError, False),
        (httpx.ConnectTimeout, False),
        (httpx.PoolTimeout, False),
        (httpx.ReadTimeout, True),
        (httpx.WriteTimeout, True),
        (httpx.ReadError, True),
        (httpx.RemoteProtocolError, True),
    ],
)
def test_it_is_told_whether_the_model_may_have_been_asked(trouble: type[httpx.TransportError], *, sent: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise trouble(f"{KEY} at model.test")

    assert failed(answer).evidence == {"sent": sent}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[" * 100_000,
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {}}]}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": " \\n"}}]}',
        b'{"error": {"message": "sk-sesame"}}',
    ],
)
def test_an_answer_without_text_is_a_failure(body: bytes) -> None:
    assert failed(lambda request: httpx.Response(200, content=body)).evidence == {"sent": True}


def test_an_answer_without_end_is_broken_off() -> None:
    error = failed(lambda request: httpx.Response(200, content=b" " * (5 * 1024 * 1024)))
    assert "too long" in str(error)


def test_a_model_that_never_answers_is_given_up() -> None:
    class Silence(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            return httpx.Response(200)

    capability = text_capability(
        "http://model.test/v1",
        "tiny",
        price="1 sat",
        timeout=timedelta(milliseconds=10),
        client=httpx.AsyncClient(transport=Silence()),
    )
    with pytest.raises(UpstreamFailed) as raised:
        called(capability, prompt="x")
    assert raised.value.evidence == {"sent": True}


@pytest.mark.system
def test_nobody_listening_is_told_as_certainly_not_asked() -> None:
    with pytest.raises(UpstreamFailed) as raised:
        asyncio.run(TextModel("http://127.0.0.1:1/v1", "tiny").complete("x"))
    assert raised.value.evidence == {"sent": False}


@pytest.mark.parametrize(
    "base_url",
    [
        *("", "model.test/v1", "ftp://model.test", "http://", "http://[::1", "http://model.test:x/v1"),
        *("http://me:sesame@model.test/v1", "http://model.test/v1?key=sesame", "http://model.test/v1#x"),
    ],
)
def test_an_address_that_is_none_or_holds_a_password_is_a_configuration_error(base_url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        TextModel(base_url, "tiny")
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize("key", ["", "sesame\n", "sesame\u00fc", "sesame open"])
def test_a_key_that_no_header_can_carry_is_a_configuration_error(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        TextModel("http://model.test/v1", "tiny", api_key=Secret(key))
    assert "sesame" not in str(raised.value)
