"""The proxy at its address: who has a place there when more want one than there are. Over sockets of this machine."""

from __future__ import annotations

import asyncio
import selectors
import socket
import struct
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import cycle
from typing import Any

import pytest

from farebox.core.purse_token import PurseToken
from farebox.core.secret import Secret
from farebox.http.forward.server import ForwardServer
from farebox.http.forward.wire import Patience
from farebox.testing.raw_http import read_message

pytestmark = pytest.mark.anyio

TOKEN = PurseToken.mint("agent", Secret(bytes(range(32)))).reveal().encode()  # of the agency's purse
SHOWN = b"Proxy-Authorization: Basic " + b64encode(TOKEN + b":") + b"\r\n"
FALSE = b"Proxy-Authorization: Bearer fbx_" + b"A" * 80 + b"\r\n"
PLACES = 16

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def asked(fields: bytes) -> bytes:
    return b"GET http://shop.test/free HTTP/1.1\r\nHost: shop.test\r\n%b\r\n" % fields


BUYING = b"POST http://shop.test/api/dvm HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 16\r\n%b\r\n" % SHOWN
BUYING += b'{"prompt": "hi"}'
STRANGERS = [b"", b"GET http://shop.test/ HT", asked(b""), asked(FALSE), asked(FALSE) * 20]


