"""The proxy, against a server of scripted bytes behind it and, where it matters, a real ASGI server in front of it."""

import asyncio
import functools
import gzip
import inspect
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, MalformedRequest, MethodUnknown, UpstreamFailed
from farebox.core.secret import Secret
from farebox.http.proxy import Proxy
from farebox.http.sale import SALE, Sale

pytestmark = pytest.mark.system

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PATIENCE = 5


def on_both_loops(story: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs a story on asyncio's own event loop and on uvloop's."""

    async def within_patience(**given: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            await story(**given)

    @pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def test(loop: Callable[[], asyncio.AbstractEventLoop], **given: Any) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(within_patience(**given))

    signature = inspect.signature(story)
    named = [inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)]
    named += [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in signature.parameters.values()]
    functools.update_wrapper(test, story)
    test.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined] # what pytest asks
    return test


# --- what is behind the proxy -----------------------------------------------------------------------------------------


class Service:
    """A loopback server that gives every request the same bytes, and remembers what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.more = asyncio.Event()
        self.gone = asyncio.Event()  # a connection is over
        self.url = ""
        self.authority = b""

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self.exchange(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the proxy has closed it
        finally:
            writer.transport.abort()
            self.gone.set()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        fields = self.fields
        body = b""
        if b"transfer-encoding" in fields:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        self.bodies.append(body)
        await self.say(writer)

    async def say(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self.answer)
        await writer.drain()

    @property
    def line(self) -> bytes:
        return self.heads[-1].split(b"\r\n")[0]

    @property
    def fields(self) -> dict[bytes, bytes]:
        pairs = [line.split(b": ", 1) for line in self.heads[-1].split(b"\r\n")[1:-2]]
        assert len(pairs) == len({name for name, _ in pairs})
        return dict(map(tuple, pairs))


class TwoParts(Service):
    """Says the second half of a stream only when told to."""

    async def say(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"b\r\ndata: one\n\n\r\n")
        await self.more.wait()
        writer.write(b"b\r\ndata: two\n\n\r\n0\r\n\r\n")


class Cut(Service):
    """Breaks its answer off."""

    async def say(self, writer: asyncio.StreamWriter) -> None:
        await super().say(writer)
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def proxying(service: Service, base_path: str = "", **options: Any) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(service.play, "127.0.0.1", 0)
    service.url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
    service.authority = service.url.removeprefix("http://").encode()
    proxy = Proxy(service.url + base_path, **options)
    try:
        yield proxy
    finally:
        await proxy.aclose()
        server.close()
        await server.wait_closed()


# --- what is in front of it -------------------------------------------------------------------------------------------


class Call:
    """One call of an ASGI application, and what it sent."""

    def __init__(self, *received: dict[str, Any], **scope: Any) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [(b"host", b"shop.example")],
            "client": ("192.0.2.7", 1234),
            **scope,
        }
        self.received = list(received)
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        return self.received.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def of(self, app: Any) -> "Call":
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        return list(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        assert [True] * (len(self.sent) - 2) + [False] == [message["more_body"] for message in self.sent[1:]]
        return b"".join(message["body"] for message in self.sent[1:])


def with_body(*chunks: bytes) -> list[dict[str, Any]]:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False
    return messages


def fields(*more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"shop.example"), *more]


@asynccontextmanager
async def fronted(app: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a uvicorn that serves the app."""
    config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, server_header=False)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),  # type: ignore[call-arg]
        "127.0.0.1",
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()
        server.close()
        await asyncio.gather(*state.tasks)


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


# --- requests ---------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_path_and_query_go_upstream_as_they_came_behind_the_base_path() -> None:
    service = Service(OK)
    async with proxying(service, "/base/") as proxy:
        await Call(path="/a/b c", raw_path=b"/a%2fb%20c", query_string=b"q=%20&r").of(proxy)
        assert b"GET /base/a%2fb%20c?q=%20&r HTTP/1.1" == service.line
        await Call(raw_path=b"//elsewhere.example/x").of(proxy)
        assert b"GET /base//elsewhere.example/x HTTP/1.1" == service.line
        assert service.authority == service.fields[b"host"]


@pytest.mark.parametrize("target", [b"http://elsewhere.example/x", b"elsewhere.example:443", b"*", b"?x"])
@on_both_loops
async def test_a_target_that_is_not_a_path_goes_nowhere(target: bytes) -> None:
    service = Service(OK)
    async with proxying(service) as proxy:
        with pytest.raises(MalformedRequest):
            await Call(raw_path=target).of(proxy)
        assert [] == service.heads


@on_both_loops
async def test_an_absolute_form_target_does_not_change_the_destination() -> None:
    service = Service(OK)
    async with proxying(service) as proxy, fronted(proxy) as (reader, writer):
        writer.write(b"GET http://elsewhere.example/x?y HTTP/1.1\r\nhost: elsewhere.example\r\n\r\n")
        assert b"HTTP/1.1 200 OK" == (await head_of(reader)).split(b"\r\n")[0]
        assert b"GET /x?y HTTP/1.1" == service.line
        assert service.authority == service.fields[b"host"]


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
@on_both_loops
async def test_tunnels_and_echoes_are_not_forwarded(method: str) -> None:
    service = Service(OK)
    async with proxying(service) as proxy:
        with pytest.raises(MethodUnknown):
            await Call(method=method).of(proxy)
        assert [] == service.heads


@on_both_loops
async def test_fields_of_one_hop_stay_on_it() -> None:
    service = Service(OK)
    hop = [
        (b"connection", b"close, X-Gone"),
        (b"connection", b"x-also-gone"),
        (b"x-gone", b"1"),
        (b"x-also-gone", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"te", b"trailers"),
        (b"trailer", b"x"),
        (b"upgrade", b"h2c"),
        (b"http2-settings", b"AAA"),
        (b"proxy-authorization", b"Basic eDp5"),
        (b"proxy-connection", b"keep-alive"),
        (b"expect", b"100-continue"),
    ]
    async with proxying(service) as proxy:
        await Call(headers=fields(*hop, (b"accept", b"a/b"), (b"x-kept", b"1"))).of(proxy)
    assert {b"accept", b"x-kept", b"host"} | FORWARDED == set(service.fields)


FORWARDED = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}


@on_both_loops
async def test_a_connection_field_cannot_take_out_what_we_say() -> None:
    service = Service(OK)
    named = b"host, x-forwarded-for, x-forwarded-proto, x-forwarded-host, authorization"
    async with proxying(service, headers={"Authorization": "Bearer ours"}) as proxy:
        await Call(headers=fields((b"connection", named), (b"authorization", b"Bearer theirs"))).of(proxy)
    assert {b"host", b"authorization"} | FORWARDED == set(service.fields)
    assert b"Bearer ours" == service.fields[b"authorization"]


@on_both_loops
async def test_what_a_client_says_about_itself_is_replaced_by_what_we_know() -> None:
    service = Service(OK)
    said = [
        (b"forwarded", b"for=1.2.3.4"),
        (b"x-real-ip", b"1.2.3.4"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-forwarded-proto", b"gopher"),
        (b"x-forwarded-host", b"elsewhere"),
        (b"x-forwarded-port", b"1"),
        (b"x-forwarded-user", b"root"),
        *((name, b"1.2.3.4") for name in (b"cf-connecting-ip", b"true-client-ip", b"x-client-ip")),
        *((name, b"1.2.3.4") for name in (b"x-cluster-client-ip", b"fastly-client-ip", b"x-originating-ip")),
    ]
    async with proxying(service) as proxy:
        await Call(headers=fields(*said)).of(proxy)
        told = {name: service.fields[name] for name in FORWARDED}
        assert {b"host"} | FORWARDED == set(service.fields)
        assert [b"192.0.2.7", b"shop.example", b"https"] == [told[name] for name in sorted(told)]
        await Call(client=None).of(proxy)
        assert b"x-forwarded-for" not in service.fields


@pytest.mark.parametrize(
    "name",
    [
        *(b"x_payment_hash", b"content_length"),
        *(b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"),
        *(b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url"),
        *(b"x-payment-hash", b"x-payment-token", b"x-payment-anything", b"x_forwarded_for", b"idempotency_key"),
    ],
)
@on_both_loops
async def test_a_field_that_would_make_it_another_request_does_not_go_upstream(name: bytes) -> None:
    service = Service(OK)
    async with proxying(service) as proxy:
        for _ in range(2):  # judged, and remembered
            await Call(headers=fields((name, b"x"))).of(proxy)
            assert {b"host"} | FORWARDED == set(service.fields)


SOLD = {SALE: Sale(price=Amount.sats(21), resource="/x", payment_hash="ab" * 32)}
FREE = {SALE: Sale(price=Amount(0), resource="/x", payment_hash=None)}
MINE = (b"idempotency-key", b"mine")


@pytest.mark.parametrize(
    ("scope", "sent", "key"),
    [
        ({}, [MINE], b"mine"),
        (FREE, [MINE], b"mine"),
        (SOLD, [], b"ab" * 32),
        (SOLD, [MINE], b"ab" * 32),
        (SOLD, [MINE, (b"Idempotency-Key", b"mine too")], b"ab" * 32),
        (SOLD, [MINE, (b"connection", b"idempotency-key")], b"ab" * 32),
    ],
)
@on_both_loops
async def test_a_paid_call_goes_with_the_payment_as_its_idempotency_key(
    scope: dict[str, Any], sent: list[tuple[bytes, bytes]], key: bytes
) -> None:
    service = Service(OK)
    async with proxying(service) as proxy:
        await Call(headers=fields(*[(name.lower(), value) for name, value in sent]), **scope).of(proxy)
    assert key == service.fields[b"idempotency-key"]


@on_both_loops
async def test_an_idempotency_key_that_is_configured_replaces_every_other() -> None:
    service = Service(OK)
    async with proxying(service, headers={"Idempotency-Key": "ours"}) as proxy:
        await Call(headers=fields(MINE), **SOLD).of(proxy)
    assert b"ours" == service.fields[b"idempotency-key"]


@on_both_loops
async def test_the_upstream_can_be_told_the_host_that_the_client_asked_for() -> None:
    service = Service(OK)
    async with proxying(service, preserve_host=True) as proxy:
        await Call().of(proxy)
        assert b"shop.example" == service.fields[b"host"]
        await Call(headers=[]).of(proxy)
        assert service.authority == service.fields[b"host"]


@on_both_loops
async def test_configured_fields_replace_the_clients() -> None:
    service = Service(OK)
    async with proxying(
        service, headers={"Authorization": Secret("Bearer ours"), "X-Forwarded-Proto": "http"}
    ) as proxy:
        await Call(headers=fields((b"authorization", b"Bearer theirs"), (b"x-other", b"1"))).of(proxy)
    assert b"Bearer ours" == service.fields[b"authorization"]
    assert b"http" == service.fields[b"x-forwarded-proto"]
    assert b"1" == service.fields[b"x-other"]


@on_both_loops
async def test_a_body_in_one_piece_goes_with_its_own_length() -> None:
    service = Service(OK)
    async with proxying(service) as proxy:
        await Call(*with_body(b"abc"), method="POST", headers=fields((b"content-length", b"7"))).of(proxy)
        assert b"3" == service.fields[b"content-length"]
        await Call(*with_body(b"abcd"), method="POST", headers=fields((b"transfer-encoding", b"chunked"))).of(proxy)
        assert b"4" == service.fields[b"content-length"]
        await Call(*with_body(b"abcde"), method="POST", headers=fields(), http_version="2").of(proxy)
        assert [b"abc", b"abcd", b"abcde"] == service.bodies


@on_both_loops
async def test_a_body_in_many_pieces_keeps_the_length_it_was_announced_with() -> None:
    service = Service(OK)
    async with proxying(service) as proxy:
        await Call(*with_body(b"a", b"bc", b""), method="PUT", headers=fields((b"content-length", b"3"))).of(proxy)
        assert b"3" == service.fields[b"content-length"]
        await Call(*with_body(b"a", b"bc"), method="PUT", headers=fields((b"transfer-encoding", b"chunked"))).of(proxy)
        assert b"chunked" == service.fields[b"transfer-encoding"]
        assert [b"abc", b"abc"] == service.bodies


@on_both_loops
async def test_a_client_that_leaves_within_its_request_ends_it() -> None:
    service = Service(OK)
    async with proxying(service) as proxy:
        messages = [*with_body(b"a", b"b")[:1], {"type": "http.disconnect"}]
        for received in (messages, messages[1:]):
            with pytest.raises(MalformedRequest):
                await Call(*received, method="PUT", headers=fields((b"content-length", b"3"))).of(proxy)
        assert [] == service.bodies


@on_both_loops
async def test_a_length_that_is_no_number_is_refused() -> None:
    service = Service(OK)
    async with proxying(service) as proxy:
        with pytest.raises(MalformedRequest):
            await Call(method="PUT", headers=fields((b"content-length", b"-1"))).of(proxy)


@on_both_loops
async def test_a_client_that_waits_for_100_continue_gets_it_from_us() -> None:
    service = Service(OK)
    async with proxying(service) as proxy, fronted(proxy) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await head_of(reader)
        writer.write(b"abc")
        assert b"HTTP/1.1 200 OK" == (await head_of(reader)).split(b"\r\n")[0]
        assert [b"abc"] == service.bodies


# --- answers ----------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_an_answer_is_passed_on_with_its_status_fields_and_body() -> None:
    service = Service(b"HTTP/1.1 418 Teapot\r\nX-A: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\ncontent-length: 2\r\n\r\nno")
    async with proxying(service) as proxy:
        call = await Call().of(proxy)
    assert 418 == call.status
    assert ["http.response.start", "http.response.body"] == [message["type"] for message in call.sent]
    assert [(b"x-a", b"1"), (b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"content-length", b"2")] == call.fields
    assert b"no" == call.body


@on_both_loops
async def test_fields_of_the_upstreams_hop_and_its_clock_stay_there() -> None:
    hop = b"Connection: keep-alive, X-Gone\r\nX-Gone: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n"
    hop += b"Date: now\r\n"
    hop += b"Upgrade: h2c\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\nX-Kept: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    async with proxying(Service(b"HTTP/1.1 200 OK\r\n" + hop)) as proxy:
        call = await Call().of(proxy)
    assert [(b"x-kept", b"1")] == call.fields
    assert b"ok" == call.body


@on_both_loops
async def test_an_event_is_passed_on_before_the_next_one_exists() -> None:
    service = TwoParts(b"")
    async with proxying(service) as proxy, fronted(proxy) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"content-type: text/event-stream" in await head_of(reader)
        assert b"b\r\ndata: one\n\n\r\n" == await reader.readexactly(16)
        service.more.set()
        assert b"b\r\ndata: two\n\n\r\n0\r\n\r\n" == await reader.readexactly(21)


@on_both_loops
async def test_a_compressed_answer_is_passed_on_untouched() -> None:
    packed = gzip.compress(b"text " * 1000)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
    service = Service(head + packed)
    async with proxying(service) as proxy:
        call = await Call(headers=fields((b"accept-encoding", b"gzip"))).of(proxy)
    assert b"gzip" == service.fields[b"accept-encoding"]
    assert (b"content-encoding", b"gzip") in call.fields
    assert packed == call.body


@on_both_loops
async def test_a_head_answer_keeps_its_length_and_has_no_body() -> None:
    service = Service(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    async with proxying(service) as proxy, fronted(proxy) as (reader, writer):
        for _ in range(2):
            writer.write(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"content-length: 1000\r\n" in await head_of(reader)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@on_both_loops
async def test_an_answer_without_body_has_no_length(status: bytes) -> None:
    service = Service(b"HTTP/1.1 " + status + b"\r\ncontent-length: 5\r\nx: y\r\n\r\n")
    async with proxying(service) as proxy, fronted(proxy) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await head_of(reader)
        assert b"HTTP/1.1 " + status == head.split(b"\r\n")[0]
        assert b"content-length" not in head


@on_both_loops
async def test_a_client_that_goes_away_in_the_middle_of_an_answer_takes_the_upstream_with_it() -> None:
    for before in ([], [{"type": "http.request", "body": b""}]):
        service = TwoParts(b"")
        async with proxying(service) as proxy:
            call = await Call(*before, {"type": "http.disconnect"}).of(proxy)
            service.more.set()  # and finds nobody there any more
            await service.gone.wait()
        assert ([b"data: one\n\n"], True) == ([m["body"] for m in call.sent[1:]], call.sent[-1]["more_body"])


@on_both_loops
async def test_a_server_that_can_not_tell_whether_its_client_is_there_hears_the_whole_answer() -> None:
    request, hears = {"type": "http.request", "body": b""}, asyncio.Event()

    class Deaf(Call):
        async def receive(self) -> Any:
            if not self.received:
                hears.set()
                raise RuntimeError("nothing more is told")
            return await super().receive()

    service = TwoParts(b"")
    async with proxying(service) as proxy:
        running = asyncio.create_task((call := Deaf(request)).of(proxy))
        await hears.wait()
        service.more.set()
        await running
    assert b"data: one\n\ndata: two\n\n" == call.body


# --- failures ---------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_an_upstream_that_is_not_there_fails_before_anything_is_sent() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = Proxy("http://{}:{}".format(*taken.getsockname()))
        call = Call()
        with pytest.raises(UpstreamFailed) as caught:
            await call.of(proxy)
        assert {"reason": "refused", "sent": False} == caught.value.evidence
        assert [] == call.sent


@on_both_loops
async def test_an_upstream_that_talks_garbage_fails_before_anything_is_sent() -> None:
    async with proxying(Service(b"220 smtp.example ESMTP\r\n")) as proxy:
        call = Call()
        with pytest.raises(UpstreamFailed) as caught:
            await call.of(proxy)
        assert {"reason": "malformed", "sent": True} == caught.value.evidence
        assert [] == call.sent


@on_both_loops
async def test_an_answer_that_breaks_off_fails_after_its_part() -> None:
    async with proxying(Cut(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart")) as proxy:
        call = Call()
        with pytest.raises(UpstreamFailed):
            await call.of(proxy)
        assert [200, b"part", True] == [call.status, call.sent[1]["body"], call.sent[-1]["more_body"]]


@on_both_loops
async def test_a_silent_upstream_fails_at_the_idle_timeout() -> None:
    async with proxying(Service(b""), idle_timeout=timedelta(milliseconds=60)) as proxy:
        with pytest.raises(UpstreamFailed) as caught:
            await Call().of(proxy)
        assert {"reason": "idle-timeout", "sent": True} == caught.value.evidence


@on_both_loops
async def test_a_send_that_fails_ends_the_exchange() -> None:
    class Broken(Call):
        async def send(self, message: Any) -> None:
            raise OSError("the client is gone")

    service = Service(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart")
    async with proxying(service) as proxy:
        with pytest.raises(OSError, match="gone"):
            await Broken().of(proxy)
        await service.gone.wait()


# --- other scopes, and the configuration ------------------------------------------------------------------------------


@on_both_loops
async def test_a_websocket_is_refused() -> None:
    call = await Call({"type": "websocket.connect"}, type="websocket").of(Proxy("http://127.0.0.1:9"))
    assert [("websocket.close", 1003)] == [(message["type"], message["code"]) for message in call.sent]


@on_both_loops
async def test_the_end_of_the_application_closes_the_connections() -> None:
    service = Service(OK)
    async with proxying(service) as proxy:
        await Call().of(proxy)
        call = Call({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}, type="lifespan")
        await call.of(proxy)
        assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == [sent["type"] for sent in call.sent]
        with pytest.raises(UpstreamFailed):
            await Call().of(proxy)


def test_a_scope_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(ValueError, match="gopher"):
        asyncio.run(Call(type="gopher").of(Proxy("http://127.0.0.1:9")))


@pytest.mark.parametrize(
    ("name", "value"),
    [("X Y", "z"), ("X", "a\r\nb: c"), ("X", "é"), ("Host", "x"), ("Connection", "close"), ("Content-Length", "1")],
)
def test_a_field_that_cannot_be_set_is_refused_without_telling_its_value(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Proxy("http://127.0.0.1:9", headers={name: value})
    assert [repr(name), name].count(str(caught.value.evidence["header"])) == 1
    assert value not in str(caught.value.evidence["header"]) or value in name.lower()
