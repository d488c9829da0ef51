"""Traces: a priced call as OpenTelemetry spans. Imported only when traces are wanted, for the extra `otel`.

    POST /api/dvm          server     the request as it came in, with the caller's own trace as its parent
    ├── admit                         what the gate decided: challenged, free, granted or replayed
    │   └── create_invoice client     the node is asked
    └── upstream           client     the seller's service is asked, with `traceparent` set to this span
        └── capture                   charged, and the answer kept, before the last of it is passed on

Rules
1. No attribute holds a proof, a hash, an invoice, a query, a client's address or an error's text; long runs of letters
   and digits are cut out of the path.
2. A caller's `traceparent` is believed, as W3C Trace Context says; what becomes of it is the sampler's to decide.
3. Nothing here changes an answer: a span that can't be made is not made.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from functools import wraps
from importlib.metadata import entry_points, version
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Final

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode

from farebox.core.errors import ConfigError, FareboxError
from farebox.gate.events import (
    AnswerReplayed,
    Began,
    CallChallenged,
    CallReleased,
    Ended,
    FreeCallAsked,
    HoldTaken,
    Step,
)
from farebox.telemetry.observers import Handlers

Scope = MutableMapping[str, Any]  # ASGI
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_OURS: Final = frozenset({"node-unavailable", "store-unavailable", "upstream-failed", "unexpected"})
_LOOKS_SECRET: Final = re.compile(r"[A-Za-z0-9_+=:.-]{32,}")
_EXPORTERS: Final = "opentelemetry_traces_exporter"
_OTLP: Final = "otlp"
_OTLP_BY_PROTOCOL: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

Open = tuple[Span, object]  # a span, and what takes it from the context again
_open: ContextVar[tuple[Open, ...]] = ContextVar("farebox_open_steps", default=())
_serving: ContextVar[Span | None] = ContextVar("farebox_serving", default=None)


def open_provider(exporters: str, *, protocol: str) -> TracerProvider:
    """A provider that exports to what is named, as OTEL_TRACES_EXPORTER would: `otlp`, `console`, several with commas.

    Everything else (sampler, resource, endpoint, batches) the SDK takes from the environment. protocol: of `otlp`.
    Raises ConfigError for an exporter that is not installed.
    """
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "farebox", SERVICE_VERSION: version("farebox")}))
    provider = TracerProvider(resource=resource)
    for name in filter(None, (each.strip() for each in exporters.split(","))):
        if name == "none":
            continue
        wanted = _OTLP_BY_PROTOCOL.get(protocol, protocol) if name == _OTLP else name
        found = tuple(entry_points(group=_EXPORTERS, name=wanted))
        if not found:
            raise ConfigError(f"OTEL_TRACES_EXPORTER: no exporter {wanted} is installed")
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    return provider


class Traces:
    """A watcher that makes spans of steps, with wrappers for what is in front of a gate and what is behind it."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer("farebox", version("farebox"))
        self.handlers: Final[Handlers] = {
            AnswerReplayed: lambda event: _note(event.resource, "replayed"),
            Began: self._begin,
            CallChallenged: lambda event: _note(event.resource, "challenged", event.amount.msat),
            CallReleased: _released,
            Ended: self._end,
            FreeCallAsked: lambda event: _note(event.resource, "free") if event.granted else None,
            HoldTaken: lambda event: _note(event.resource, "granted", event.amount.msat),
        }

    # --- the gate -----------------------------------------------------------------------------------------------------

    def _begin(self, began: Began) -> None:
        if began.resource:
            _name_serving(began.resource)
        asks_node = began.step in (Step.CREATE_INVOICE, Step.LOOKUP_INVOICE, Step.MOVE_INVOICE)
        span = self._tracer.start_span(began.step.value, kind=SpanKind.CLIENT if asks_node else SpanKind.INTERNAL)
        _open.set((*_open.get(), (span, context.attach(trace.set_span_in_context(span)))))

    def _end(self, ended: Ended) -> None:
        *outer, (span, token) = _open.get()
        _open.set(tuple(outer))
        if ended.error:
            _failed(span, ended.error, ours=ended.error in _OURS)
        span.end()
        context.detach(token)  # type: ignore[arg-type]  # what attach returned

    # --- in front of it -----------------------------------------------------------------------------------------------

    def served(self, app: App) -> App:
        """The same app; each HTTP request is a server span, under the trace that its caller told."""

        async def traced(scope: Scope, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            attributes, caller = _attributes_of(scope), _told_context(scope)
            name = str(attributes["http.request.method"])
            with self._tracer.start_as_current_span(
                name, caller, SpanKind.SERVER, attributes, record_exception=False, set_status_on_exception=False
            ) as span:
                kept = _serving.set(span)
                try:
                    await app(scope, receive, _watching(span, send, fails_from=500))
                except Exception as error:
                    _failed(span, _type_of(error))
                    raise
                finally:
                    _serving.reset(kept)

        return traced

    # --- behind it ----------------------------------------------------------------------------------------------------

    def upstream(self, app: App, *, host: str, port: int) -> App:
        """The same app, which asks a service; each call is a client span, and the service is told of it."""

        async def traced(scope: Scope, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            attributes: dict[str, str | int] = {"http.request.method": _method(scope)}
            attributes |= {"server.address": host, "server.port": port}
            with self._tracer.start_as_current_span(
                "upstream", None, SpanKind.CLIENT, attributes, record_exception=False, set_status_on_exception=False
            ) as span:
                try:
                    await app(_telling(scope), receive, _watching(span, send, fails_from=400))
                except Exception as error:
                    _failed(span, _type_of(error))
                    raise

        return traced

    def function(self, function: Callable[..., object], name: str) -> Callable[..., object]:
        """The same function, awaited or in a thread; each call is a span."""

        async def run_async(**arguments: object) -> object:
            with self._calling(name) as span:
                try:
                    result = function(**arguments)
                    return await result if isawaitable(result) else result
                except Exception as error:
                    _failed(span, _type_of(error))
                    raise

        def run(**arguments: object) -> object:
            with self._calling(name) as span:
                try:
                    return function(**arguments)
                except Exception as error:
                    _failed(span, _type_of(error))
                    raise

        return wraps(function)(run_async if iscoroutinefunction(function) else run)

    def _calling(self, name: str) -> Any:
        return self._tracer.start_as_current_span(
            "upstream",
            attributes={"code.function.name": name},
            record_exception=False,
            set_status_on_exception=False,
        )


# --- attributes -------------------------------------------------------------------------------------------------------


def _name_serving(resource: str) -> None:
    span = _serving.get()
    if span is not None and span.is_recording():
        span.update_name(resource)
        span.set_attribute("http.route", resource.rpartition(" ")[2])


def _note(resource: str, decision: str, amount_msat: int | None = None) -> None:
    _name_serving(resource)
    span = trace.get_current_span()
    span.set_attribute("farebox.decision", decision)
    if amount_msat is not None:
        span.set_attribute("farebox.amount_msat", amount_msat)


def _released(event: CallReleased) -> None:
    span = trace.get_current_span()
    if span.is_recording():  # it has ended when its caller went away
        span.add_event("released", {"farebox.owed_msat": event.owed.msat})


def _failed(span: Span, error: str, *, ours: bool = True) -> None:
    span.set_attribute("error.type", error)
    if ours:
        span.set_status(StatusCode.ERROR)


def _type_of(error: BaseException) -> str:
    return error.type if isinstance(error, FareboxError) else type(error).__name__


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "_OTHER"


def _attributes_of(scope: Scope) -> dict[str, str | int]:
    """HTTP server attributes (OpenTelemetry semantic conventions for HTTP, server spans)."""
    attributes: dict[str, str | int] = {
        "http.request.method": _method(scope),
        "url.scheme": scope.get("scheme", "http"),
        "url.path": _LOOKS_SECRET.sub("…", scope["path"]),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    server = scope.get("server")
    if server:
        attributes["server.address"] = server[0]
        if server[1] is not None:
            attributes["server.port"] = server[1]
    return attributes


def _watching(span: Span, send: Send, *, fails_from: int) -> Send:
    async def watched_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            status = message["status"]
            span.set_attribute("http.response.status_code", status)
            if status >= fails_from:
                _failed(span, str(status))
        await send(message)

    return watched_send


# --- W3C Trace Context ------------------------------------------------------------------------------------------------


def _told_context(scope: Scope) -> Context:
    fields = propagate.get_global_textmap().fields
    told: Mapping[str, str] = {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in scope["headers"]
        if name.decode("latin-1").lower() in fields
    }
    return propagate.extract(told)


def _telling(scope: Scope) -> Scope:
    fields = propagate.get_global_textmap().fields
    told: dict[str, str] = {}
    propagate.inject(told)
    headers = [(name, value) for name, value in scope["headers"] if name.decode("latin-1").lower() not in fields]
    headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in told.items()]
    return {**scope, "headers": headers}
