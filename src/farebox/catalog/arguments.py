"""Arguments: what a function takes, as a JSON schema, and the check that a caller keeps to it.

Rules
1. What a function takes is read from its type hints; every argument needs one and is passed by name.
2. An argument that the function does not have is refused, so that a caller's typing error is not paid for.
3. A refusal names the argument and what is wrong with it, and does not repeat what was sent.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from farebox.core.errors import ArgumentsInvalid, ConfigError
from farebox.core.exchange import Json
from farebox.core.json_text import load_json

if TYPE_CHECKING:
    import pydantic

_MOST_TOLD: Final = 3
_MOST_TOLD_CHARACTERS: Final = 120
_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments:
    """The arguments of one function. Raises ConfigError when its signature can't be put on sale."""

    __slots__ = ("_model", "_names", "schema")

    def __init__(self, called: str, signature: inspect.Signature) -> None:
        from pydantic import ConfigDict, Field, create_model

        fields: dict[str, object] = {}
        self._names: dict[str, str] = {}
        for number, parameter in enumerate(signature.parameters.values()):
            if parameter.kind not in _BY_NAME:
                raise ConfigError(f"{called} takes {parameter}; what is sold takes named arguments only.")
            if parameter.annotation is inspect.Parameter.empty:
                raise ConfigError(f"The argument {parameter.name} of {called} has no type.")
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            # An argument may be called `json`, which is a method of a model: so the field has a name of its own.
            self._names[f"argument_{number}"] = parameter.name
            fields[f"argument_{number}"] = (parameter.annotation, Field(default, alias=parameter.name))
        # The signature is known only when it runs, so no overload of create_model fits.
        self._model: type[pydantic.BaseModel] = create_model(  # type: ignore[call-overload]
            "Arguments", __config__=ConfigDict(extra="forbid", hide_input_in_errors=True), **fields
        )
        self.schema: Mapping[str, Json] = untitled(self._model.model_json_schema())

    def check(self, given: Mapping[str, Json]) -> dict[str, object]:
        """What to call the function with. Raises ArgumentsInvalid."""
        from pydantic import ValidationError

        try:
            model = self._model.model_validate(dict(given))
        except ValidationError as error:
            raise ArgumentsInvalid(_told(error)) from None
        return {name: getattr(model, field) for field, name in self._names.items()}


def read_json(body: bytes) -> dict[str, Json]:
    """The JSON object in a request body; nothing at all means no arguments.

    Raises ArgumentsInvalid, also for what JSON readers differ about: a member given twice, NaN, text that is not UTF-8.
    """
    if not body.strip():
        return {}
    try:
        read = load_json(body.decode("utf-8"), _DECODER)
    except UnicodeDecodeError:
        raise ArgumentsInvalid("The body is not UTF-8.") from None
    except ValueError:
        raise ArgumentsInvalid("The body is not JSON.") from None
    if not isinstance(read, dict):
        raise ArgumentsInvalid("The body is not a JSON object.")
    return read


def _once(members: list[tuple[str, Json]]) -> dict[str, Json]:
    read = dict(members)
    if len(read) != len(members):
        names = [name for name, _ in members]
        raise ArgumentsInvalid(f"{_shortened(max(names, key=names.count))}: given twice")
    return read


def _refuse_constant(name: str) -> Json:
    raise ArgumentsInvalid(f"{name} is not JSON.")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse_constant)


def signature_of(called: str, function: Callable[..., object]) -> inspect.Signature:
    """What a function takes and returns, with types that are written as text looked up. Raises ConfigError."""
    try:
        return inspect.signature(function, eval_str=True)
    except NameError as error:
        raise ConfigError(
            f"{called} names a type that can't be found ({error}); define it at the top of its module."
        ) from None


def untitled(schema: Mapping[str, object]) -> Mapping[str, Json]:
    """A JSON schema without the titles that are only the names again."""
    return {
        name: _untitled(value, is_map=name in ("properties", "$defs"))
        for name, value in schema.items()
        if name != "title"
    }


def _untitled(value: object, *, is_map: bool = False) -> Json:
    match value:
        case dict() if is_map:
            return {name: _untitled(each) for name, each in value.items()}
        case dict():
            return dict(untitled(value))
        case list():
            return [_untitled(each) for each in value]
        case str() | int() | float() | None:
            return value
    raise ConfigError(f"A JSON schema has a value of type {type(value).__name__}.")


def _told(error: pydantic.ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{_shortened('.'.join(map(str, each['loc'])))}: {_shortened(each['msg'])}" for each in found[:_MOST_TOLD]]
    more = len(found) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def _shortened(text: str) -> str:
    plain = "".join(each if each.isprintable() else "?" for each in text)
    return plain if len(plain) <= _MOST_TOLD_CHARACTERS else plain[:_MOST_TOLD_CHARACTERS] + "…"
