"""What a function takes, and the check that a caller keeps to it."""

import json
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from farebox.catalog.arguments import Arguments, read_json, signature_of
from farebox.core.errors import ArgumentsInvalid, ConfigError
from farebox.core.exchange import Json


def summarise(text: str, sentences: Annotated[int, Field(ge=1)] = 3, *, model: str | None = None) -> str:
    return text[:sentences] + (model or "")


def arguments_of(function: object) -> Arguments:
    assert callable(function)
    return Arguments("it", signature_of("it", function))


def test_the_schema_names_every_argument_with_its_type_and_default() -> None:
    assert arguments_of(summarise).schema == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "text": {"type": "string"},
            "sentences": {"type": "integer", "minimum": 1, "default": 3},
            "model": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["text"],
    }


def test_what_is_not_given_has_its_default() -> None:
    assert arguments_of(summarise).check({"text": "x"}) == {"text": "x", "sentences": 3, "model": None}


@pytest.mark.parametrize(
    ("given_arguments", "argument"),
    [
        ({}, "text"),
        ({"text": 5}, "text"),
        ({"text": None}, "text"),
        ({"text": "x", "sentences": "many"}, "sentences"),
        ({"text": "x", "sentences": 0}, "sentences"),
        ({"text": "x", "sentences": 1.5}, "sentences"),
        ({"text": "x", "sentence": 1}, "sentence"),
    ],
)
def test_a_refusal_names_the_argument(given_arguments: dict[str, Json], argument: str) -> None:
    with pytest.raises(ArgumentsInvalid) as raised:
        arguments_of(summarise).check(given_arguments)
    assert (raised.value.detail or "").startswith(f"{argument}: ")


def test_a_refusal_is_short_and_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(ArgumentsInvalid) as raised:
        arguments_of(summarise).check(
            {"text": ["sesame" * 99], "sentences": "sesame", **{f"x{n}": 1 for n in range(50)}}
        )
    assert "sesame" not in str(raised.value)
    assert len(str(raised.value)) < 500
    assert str(raised.value).endswith("and 49 more")


def test_a_strange_name_is_told_cut_and_without_control_characters() -> None:
    with pytest.raises(ArgumentsInvalid) as raised:
        arguments_of(summarise).check({"text": "x", "\n" + "n" * 5000: 1})
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_arguments_may_be_called_like_the_methods_of_a_model() -> None:
    def odd(json: str, copy: int, model_config: bool, _private: str = "p") -> str:
        return f"{json}{copy}{model_config}{_private}"

    given_arguments: dict[str, Json] = {"json": "a", "copy": 1, "model_config": True}
    assert arguments_of(odd).check(given_arguments) == given_arguments | {"_private": "p"}


def test_a_property_called_title_stays_in_the_schema() -> None:
    def write(title: str) -> str:
        return title

    assert arguments_of(write).schema["properties"] == {"title": {"type": "string"}}


def test_what_can_not_be_passed_by_name_or_has_no_type_is_a_configuration_error() -> None:
    def many(*texts: str) -> str:
        return "".join(texts)

    def named(**texts: str) -> str:
        return "".join(texts)

    def nameless(text: str, /) -> str:
        return text

    def untyped(text) -> str:  # type: ignore[no-untyped-def] # what is tested
        return str(text)

    for function in (many, named, nameless, untyped):
        with pytest.raises(ConfigError):
            arguments_of(function)


def test_a_type_that_can_not_be_found_is_a_configuration_error_that_names_it() -> None:
    def lost(text: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821 - what is tested
        return str(text)

    with pytest.raises(ConfigError, match="Nowhere"):
        arguments_of(lost)


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"[]",
        b'"x"',
        b"null",
        b"{",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": 1} x',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
def test_a_body_that_is_not_one_json_object_in_every_reader_is_refused(body: bytes) -> None:
    with pytest.raises(ArgumentsInvalid):
        read_json(body)


@pytest.mark.parametrize("body", [b"", b" \n", b"{}"])
def test_no_body_means_no_arguments(body: bytes) -> None:
    assert read_json(body) == {}


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8")),
        st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    )
)
def test_any_json_object_is_read_back(members: dict[str, Json]) -> None:
    assert members == read_json(json.dumps(members, ensure_ascii=False).encode())


@given(st.binary())
def test_any_body_is_an_object_or_refused(body: bytes) -> None:
    try:
        read = read_json(body)
    except ArgumentsInvalid:
        return
    assert isinstance(read, dict)
