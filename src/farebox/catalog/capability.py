"""Capability: one function on sale."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

from farebox.catalog.arguments import Arguments, read_json, signature_of, untitled
from farebox.catalog.price import Price
from farebox.catalog.routes import Route, RouteTable
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, UpstreamFailed
from farebox.core.exchange import Json
from farebox.core.fiat import Fiat

if TYPE_CHECKING:
    import pydantic

DEFAULT_TIMEOUT: Final = timedelta(seconds=60)

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # what MCP clients accept as the name of a tool
_WITH_BODY: Final = ("POST", "PUT", "PATCH")
_WITHOUT_BODY: Final = ("GET", "DELETE")
_RESULT: Final = "result"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capability:
    """A typed function with a name, a price and a place where it is sold; make one with `Capability.of`.

    summary: one line. method, path: where it stands over HTTP; the path has no parameters.
    timeout: how long one call may take. rerun: whether it may be run again when nobody knows whether it ran.
    on_success: whether the node holds the money until a call has succeeded, where it can.
    input_schema, output_schema: JSON schemas (2020-12) of an object. A result that is not an object by its type is
    answered, and described, as `{"result": …}`.
    content_type: of what a call returns.
    """

    name: str
    summary: str
    price: Price
    function: Callable[..., object]
    method: str
    path: str
    timeout: timedelta
    rerun: bool
    on_success: bool
    input_schema: Mapping[str, Json] = field(repr=False)
    output_schema: Mapping[str, Json] = field(repr=False)
    content_type: str = "application/json"
    _arguments: Arguments = field(repr=False)
    _result: pydantic.TypeAdapter[object] = field(repr=False)
    _is_object: bool = field(repr=False)

    @classmethod
    def of(
        cls,
        function: Callable[..., object],
        *,
        price: str | Amount | Fiat | Price,
        name: str | None = None,
        summary: str | None = None,
        method: str = "POST",
        path: str | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        rerun: bool = False,
        on_success: bool = False,
    ) -> Self:
        """Put a function on sale: its name, first docstring line and types say what is sold.

        An async function runs as it is, a plain one in a thread. Raises ConfigError, and MalformedAmount for the price.
        """
        from pydantic import TypeAdapter

        called = name or str(getattr(function, "__name__", ""))
        if not _NAME.fullmatch(called):
            raise ConfigError(f"{called!r} can't be the name of a capability; use letters, digits, `_` and `-`.")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise ConfigError(f"{called} is a generator; a capability returns its whole result.")
        if timeout <= timedelta(0):
            raise ConfigError(f"{called} needs a timeout of more than nothing.")
        signature = signature_of(called, function)
        arguments = Arguments(called, signature)
        returned = signature.return_annotation
        result: TypeAdapter[object] = TypeAdapter(object if returned is inspect.Signature.empty else returned)
        described = untitled(result.json_schema(mode="serialization"))
        is_object = described.get("type") == "object"
        return cls(
            name=called,
            summary=summary or _first_line(function) or called.replace("_", " "),
            price=Price.read(price),
            function=function,
            method=method,
            path=path or f"/{called}",
            timeout=timeout,
            rerun=rerun,
            on_success=on_success,
            input_schema=arguments.schema,
            output_schema=described if is_object else _wrapped(described),
            _arguments=arguments,
            _result=result,
            _is_object=is_object,
        )

    def __post_init__(self) -> None:
        if {"{", "*"} & set(self.path):
            raise ConfigError(f"The path {self.path} of {self.name} has parameters; its arguments are in the body.")
        if self.method not in _WITH_BODY and (self.method not in _WITHOUT_BODY or self.input_schema["properties"]):
            raise ConfigError(f"{self.name} can't be called by {self.method}; use {', '.join(_WITH_BODY)}.")
        RouteTable([self.route])  # refuses a path that can't be matched

    @property
    def route(self) -> Route:
        """Its line of the price list."""
        return Route(
            method=self.method,
            path=self.path,
            price=self.price.amount,
            name=self.name,
            summary=self.summary,
            rerun=self.rerun,
            on_success=self.on_success,
        )

    def check(self, body: bytes) -> None:
        """Raises ArgumentsInvalid when it can't be called with this JSON object. Runs nothing."""
        self._arguments.check(read_json(body))

    async def call(self, body: bytes) -> bytes:
        """The same as calling it, with the arguments as the JSON object in a request body."""
        return await self(read_json(body))

    async def __call__(self, arguments: Mapping[str, Json]) -> bytes:
        """The result of one call, as the bytes of a JSON object.

        Raises ArgumentsInvalid before anything ran, UpstreamFailed (with `sent` true, for who knows how far it got)
        when it took too long, and whatever the function itself raises, or pydantic for a result of another type.
        """
        checked = self._arguments.check(arguments)
        limit = self.timeout.total_seconds()
        span = asyncio.timeout(limit)
        try:
            async with span:
                result = await self._run(checked)
        except TimeoutError:
            if not span.expired():
                raise
            raise UpstreamFailed(f"It took longer than {limit:g} s.", sent=True) from None
        return self._written(result)

    async def _run(self, arguments: Mapping[str, object]) -> object:
        call = functools.partial(self.function, **arguments)
        result = call() if inspect.iscoroutinefunction(self.function) else await asyncio.to_thread(call)
        return await result if inspect.isawaitable(result) else result

    def _written(self, result: object) -> bytes:
        written = self._result.dump_json(result, warnings="error", by_alias=True)
        return written if self._is_object else b'{"' + _RESULT.encode() + b'":' + written + b"}"


def _wrapped(schema: Mapping[str, Json]) -> Mapping[str, Json]:
    inner = dict(schema)
    definitions = inner.pop("$defs", None)
    wrapped: dict[str, Json] = {"type": "object", "properties": {_RESULT: inner}, "required": [_RESULT]}
    return wrapped if definitions is None else wrapped | {"$defs": definitions}


def _first_line(function: Callable[..., object]) -> str:
    text = inspect.getdoc(function) or ""
    return text.strip().partition("\n")[0].rstrip()
