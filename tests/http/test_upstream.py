"""The upstream client against real sockets: a small server plays a script of bytes for each connection."""

import asyncio
import functools
import inspect
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import uvloop

from farebox.core.errors import ConfigError, MalformedRequest, UpstreamFailed
from farebox.http import upstream as module
from farebox.http.connection import Connection
from farebox.http.upstream import Upstream

pytestmark = pytest.mark.system

HOST = [(b"host", b"service")]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SHORT = timedelta(milliseconds=60)
PATIENCE = 5

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


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


class Service:
    """A loopback server that plays its scripts, one per connection; the last one for every further connection."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.connections = 0
        self.requests: list[bytes] = []
        self.gone = asyncio.Event()  # a connection is over
        self.url = ""

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        try:
            await script(Recorded(self, reader), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed it
        finally:
            writer.transport.abort()
            self.gone.set()


class Recorded(asyncio.StreamReader):
    """A reader that remembers the heads of requests."""

    def __init__(self, service: Service, reader: asyncio.StreamReader) -> None:
        self.service = service
        self.reader = reader

    async def head(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.service.requests.append(head)
        return head

    async def readexactly(self, count: int) -> bytes:
        return await self.reader.readexactly(count)

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        return await self.reader.readuntil(separator)

    async def read(self, count: int = -1) -> bytes:
        return await self.reader.read(count)


@asynccontextmanager
async def serving(*scripts: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Service]:
    service = Service(*scripts)
    server = await asyncio.start_server(service.play, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    service.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield service
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def asking(*scripts: Script, **options: Any) -> AsyncIterator[tuple[Upstream, Service]]:
    async with serving(*scripts) as service:
        upstream = Upstream(service.url, **options)
        try:
            yield upstream, service
        finally:
            await upstream.aclose()


def always(answer: bytes, then_close: bool = False) -> Script:
    """Gives every request of a connection the same answer."""

    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.head()
            writer.write(answer)
            await writer.drain()
            if then_close:
                writer.close()
                await writer.wait_closed()
                return

    return script


async def silent(reader: Any, writer: asyncio.StreamWriter) -> None:
    """Listens and says nothing."""
    while await reader.read(65536):
        pass


async def whole(upstream: Upstream, method: str = "GET", **options: Any) -> tuple[int, bytes]:
    reply = await upstream.send(method, b"/", HOST, **options)
    return reply.status, await rest(reply)


async def rest(reply: Any) -> bytes:
    body = b""
    while not reply.ended or reply.size:
        body += await reply.read()
    return body


# --- answers ----------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_one_connection_serves_many_requests() -> None:
    async with asking(always(OK)) as (upstream, service):
        for _ in range(3):
            assert (200, b"ok") == await whole(upstream)
        assert 1 == service.connections


@on_both_loops
async def test_the_answer_comes_with_its_status_and_lower_case_fields() -> None:
    async with asking(always(b"HTTP/1.1 404 Nope\r\nX-One: 1\r\nx-one: 2\r\nContent-Length: 0\r\n\r\n")) as (
        upstream,
        _,
    ):
        reply = await upstream.send("GET", b"/", HOST)
        assert 404 == reply.status
        assert [(b"x-one", b"1"), (b"x-one", b"2"), (b"content-length", b"0")] == reply.fields
        assert b"" == await reply.read()
        assert reply.ended


@on_both_loops
async def test_a_chunked_answer_is_read_without_its_framing_and_trailers() -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nx-trailer: 1\r\n\r\n"
    )
    async with asking(always(chunked)) as (upstream, service):
        reply = await upstream.send("GET", b"/", HOST)
        assert b"hello!" == await rest(reply)
        assert [(b"transfer-encoding", b"chunked")] == reply.fields
        assert (200, b"hello!") == await whole(upstream)
        assert 1 == service.connections


@on_both_loops
async def test_a_chunk_is_given_before_the_next_one_exists() -> None:
    heard = asyncio.Event()

    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        await reader.head()
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await heard.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await reader.readexactly(1)

    async with asking(script) as (upstream, _):
        reply = await upstream.send("GET", b"/", HOST)
        assert b"one" == await reply.read()
        heard.set()
        assert b"two" == await rest(reply)


@on_both_loops
async def test_an_answer_without_length_ends_when_the_connection_does() -> None:
    async with asking(always(b"HTTP/1.1 200 OK\r\n\r\nall of it", then_close=True)) as (upstream, service):
        assert (200, b"all of it") == await whole(upstream)
        assert (200, b"all of it") == await whole(upstream)
        assert 2 == service.connections


@on_both_loops
async def test_a_head_answer_ends_with_its_header_and_keeps_the_connection() -> None:
    answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", OK]

    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.head()
            writer.write(answer)
        await reader.readexactly(1)

    async with asking(script) as (upstream, service):
        assert (200, b"") == await whole(upstream, "HEAD")
        assert (200, b"") == await whole(upstream, "HEAD")
        assert (200, b"ok") == await whole(upstream)
        assert 1 == service.connections


@on_both_loops
async def test_a_head_answer_with_a_body_costs_the_connection() -> None:
    async with asking(always(OK)) as (upstream, service):
        assert (200, b"") == await whole(upstream, "HEAD")
        assert (200, b"ok") == await whole(upstream)
        assert 2 == service.connections


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@on_both_loops
async def test_an_answer_that_has_no_body_ends_with_its_header(status: bytes) -> None:
    async with asking(always(b"HTTP/1.1 " + status + b"\r\nx: y\r\n\r\n")) as (upstream, service):
        for _ in range(2):
            assert (int(status[:3]), b"") == await whole(upstream)
        assert 1 == service.connections


@on_both_loops
async def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    async with asking(always(interim + OK)) as (upstream, _):
        reply = await upstream.send("GET", b"/", HOST)
        assert 200 == reply.status
        assert [(b"content-length", b"2")] == reply.fields
        assert b"ok" == await rest(reply)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", OK.replace(b"1.1", b"1.0")]
)
@on_both_loops
async def test_a_connection_that_is_not_kept_alive_is_not_used_again(answer: bytes) -> None:
    async with asking(always(answer)) as (upstream, service):
        for _ in range(2):
            assert (200, b"ok") == await whole(upstream)
        assert 2 == service.connections


@pytest.mark.parametrize(
    "second",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 2", b"\0"],
)
@on_both_loops
async def test_a_second_answer_is_not_taken_for_the_next_requests_answer(second: bytes) -> None:
    async with asking(always(OK + second)) as (upstream, service):
        for _ in range(2):
            assert (200, b"ok") == await whole(upstream)
        assert 2 == service.connections


@on_both_loops
async def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    asked = asyncio.Event()

    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        await reader.head()
        writer.write(OK)
        await asked.wait()
        writer.write(OK)
        await reader.readexactly(1)

    async with asking(script, always(OK)) as (upstream, service):
        assert (200, b"ok") == await whole(upstream)
        asked.set()
        await service.gone.wait()
        assert (200, b"ok") == await whole(upstream)
        assert 2 == service.connections


@on_both_loops
async def test_a_slow_reader_slows_the_service_down() -> None:
    total, block = 64 * 1024 * 1024, bytes(64 * 1024)
    ahead, written, taken = 0, 0, 0

    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.head()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while written < total:
            writer.write(block)
            written += len(block)
            await writer.drain()
        await reader.readexactly(1)

    async with asking(script) as (upstream, _):
        reply = await upstream.send("GET", b"/", HOST)
        while not reply.ended or reply.size:
            for _ in range(20):  # give the service every chance to run ahead
                await asyncio.sleep(0)
            ahead = max(ahead, written - taken)
            taken += len(await reply.read())
        assert total == taken
        assert ahead < total / 2  # what the sockets of the system hold, and our own quarter of a megabyte


# --- requests ---------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_a_request_is_written_as_given() -> None:
    async with asking(always(OK)) as (upstream, service):
        await rest(await upstream.send("GET", b"/a%2fb?c=%20d", [*HOST, (b"x-y", b"z")]))
        assert [b"GET /a%2fb?c=%20d HTTP/1.1\r\nhost: service\r\nx-y: z\r\n\r\n"] == service.requests


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@on_both_loops
async def test_a_body_in_hand_goes_with_its_length() -> None:
    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        await reader.head()
        assert b"x" * 100_000 == await reader.readexactly(100_000)
        writer.write(OK)
        await reader.head()
        writer.write(OK)
        await reader.readexactly(1)

    async with asking(script) as (upstream, service):
        assert (200, b"ok") == await whole(upstream, "POST", body=b"x" * 100_000)
        assert (200, b"ok") == await whole(upstream, "POST")
        assert [True, True] == [
            head.endswith(b"\r\ncontent-length: %d\r\n\r\n" % length)
            for head, length in zip(service.requests, (100_000, 0), strict=True)
        ]


@on_both_loops
async def test_a_stream_of_unknown_length_goes_in_chunks() -> None:
    wire = b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"

    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        assert b"transfer-encoding: chunked" in await reader.head()
        assert wire == await reader.readexactly(len(wire))
        writer.write(OK)
        await reader.head()
        writer.write(OK)
        await reader.readexactly(1)

    async with asking(script) as (upstream, service):
        assert (200, b"ok") == await whole(upstream, "POST", body=pieces(b"ab", b"", b"c"))
        assert (200, b"ok") == await whole(upstream)
        assert 1 == service.connections


@on_both_loops
async def test_a_stream_of_known_length_goes_plain() -> None:
    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        assert b"content-length: 3" in await reader.head()
        assert b"abc" == await reader.readexactly(3)
        writer.write(OK)
        await reader.readexactly(1)

    async with asking(script) as (upstream, _):
        assert (200, b"ok") == await whole(upstream, "POST", body=pieces(b"ab", b"c"), length=3)


@pytest.mark.parametrize("length", [2, 4])
@on_both_loops
async def test_a_stream_of_another_length_is_refused_and_nothing_beyond_it_sent(length: int) -> None:
    received = b""

    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.head()
        while chunk := await reader.read(100):
            received += chunk

    async with asking(script) as (upstream, service):
        with pytest.raises(MalformedRequest):
            await whole(upstream, "POST", body=pieces(b"ab", b"c"), length=length)
        await service.gone.wait()
        assert len(received) <= length


@on_both_loops
async def test_what_a_body_raises_comes_out() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"part"
        raise LookupError("the source dried up")

    async with asking(silent) as (upstream, _):
        with pytest.raises(LookupError):
            await whole(upstream, "POST", body=broken())


@on_both_loops
async def test_an_answer_that_does_not_wait_for_the_body_stops_the_upload() -> None:
    stopped = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"part"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with asking(always(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno"), always(OK)) as (upstream, service):
        assert (413, b"no") == await whole(upstream, "POST", body=endless())
        await stopped.wait()
        assert (200, b"ok") == await whole(upstream)
        assert 2 == service.connections


@on_both_loops
async def test_a_slow_service_slows_the_upload_down() -> None:
    total, block = 64 * 1024 * 1024, bytes(64 * 1024)
    ahead, given, taken = 0, 0, 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal ahead, given
        while given < total:
            given += len(block)
            ahead = max(ahead, given - taken)
            yield block

    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.head()
        while taken < total:
            taken += len(await reader.read(1024 * 1024))
            for _ in range(20):
                await asyncio.sleep(0)
        writer.write(OK)
        await reader.readexactly(1)

    async with asking(script) as (upstream, _):
        assert (200, b"ok") == await whole(upstream, "PUT", body=body(), length=total)
        assert total == taken
        assert ahead < total / 2


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        (b"/a\r\nx: y", HOST),
        (b"/a b", HOST),
        (b"/", [(b"x", b"y\r\nz: 1")]),
        (b"/", [(b"x", b"y\nz: 1")]),
        (b"/", [(b"x\r", b"y")]),
        (b"/", [(b"x", b"y\0")]),
    ],
)
@on_both_loops
async def test_a_request_that_would_be_read_as_more_than_one_is_not_sent(
    target: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    async with asking(always(OK)) as (upstream, service):
        with pytest.raises(MalformedRequest):
            await upstream.send("GET", target, fields)
        assert 0 == service.connections


# --- failures ---------------------------------------------------------------------------------------------------------


async def failure(upstream: Upstream, method: str = "GET", **options: Any) -> tuple[object, object]:
    with pytest.raises(UpstreamFailed) as caught:
        await whole(upstream, method, **options)
    return caught.value.evidence["reason"], caught.value.evidence["sent"]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nx: y\r\n  folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n",
        b"HTTP/1.1 999 What\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 099 What\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 500_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " + b"y" * 500_000,
    ],
    ids=lambda answer: repr(answer[:44]),
)
@on_both_loops
async def test_a_service_that_does_not_speak_http_has_failed(answer: bytes) -> None:
    async with asking(always(answer)) as (upstream, _):
        assert ("malformed", True) == await failure(upstream)


@on_both_loops
async def test_a_connection_that_was_just_made_is_not_taken_for_one_long_unused() -> None:
    with pytest.MonkeyPatch.context() as patched:
        made = Connection.connection_made

        def looked_at(self: Connection, transport: asyncio.BaseTransport) -> None:
            made(self, transport)
            self._pool._look()  # type: ignore[attr-defined] # before the request that it was made for gets its turn

        patched.setattr(Connection, "connection_made", looked_at)
        async with asking(always(OK)) as (upstream, _):
            assert 200 == (await upstream.send("POST", b"/", HOST)).status


@on_both_loops
async def test_a_service_that_closes_at_once_certainly_did_not_run() -> None:
    async def closes(reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.close()

    connect = module._Pool._connect

    async def slowly(pool: module._Pool) -> Connection:
        connection = await connect(pool)
        while not connection.transport.is_closing():
            await asyncio.sleep(0)
        return connection

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module._Pool, "_connect", slowly)
        async with asking(closes, most_connections=1) as (upstream, _):
            for _ in range(2):  # the first gives its place back
                with pytest.raises(UpstreamFailed) as failed:
                    await upstream.send("POST", b"/", HOST)
                assert (False, "closed") == (failed.value.evidence["sent"], failed.value.evidence["reason"])


@on_both_loops
async def test_a_service_that_closes_before_it_answers_has_failed() -> None:
    async with asking(always(b"", then_close=True)) as (upstream, service):
        assert ("closed", True) == await failure(upstream)
        assert 1 == service.connections  # not on a pooled connection, so not asked again


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
    ],
)
@on_both_loops
async def test_an_answer_that_breaks_off_fails_after_its_part_was_read(answer: bytes) -> None:
    async with asking(always(answer, then_close=True)) as (upstream, _):
        reply = await upstream.send("GET", b"/", HOST)
        assert b"part" == await reply.read()
        with pytest.raises(UpstreamFailed) as caught:
            await reply.read()
        assert {"reason": "closed", "sent": True} == caught.value.evidence
        assert not reply.ended


@on_both_loops
async def test_a_service_that_is_not_there_certainly_did_not_run() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        upstream = Upstream(f"http://127.0.0.1:{taken.getsockname()[1]}", most_connections=1)
        for _ in range(3):  # and takes no place in the pool
            assert ("refused", False) == await failure(upstream, "POST")
        await upstream.aclose()


def test_a_name_that_is_not_known_certainly_did_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert ("name", False) == asyncio.run(failure(Upstream("http://nowhere.example"), "POST"))


@on_both_loops
async def test_a_service_that_does_not_speak_tls_certainly_did_not_run() -> None:
    async def plain(reader: Any, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with serving(plain) as service:
        upstream = Upstream(service.url.replace("http:", "https:"))
        reason, sent = await failure(upstream, "POST")
        assert False is sent
        assert reason in ("tls", "unreachable")
        await upstream.aclose()


@on_both_loops
async def test_a_handshake_that_takes_too_long_certainly_did_not_run() -> None:
    async with serving(silent) as service:
        upstream = Upstream(service.url.replace("http:", "https:"), connect_timeout=SHORT)
        assert ("connect-timeout", False) == await failure(upstream, "POST")
        await upstream.aclose()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            *(
                openssl,
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@on_both_loops
async def test_a_service_is_asked_over_tls(certificate: tuple[str, str]) -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(*certificate)
    async with serving(always(OK), tls=server_side) as service:
        upstream = Upstream(service.url, tls=ssl.create_default_context(cafile=certificate[0]))
        for _ in range(2):
            assert (200, b"ok") == await whole(upstream)
        assert 1 == service.connections
        await upstream.aclose()


@on_both_loops
async def test_a_certificate_that_nobody_vouches_for_is_not_taken(certificate: tuple[str, str]) -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(*certificate)
    async with serving(always(OK), tls=server_side) as service:
        upstream = Upstream(service.url)
        assert ("tls", False) == await failure(upstream, "POST")
        assert [] == service.requests
        await upstream.aclose()


@on_both_loops
async def test_silence_before_the_answer_ends_at_the_idle_timeout() -> None:
    async with asking(silent, idle_timeout=SHORT) as (upstream, _):
        assert ("idle-timeout", True) == await failure(upstream)


@on_both_loops
async def test_silence_within_the_answer_ends_at_the_idle_timeout() -> None:
    part = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart"
    async with asking(always(part), idle_timeout=SHORT) as (upstream, service):
        reply = await upstream.send("GET", b"/", HOST)
        assert b"part" == await reply.read()
        with pytest.raises(UpstreamFailed) as caught:
            await reply.read()
        assert {"reason": "idle-timeout", "sent": True} == caught.value.evidence
        await service.gone.wait()


# --- the second try ---------------------------------------------------------------------------------------------------


async def once_then_close(reader: Any, writer: asyncio.StreamWriter) -> None:
    """Answers the first request of a connection, and closes on the second without a byte."""
    await reader.head()
    writer.write(OK)
    await reader.head()


@pytest.mark.parametrize("method", ["GET", "PUT"])
@on_both_loops
async def test_a_pooled_connection_that_had_closed_is_replaced_once_for_an_idempotent_request(method: str) -> None:
    async with asking(once_then_close) as (upstream, service):
        assert (200, b"ok") == await whole(upstream, method)
        assert (200, b"ok") == await whole(upstream, method)
        assert (2, 3) == (service.connections, len(service.requests))


@pytest.mark.parametrize(("method", "streamed"), [("POST", False), ("PATCH", False), ("PUT", True)])
@on_both_loops
async def test_a_request_that_must_not_run_twice_is_not_sent_twice(method: str, streamed: bool) -> None:
    async with asking(once_then_close) as (upstream, service):
        assert (200, b"ok") == await whole(upstream)
        body: Any = pieces() if streamed else b""
        assert ("closed", True) == await failure(upstream, method, body=body, length=0 if streamed else None)
        assert 1 == service.connections


@on_both_loops
async def test_a_second_try_that_fails_is_the_last() -> None:
    async with asking(once_then_close, always(b"", then_close=True)) as (upstream, service):
        assert (200, b"ok") == await whole(upstream)
        assert ("closed", True) == await failure(upstream)
        assert 2 == service.connections


@on_both_loops
async def test_a_connection_that_breaks_within_the_answer_is_not_tried_again() -> None:
    async def script(reader: Any, writer: asyncio.StreamWriter) -> None:
        await reader.head()
        writer.write(OK)
        await reader.head()
        writer.write(b"HTTP/1.1 2")
        await writer.drain()

    async with asking(script) as (upstream, service):
        assert (200, b"ok") == await whole(upstream)
        assert ("closed", True) == await failure(upstream)
        assert 1 == service.connections


@on_both_loops
async def test_a_request_that_must_not_run_twice_does_not_ride_on_a_connection_long_unused() -> None:
    async with asking(once_then_close) as (upstream, service):
        assert (200, b"ok") == await whole(upstream)
        (connection,) = upstream._pool._idle
        connection.active_at -= 2 * module._FRESH_S
        assert (200, b"ok") == await whole(upstream, "POST")
        assert 2 == service.connections


@on_both_loops
async def test_an_unused_connection_is_closed_after_its_time() -> None:
    async with asking(always(OK), keep_alive=SHORT) as (upstream, service):
        assert (200, b"ok") == await whole(upstream)
        await service.gone.wait()
        assert 1 == service.connections


# --- the pool ---------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_requests_over_the_limit_wait_for_a_connection_in_their_order() -> None:
    async with asking(always(OK), most_connections=1) as (upstream, service):
        order: list[int] = []

        async def ask(number: int) -> None:
            assert (200, b"ok") == await whole(upstream)
            order.append(number)

        await asyncio.gather(*(ask(number) for number in range(5)))
        assert [0, 1, 2, 3, 4] == order
        assert 1 == service.connections


@on_both_loops
async def test_waiting_for_a_connection_ends_at_the_idle_timeout_with_nothing_sent() -> None:
    async def slow(reader: Any, writer: asyncio.StreamWriter) -> None:
        await reader.head()
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:  # more than its reader takes, so that it is not called silent
            writer.write(b"100000\r\n%b\r\n" % bytes(0x100000))
            await writer.drain()

    async with asking(slow, most_connections=1, idle_timeout=SHORT) as (upstream, service):
        reply = await upstream.send("GET", b"/", HOST)
        assert ("busy", False) == await failure(upstream)
        assert 1 == service.connections
        reply.close()


@on_both_loops
async def test_a_request_that_is_given_up_gives_its_place_back() -> None:
    async with asking(silent, silent, always(OK), most_connections=1) as (
        upstream,
        service,
    ):
        asked = asyncio.create_task(whole(upstream))
        waiting = asyncio.create_task(whole(upstream))
        while not service.connections:
            await asyncio.sleep(0)
        waiting.cancel()
        asked.cancel()
        await asyncio.gather(asked, waiting, return_exceptions=True)
        await service.gone.wait()
        service.scripts = (always(OK),)
        assert (200, b"ok") == await whole(upstream)


@on_both_loops
async def test_an_answer_that_is_no_longer_wanted_is_cut() -> None:
    part = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart"
    async with asking(always(part), always(OK), most_connections=1) as (upstream, service):
        reply = await upstream.send("GET", b"/", HOST)
        reply.close()
        await service.gone.wait()
        assert (200, b"ok") == await whole(upstream)


@on_both_loops
async def test_closing_ends_what_is_under_way_and_what_is_kept() -> None:
    async with asking(always(OK), silent) as (upstream, service):
        assert (200, b"ok") == await whole(upstream)
        (kept,) = upstream._pool._idle
        kept.active_at -= 2 * module._FRESH_S
        asked = asyncio.create_task(failure(upstream, "POST"))
        while service.connections < 2:
            await asyncio.sleep(0)
        await upstream.aclose()
        assert ("closing", True) == await asked
        assert not upstream._pool._all


# --- time, without waiting for it -------------------------------------------------------------------------------------


class Transport(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0
        self.events: list[str] = []

    def write(self, data: Any) -> None:
        self.unsent += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limit = high

    def pause_reading(self) -> None:
        self.events.append("pause")

    def resume_reading(self) -> None:
        self.events.append("resume")

    def abort(self) -> None:
        self.events.append("abort")

    def close(self) -> None:
        self.events.append("close")


class Pool:
    """A pool that remembers nothing."""

    def add(self, connection: Connection) -> None: ...

    def put(self, connection: Connection, *, reusable: bool) -> None: ...

    def drop(self, connection: Connection) -> None: ...


@asynccontextmanager
async def one_connection() -> AsyncIterator[tuple[Connection, Transport]]:
    connection, transport = Connection(Pool(), asyncio.get_running_loop()), Transport()
    connection.connection_made(transport)
    yield connection, transport


def look(connection: Connection, after: float) -> None:
    connection.look(connection.active_at + after, idle_timeout_s=10, keep_alive_s=5)


@on_both_loops
async def test_a_request_that_is_still_being_taken_is_not_silence() -> None:
    async with one_connection() as (connection, transport):
        connection.begin("PUT", b"PUT ", b"x" * 100_000, None)
        look(connection, 11)
        transport.unsent //= 2
        look(connection, 11)
        assert [] == transport.events
        look(connection, 11)
        assert ["abort"] == transport.events


@on_both_loops
async def test_a_caller_who_does_not_read_is_not_the_services_silence() -> None:
    async with one_connection() as (connection, transport):
        reply = connection.begin("GET", b"", b"", None)
        look(connection, 1)
        connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + bytes(300_000))
        look(connection, 11)
        look(connection, 11)
        assert ["pause"] == transport.events
        assert 300_000 == len(await reply.read())
        look(connection, 9)
        assert ["pause", "resume"] == transport.events
        look(connection, 11)
        assert ["pause", "resume", "abort"] == transport.events


@on_both_loops
async def test_a_caller_who_does_not_send_is_not_the_services_silence() -> None:
    more = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"part"
        await more.wait()

    async with one_connection() as (connection, transport):
        connection.begin("PUT", b"", body(), None)
        await asyncio.sleep(0)
        transport.unsent = 0
        look(connection, 11)
        look(connection, 11)
        assert [] == transport.events
        more.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        look(connection, 11)  # what was written since then
        look(connection, 11)
        assert ["abort"] == transport.events


@on_both_loops
async def test_every_byte_of_an_answer_starts_the_idle_timeout_anew() -> None:
    async with one_connection() as (connection, transport):
        connection.begin("GET", b"", b"", None)
        connection.active_at -= 9
        connection.data_received(b"HTTP/1.1 200 OK\r\n")
        look(connection, 9)
        assert [] == transport.events


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:9000",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://user:password@host",
        "http://host/?q",
        "http://host/#f",
        "http://host/a b",
        "http://hóst/",
        "http://" + "a" * 64 + ".example/",
        "http://[::1",
    ],
)
def test_a_url_that_cannot_be_an_upstream_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Upstream(url)
    assert "password" not in str(caught.value.evidence)


@pytest.mark.parametrize(
    ("url", "authority", "base_path"),
    [
        ("http://host", b"host", b""),
        ("https://host:8443/base/", b"host:8443", b"/base"),
        ("http://[::1]:80/", b"[::1]:80", b""),
    ],
)
def test_a_url_says_where_an_upstream_is(url: str, authority: bytes, base_path: bytes) -> None:
    origin = Upstream(url).origin
    assert (authority, base_path) == (origin.authority, origin.base_path)
