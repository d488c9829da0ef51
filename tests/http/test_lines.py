"""Backends that are not simply at their URL: behind a certificate of their own, at a unix socket, or with no end."""

from __future__ import annotations

import asyncio
import json
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from farebox.core.conversation import Conversation, HttpCall, HttpReply, Line
from farebox.http.converse import Lines, aconverse, converse

pytestmark = [pytest.mark.system, pytest.mark.anyio]

QUIET = timedelta(milliseconds=50)
WITHIN = timedelta(seconds=5)
LINE = b'{"result":{"n":%d}}\n'

Serve = Callable[[StreamWriter], Awaitable[None]]


def asked(url: str, line: Line | None, **more: Any) -> Conversation[HttpReply]:
    return (yield HttpCall(method="GET", url=url, line=line, **more))


def certificate(folder: Path, *, ends: datetime = datetime(2100, 1, 1, tzinfo=UTC), host: str = "127.0.0.1") -> Path:
    """One that is signed by itself, as nodes make them, with its key, in a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "a node of one's own")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "tls.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


async def answer(writer: StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")


@asynccontextmanager
async def served(serve: Serve, tls: Path | None = None, unix: Path | None = None) -> AsyncIterator[str]:
    serving: set[asyncio.Task[None]] = set()

    async def connection(reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            await serve(writer)
            await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
    if unix is not None:
        server = await asyncio.start_unix_server(connection, unix)
        url = "http://node/"
    else:
        server = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=context)
        url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        yield url
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def every_way(url: str, line: Line | None, **more: Any) -> list[HttpReply]:
    """What each driver makes of it."""
    lines = Lines()
    replies = [await aconverse(asked(url, line, **more), lines)]
    await lines.aclose()
    for library in (httpx, httpx2):
        async with library.AsyncClient(trust_env=False) as awaiting:
            replies.append(await aconverse(asked(url, line, **more), awaiting))
        with library.Client(trust_env=False) as client:
            replies.append(await asyncio.to_thread(converse, asked(url, line, **more), client))
    return replies


async def test_a_certificate_that_is_pinned_is_believed_and_no_other_one(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
        certificate(folder)
    async with served(answer, tls=own / "tls.pem") as url:
        good = await every_way(url, Line(certificate=(own / "tls.pem").read_text()))
        wrong = await every_way(url, Line(certificate=(other / "tls.pem").read_text()))
        unpinned = await every_way(url, None)
    assert [HttpReply(status=200, body=b"hi")] * 5 == good
    for reply in wrong + unpinned:
        assert (0, False) == (reply.status, reply.sent)
        assert reply.reason.startswith("its certificate: ")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"ends": datetime(2021, 1, 1, tzinfo=UTC)}, "its certificate: certificate has expired"),
        ({"host": "192.0.2.1"}, "its certificate: IP address mismatch, certificate is not valid for '127.0.0.1'."),
    ],
)
async def test_a_certificate_that_is_not_good_is_told_with_what_is_wrong(
    tmp_path: Path, made: dict[str, Any], words: str
) -> None:
    path = certificate(tmp_path, **made)
    async with served(answer, tls=path) as url:
        for reply in await every_way(url, Line(certificate=path.read_text())):
            assert (0, False, words) == (reply.status, reply.sent, reply.reason)


async def test_a_certificate_that_is_none_sends_nothing(tmp_path: Path) -> None:
    for reply in await every_way("https://127.0.0.1:1/", Line(certificate="-----BEGIN CERTIFICATE-----")):
        assert (0, False) == (reply.status, reply.sent)


async def test_a_unix_socket_is_asked_for_the_host_of_the_url(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    async with served(answer, unix=path) as url:
        assert [HttpReply(status=200, body=b"hi")] * 5 == await every_way(url, Line(socket=str(path)))
    lines = Lines()  # a blocking client of httpx leaves the socket open that it could not connect
    gone = await aconverse(asked("http://node/", Line(socket=str(tmp_path / "nobody.sock"))), lines)
    await lines.aclose()
    assert (0, False, "no such file or directory") == (gone.status, gone.sent, gone.reason)


async def test_of_a_reply_without_an_end_what_came_before_it_fell_silent_is_the_reply() -> None:
    async def pour(writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(3):
            line = LINE % number
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"3\r\n{'h\r\n")
        await writer.drain()
        await asyncio.sleep(WITHIN.total_seconds())

    async with served(pour) as url:
        lines = Lines()
        reply = await aconverse(asked(url, None, timeout=WITHIN, endless=QUIET), lines)
        await lines.aclose()
    assert [0, 1, 2] == [json.loads(line)["result"]["n"] for line in reply.body.splitlines()]


async def test_a_reply_without_an_end_in_which_nothing_comes_is_no_reply() -> None:
    async def keep(writer: StreamWriter) -> None:
        await asyncio.sleep(WITHIN.total_seconds())

    async with served(keep) as url:
        for reply in await every_way(url, None, timeout=10 * QUIET, endless=10 * QUIET):
            assert (0, True, "ReadTimeout") == (reply.status, reply.sent, reply.reason)


async def test_a_blocking_reply_without_an_end_is_its_first_lines() -> None:
    async def pour(writer: StreamWriter) -> None:
        line = LINE % 1 + LINE % 2
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(line), line))
        await writer.drain()
        await asyncio.sleep(WITHIN.total_seconds())

    async with served(pour) as url:
        with httpx.Client(trust_env=False) as client:
            reply = await asyncio.to_thread(converse, asked(url, None, timeout=WITHIN, endless=QUIET), client)
    assert LINE % 1 + LINE % 2 == reply.body
