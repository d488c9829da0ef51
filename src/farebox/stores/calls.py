"""Calls: the methods of a port as bytes, for asking an object in another process.

Rules
1. Nothing here knows a method by name: how arguments and results look follows from the port's own annotations, so a new
   method of the port travels by itself. Its types are those that msgspec knows, and dataclasses of them.
2. What is read back is equal to what was written, and of the annotated types; what is not is refused.
3. Arguments travel by name, and those that have their default don't: a port may grow an argument with a default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

_ENCODER: Final = msgspec.msgpack.Encoder()


class Call:
    """One awaited method of a port."""

    def __init__(self, name: str, method: Callable[..., object]) -> None:
        hints = get_type_hints(method)
        _, *parameters = inspect.signature(method).parameters.values()
        self.name = name
        self._in_order = tuple(each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD)
        self._unions: dict[str, _Union] = {}
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        for each in parameters:
            kind = self._kind(each.name, hints[each.name])
            fields.append((each.name, kind) if each.default is each.empty else (each.name, kind, each.default))
        self._arguments = msgspec.defstruct(name, fields, kw_only=True, omit_defaults=True)
        self._read_arguments = msgspec.msgpack.Decoder(self._arguments)
        self._read_result = msgspec.msgpack.Decoder(self._kind("return", hints["return"]))

    def ask(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> msgspec.Struct:
        """The arguments of a call, as they travel."""
        named = {**dict(zip(self._in_order, args, strict=False)), **kwargs}
        for name in self._unions.keys() & named.keys():
            named[name] = self._unions[name].wrapped(named[name])
        return self._arguments(**named)

    def heard(self, arguments: msgspec.Raw) -> dict[str, Any]:
        """The arguments, by name. Raises msgspec.MsgspecError."""
        heard = msgspec.structs.asdict(self._read_arguments.decode(arguments))
        for name in self._unions.keys() & heard.keys():
            heard[name] = _unwrapped(heard[name])
        return heard

    def answer(self, result: object) -> object:
        """The result, as it travels."""
        union = self._unions.get("return")
        return result if union is None else union.wrapped(result)

    def answered(self, result: msgspec.Raw) -> object:
        """The result. Raises msgspec.MsgspecError."""
        return _unwrapped(self._read_result.decode(result))

    def _kind(self, name: str, hint: object) -> object:
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
        records = [member for member in members if is_dataclass(member)]
        if len(records) < 2:
            return hint
        union = self._unions[name] = _Union(records)
        return union.kind(tuple(member for member in members if member not in records))


class _Union:
    """A union of several dataclasses: each travels with its name in front, which the dataclasses don't say."""

    def __init__(self, records: list[Any]) -> None:
        self._wrappers = {
            record: msgspec.defstruct(
                f"{record.__name__}Wrapped", [("value", record)], bases=(_Wrapped,), tag=record.__name__
            )
            for record in records
        }

    def kind(self, others: tuple[Any, ...]) -> object:
        return Union[(*self._wrappers.values(), *others)]

    def wrapped(self, value: object) -> object:
        wrapper = self._wrappers.get(type(value))
        return value if wrapper is None else wrapper(value)


class _Wrapped(msgspec.Struct, array_like=True):
    value: Any  # of the dataclass that the subclass is for


def _unwrapped(value: Any) -> Any:
    return value.value if isinstance(value, _Wrapped) else value


def calls(port: type, *, without: frozenset[str] = frozenset()) -> Mapping[str, Call]:
    """Every awaited method of a port, by name."""
    return {
        name: Call(name, method)
        for name, method in inspect.getmembers(port)
        if inspect.iscoroutinefunction(method) and name not in without
    }


def write(message: object) -> bytes:
    """Anything that travels, as MessagePack."""
    return _ENCODER.encode(message)