class Crowd:
    """Whoever is at the proxy's address."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._lines: list[Line] = []

    async def call(self, fields: bytes = SHOWN, *, on: Line | None = None) -> int | None:
        """The status of a call, on a connection of its own or on this one; None when it was hung up."""
        reader, writer = on or await self.come()
        writer.write(asked(fields))
        async with asyncio.timeout(5):
            answer = await read_message(reader)
        return answer and answer.status

    async def come(self, said: bytes = b"") -> Line:
        """Somebody who has said this, and stays."""
        line = await asyncio.open_connection(*self._address)
        line[1].write(said)
        self._lines.append(line)
        return line

    async def go_on(self, writer: asyncio.StreamWriter) -> None:
        """Say more and more, for some seconds."""
        async with asyncio.timeout(5):
            while True:
                writer.write(b"GET")
                await writer.drain()
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def flood(self, strangers: int, said: Sequence[bytes]) -> AsyncIterator[None]:
        """So many strangers, each of whom comes again as soon as he is sent away."""
        over = threading.Event()
        thread = threading.Thread(target=self._keep_coming, args=(strangers, cycle(said), over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            await asyncio.to_thread(thread.join)
            await asyncio.sleep(0.1)  # for those who wait to be taken

    def _keep_coming(self, strangers: int, said: Iterator[bytes], over: threading.Event) -> None:
        with selectors.DefaultSelector() as there:
            while not over.is_set():
                while len(there.get_map()) < strangers:
                    line = socket.create_connection(self._address)
                    line.sendall(next(said))
                    there.register(line, selectors.EVENT_READ)
                for key, _ in there.select(0.1):
                    assert isinstance(key.fileobj, socket.socket)
                    if not _hears(key.fileobj):
                        there.unregister(key.fileobj)
                        key.fileobj.close()
            for key in list(there.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()

    def leave(self) -> None:
        for _, writer in self._lines:
            writer.transport.abort()


def _hears(line: socket.socket) -> bool:
    """Whether he is told something, and is not sent away."""
    with suppress(OSError):
        return bool(line.recv(4096))
    return False


@asynccontextmanager
async def at(proxy: Any, **patience: timedelta) -> AsyncIterator[Crowd]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that it is soon felt when nobody reads
        end, crowd = asyncio.Event(), Crowd(listening.getsockname())
        server = ForwardServer(proxy, patience=Patience(**patience), most_connections=PLACES)
        serving = asyncio.create_task(server.serve(listening, until=end))
        try:
            yield crowd
        finally:
            crowd.leave()
            end.set()
            await serving


@pytest.mark.parametrize("said", [*([each] for each in STRANGERS), STRANGERS])
async def test_strangers_who_fill_every_place_and_come_again_keep_nobody_with_a_token_from_being_served(
    open_agency: Any, caplog: pytest.LogCaptureFixture, said: list[bytes]
) -> None:
    async with open_agency() as agency, at(agency.proxy) as crowd:
        kept = await crowd.come()
        assert 200 == await crowd.call(on=kept)
        async with crowd.flood(2 * PLACES, said):
            await asyncio.sleep(0.1)
            assert [200] * 10 == [await crowd.call() for _ in range(10)]
            assert 200 == await crowd.call(on=kept)
    assert [] == caplog.records


async def test_of_strangers_the_one_who_came_first_gives_way_and_whose_token_is_being_looked_at_last(
    open_agency: Any,
) -> None:
    async with open_agency() as agency, at(agency.proxy) as crowd:
        with agency.purse.reading():  # whose turn it is now, so that looking at a token takes as long as this
            asking = asyncio.create_task(crowd.call(on=await crowd.come()))
            strangers = [await crowd.come() for _ in range(PLACES - 1)]
            assert 407 == await crowd.call(b"")
            async with asyncio.timeout(5):
                with suppress(ConnectionResetError):
                    assert b"" == await strangers[0][0].read()
        assert 200 == await asking
        assert 407 == await crowd.call(b"", on=strangers[1])


async def test_whoever_is_being_answered_never_gives_way(open_agency: Any) -> None:
    async with open_agency() as agency, at(agency.proxy) as crowd:
        known = [await crowd.come() for _ in range(PLACES)]
        assert [200] * PLACES == [await crowd.call(on=line) for line in known]
        with agency.purse.reading():  # so that all of them are being answered for as long as this
            answered = [asyncio.create_task(crowd.call(on=line)) for line in known]
            await asyncio.sleep(0.1)
            assert [503, 503] == [await crowd.call(fields) for fields in (b"", SHOWN)]
        assert [200] * PLACES == await asyncio.gather(*answered)


def close(writer: asyncio.StreamWriter) -> None:
    """As a client does whose time is over."""
    writer.close()


def close_half(writer: asyncio.StreamWriter) -> None:
    """And still listen."""
    writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """As a system does for a program that has died with something unread."""
    there = writer.get_extra_info("socket")
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("hang_up", [close, close_half, reset])
@pytest.mark.parametrize("behind", [b"", asked(SHOWN)])
async def test_whoever_hangs_up_and_calls_again_has_paid_once_and_holds_nothing_against_the_seller(
    open_agency: Any, caplog: pytest.LogCaptureFixture, hang_up: Callable[[asyncio.StreamWriter], None], behind: bytes
) -> None:
    async with open_agency() as agency, at(agency.proxy) as crowd:
        agency.service.held = True
        for _ in range(2):
            _, writer = await crowd.come(BUYING + behind)
            async with asyncio.timeout(5):
                await agency.service.entered.wait()
            await asyncio.sleep(0.1)  # for those who hear that it is being made already
            hang_up(writer)
        patient = await crowd.come(BUYING)
        await asyncio.sleep(0.1)
        agency.service.go_on.set()
        async with asyncio.timeout(5):
            answer = await read_message(patient[0])
        assert answer is not None
        assert (200, [b"true"]) == (answer.status, answer.values(b"farebox-replayed"))
        assert 200 == await crowd.call(on=patient)  # when all of the first is done
        (purchase,) = agency.purse.history(9)
        assert (True, None) == (purchase.served, purchase.undelivered_at)
    assert [] == caplog.records


async def test_what_is_said_while_an_answer_is_waited_for_is_answered_after_it(open_agency: Any) -> None:
    async with open_agency() as agency, at(agency.proxy) as crowd:
        agency.service.held = True
        reader, writer = await crowd.come(BUYING)
        async with asyncio.timeout(5):
            await agency.service.entered.wait()
            writer.write(asked(SHOWN) * 3)
            await asyncio.sleep(0.1)
            agency.service.go_on.set()
            answers = [await read_message(reader) for _ in range(4)]
        assert [b"21 sat"] == [value for answer in answers if answer for value in answer.values(b"farebox-paid")]
        assert [200] * 4 == [answer and answer.status for answer in answers]


async def test_of_those_with_a_token_the_first_that_waits_between_two_requests_gives_way(open_agency: Any) -> None:
    async with open_agency() as agency, at(agency.proxy) as crowd:
        known = [await crowd.come() for _ in range(PLACES)]
        assert [200] * PLACES == [await crowd.call(on=line) for line in known]
        assert 200 == await crowd.call()
        async with asyncio.timeout(5):
            assert b"" == await known[0][0].read()
        assert [200] * (PLACES - 1) == [await crowd.call(on=line) for line in known[1:]]


async def test_a_stranger_who_does_not_read_what_he_is_told_is_hung_up_on_all_the_same(open_agency: Any) -> None:
    async with open_agency() as agency, at(agency.proxy, read=timedelta(seconds=0.5)) as crowd:
        _, writer = await crowd.come(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8403\r\n\r\n" * 5_000)
        with pytest.raises(ConnectionError):
            await crowd.go_on(writer)


async def test_a_proxy_that_can_take_no_caller_any_more_ends_and_says_why_when_it_has_answered(
    open_agency: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise LookupError("a fault of ours")

    async def answer_and_fail(agency: Any) -> None:
        async with asyncio.timeout(5), at(agency.proxy) as crowd:
            kept = await crowd.come()
            assert 200 == await crowd.call(on=kept)
            with agency.purse.reading():  # so that it is being answered for as long as this
                answered = asyncio.create_task(crowd.call(on=kept))
                await asyncio.sleep(0.1)
                monkeypatch.setattr(ForwardServer, "_make_room", fail)
                await crowd.come()
                await asyncio.sleep(0.1)
            assert 200 == await answered

    async with open_agency() as agency:
        with pytest.raises(LookupError, match="a fault of ours"):
            await answer_and_fail(agency)
