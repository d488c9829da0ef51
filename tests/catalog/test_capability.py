"""One function on sale."""

import asyncio
import functools
import json
import threading
from dataclasses import dataclass
from datetime import timedelta

import pytest
from pydantic import BaseModel

from farebox.catalog.capability import Capability
from farebox.catalog.price import Price
from farebox.core.amount import Amount
from farebox.core.errors import ArgumentsInvalid, ConfigError, MalformedAmount, UpstreamFailed
from farebox.core.exchange import Json


async def summarise(text: str, sentences: int = 3) -> str:
    """Summarise a text.

    In so many sentences.
    """
    return f"{text} in {sentences}"


def called(capability: Capability, **arguments: Json) -> object:
    return json.loads(asyncio.run(capability(arguments)))


def test_name_summary_path_and_price_come_from_the_function() -> None:
    capability = Capability.of(summarise, price="21 sat")
    assert (capability.name, capability.summary, capability.method, capability.path, capability.price) == (
        "summarise",
        "Summarise a text.",
        "POST",
        "/summarise",
        Price(amount=Amount.sats(21)),
    )


def test_its_route_is_its_line_of_the_price_list() -> None:
    route = Capability.of(summarise, price="21 sat", path="/api/sum", method="PUT", rerun=True).route
    assert (route.resource, route.price, route.title, route.summary, route.rerun) == (
        "PUT /api/sum",
        Amount.sats(21),
        "summarise",
        "Summarise a text.",
        True,
    )


def test_a_function_without_a_docstring_is_summed_up_by_its_name() -> None:
    async def rank_users(text: str) -> str:
        return text

    assert Capability.of(rank_users, price="1 sat").summary == "rank users"


def test_an_async_function_is_called_with_its_arguments() -> None:
    assert called(Capability.of(summarise, price="1 sat"), text="x", sentences=5) == {"result": "x in 5"}


def test_a_plain_function_runs_in_a_thread_of_its_own() -> None:
    def where(text: str) -> list[str]:
        return [text, threading.current_thread().name]

    capability = Capability.of(where, price="1 sat")
    text, thread = json.loads(asyncio.run(capability({"text": "x"})))["result"]
    assert text == "x"
    assert thread != threading.current_thread().name


def test_a_result_that_is_an_object_by_its_type_is_not_wrapped() -> None:
    @dataclass
    class Score:
        rank: int

    class Profile(BaseModel):
        title: str

    def score() -> Score:
        return Score(3)

    def profile() -> Profile:
        return Profile(title="x")

    def either() -> dict[str, int]:
        return {"a": 1}

    for function, expected in ((score, {"rank": 3}), (profile, {"title": "x"}), (either, {"a": 1})):
        capability = Capability.of(function, price="1 sat")
        assert called(capability) == expected
        assert capability.output_schema["type"] == "object"


@pytest.mark.parametrize("value", ["x", 1, None, [1, 2], {"a": 1}])
def test_any_other_result_is_answered_under_result(value: object) -> None:
    def give():  # type: ignore[no-untyped-def] # also a function that does not say what it returns
        return value

    assert called(Capability.of(give, price="1 sat")) == {"result": value}


def test_the_output_schema_describes_what_is_answered() -> None:
    class Line(BaseModel):
        text: str

    def lines() -> list[Line]:
        return [Line(text="x")]

    capability = Capability.of(lines, price="1 sat")
    assert called(capability) == {"result": [{"text": "x"}]}
    assert capability.output_schema == {
        "type": "object",
        "properties": {"result": {"type": "array", "items": {"$ref": "#/$defs/Line"}}},
        "required": ["result"],
        "$defs": {"Line": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}},
    }


def test_arguments_that_do_not_fit_are_refused_before_the_function_runs() -> None:
    calls: list[int] = []

    def count(number: int) -> None:
        calls.append(number)

    capability = Capability.of(count, price="1 sat")
    with pytest.raises(ArgumentsInvalid):
        asyncio.run(capability({"number": "x"}))
    with pytest.raises(ArgumentsInvalid):
        capability.check(b'{"number": "x"}')
    capability.check(b'{"number": 1}')
    assert calls == []


def test_it_can_be_called_with_a_request_body() -> None:
    assert asyncio.run(Capability.of(summarise, price="1 sat").call(b'{"text": "x"}')) == b'{"result":"x in 3"}'


def test_a_call_that_takes_too_long_is_a_failure_that_may_have_had_effects() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    capability = Capability.of(wait, price="1 sat", timeout=timedelta(milliseconds=5))
    with pytest.raises(UpstreamFailed) as raised:
        asyncio.run(capability({}))
    assert raised.value.evidence == {"sent": True}


def test_what_a_function_raises_passes_even_a_timeout_of_its_own() -> None:
    async def fail() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        asyncio.run(Capability.of(fail, price="1 sat")({}))


def test_a_result_of_another_type_than_promised_is_not_answered() -> None:
    def promise() -> int:
        return "x"  # type: ignore[return-value] # what is tested

    with pytest.raises(ValueError, match="int"):
        asyncio.run(Capability.of(promise, price="1 sat")({}))


def test_a_wrapped_or_partial_function_is_sold_by_the_signature_that_is_left() -> None:
    @functools.wraps(summarise)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return kwargs["text"]

    assert called(Capability.of(wrapper, price="1 sat"), text="x") == {"result": "x"}
    partial = functools.partial(summarise, sentences=9)
    assert called(Capability.of(partial, price="1 sat", name="sum"), text="x") == {"result": "x in 9"}


def test_what_can_not_be_sold_is_a_configuration_error() -> None:
    async def stream(text: str):  # type: ignore[no-untyped-def]
        yield text

    async def ask(text: str) -> str:
        return text

    with pytest.raises(ConfigError, match="generator"):
        Capability.of(stream, price="1 sat")
    with pytest.raises(ConfigError, match="name"):
        Capability.of(lambda: None, price="1 sat")
    with pytest.raises(ConfigError, match="path"):
        Capability.of(ask, price="1 sat", path="/users/{id}")
    with pytest.raises(ConfigError, match="path"):
        Capability.of(ask, price="1 sat", path="/a/../b")
    with pytest.raises(ConfigError, match="GET"):
        Capability.of(ask, price="1 sat", method="GET")
    with pytest.raises(ConfigError, match="timeout"):
        Capability.of(ask, price="1 sat", timeout=timedelta(0))
    with pytest.raises(MalformedAmount):
        Capability.of(ask, price="1")


def test_what_takes_no_arguments_may_be_sold_under_get() -> None:
    def now() -> int:
        return 5

    assert Capability.of(now, price="1 sat", method="GET").route.resource == "GET /now"
