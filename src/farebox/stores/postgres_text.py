"""Statements and values as PostgreSQL takes them.

Rules
1. `:name` becomes `$1`, the same name the same number; a text is translated once.
2. A statement that reads its parameters from `unnest` is asked once for many: each parameter is an array, and the first
   column of a row it returns is the place, from one, of whom the row is for.
3. Whole numbers, truth values and text travel as text, whose type the server finds out; bytes and arrays in binary.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_PARAMETER: Final = re.compile(r"(?<![:\w]):(?P<name>[a-z_][a-z0-9_]*)")
_TEXT, _BINARY = 0, 1
_LENGTH: Final = struct.Struct(">i")
_ARRAY: Final = struct.Struct(">iiIii")  # dimensions, any NULL, elements' type, how many, the first's number
_BIGINT: Final = struct.Struct(">q")
_NULL: Final = _LENGTH.pack(-1)
_TYPES: Final = {bool: 16, int: 20, bytes: 17, str: 25}  # pg_type's numbers of boolean, bigint, bytea, text


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as the server takes it: its text, the names of its parameters in order, whether it is for many."""

    text: str
    names: tuple[str, ...]
    many: bool


@dataclass(frozen=True, slots=True)
class Asking:
    """A statement and what its parameters stand for, ready to be sent; formats: of each value, text or binary."""

    statement: Statement
    values: Sequence[bytes | None]
    formats: Sequence[int]


@lru_cache(maxsize=512)
def translated(text: str) -> Statement:
    """The statement of a text with `:name` parameters."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${names.setdefault(match['name'], len(names) + 1)}"

    numbered = _PARAMETER.sub(number, text)
    return Statement(numbered, tuple(names), "unnest(" in numbered)


def asking(statement: Statement, parameters: Mapping[str, object]) -> Asking:
    """A statement for one. Raises ValueError for what PostgreSQL can't keep, TypeError for what has no type there."""
    given = [parameters[name] for name in statement.names]
    return Asking(statement, [_single(value) for value in given], [_format(value) for value in given])


def asking_for_many(statement: Statement, many: Sequence[Mapping[str, object]]) -> Asking:
    """A statement for many, each in its place. Raises as `asking` does."""
    columns = [_array([parameters[name] for parameters in many]) for name in statement.names]
    return Asking(statement, columns, [_BINARY] * len(columns))


def _format(value: object) -> int:
    return _BINARY if isinstance(value, bytes) else _TEXT


def _single(value: object) -> bytes | None:
    match value:
        case None:
            return None
        case bool():
            return b"t" if value else b"f"
        case int():
            return b"%d" % value
        case bytes():
            return value
        case str():
            return _encoded(value)
    raise TypeError(f"PostgreSQL has no type for {type(value).__name__}")


def _encoded(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("PostgreSQL keeps no text with a NUL in it")
    return text.encode()


def _element(value: object) -> bytes:
    match value:
        case bool():
            encoded = b"\1" if value else b"\0"
        case int():
            encoded = _BIGINT.pack(value)
        case _:
            encoded = _single(value) or b""
    return _LENGTH.pack(len(encoded)) + encoded


def _array(values: Sequence[object]) -> bytes:
    kind = next((kind for value in values for of, kind in _TYPES.items() if isinstance(value, of)), _TYPES[str])
    head = _ARRAY.pack(1, int(None in values), kind, len(values), 1)
    return head + b"".join([_NULL if value is None else _element(value) for value in values])
