from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

from farebox.core.ports import Conversation, HttpCall, HttpReply
from farebox.core.secret import Secret
from farebox.http.converse import MOST_REPLY_BYTES, aconverse, converse

LIBRARIES = [httpx, httpx2]
URL = "http://node.test/pay"


def ask(**changes: Any) -> Conversation[HttpReply]:
    reply = yield HttpCall(**{"method": "GET", "url": URL, **changes})
    return reply


def ask_nothing() -> Conversation[str]:
    yield from ()
    return "told"


def flowing(library: ModuleType, pieces: Iterable[bytes]) -> Any:
    """A body that comes in pieces, as from a socket, for either client."""

    class Flowing(library.SyncByteStream, library.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            return iter(pieces)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

    return Flowing()


def run(library: ModuleType, blocking: bool, conversation: Conversation[Any], handler: Callable[[Any], Any]) -> Any:
    transport = library.MockTransport(handler)
    if blocking:
        with library.Client(transport=transport, auth=("someone", "else"), follow_redirects=True) as client:
            return converse(conversation, client)

    async def awaited() -> Any:
        async with library.AsyncClient(
            transport=transport, auth=("someone", "else"), follow_redirects=True
        ) as awaiting:
            return await aconverse(conversation, awaiting)

    return asyncio.run(awaited())


both = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "awaiting"])
either = pytest.mark.parametrize("library", LIBRARIES, ids=["httpx", "httpx2"])


@both
@either
class TestDriver:
    def test_a_call_is_sent_as_it_was_asked_for(self, library: ModuleType, blocking: bool) -> None:
        seen = []

        def handle(request: Any) -> Any:
            seen.append((request.method, str(request.url), request.read(), request.headers))
            return library.Response(200, stream=flowing(library, [b"an", b"swer"]))

        asked = ask(method="POST", body=b"a=1", headers=Secret("authorization: Basic eA==\nx-test: a:b"))
        reply = run(library, blocking, asked, handle)
        assert HttpReply(status=200, body=b"answer") == reply
        method, url, body, headers = seen[0]
        assert ("POST", URL, b"a=1") == (method, url, body)
        assert (headers["authorization"], headers["x-test"]) == ("Basic eA==", "a:b")

    def test_the_clients_own_password_stays_with_the_client(self, library: ModuleType, blocking: bool) -> None:
        def handle(request: Any) -> Any:
            return library.Response(204 if "authorization" in request.headers else 200)

        assert run(library, blocking, ask(), handle).status == 200

    @pytest.mark.parametrize(
        ("trouble", "told"),
        [
            ("ConnectError", "ConnectError"),
            ("ConnectTimeout", "it takes too long to connect"),
            ("PoolTimeout", "PoolTimeout"),
            ("UnsupportedProtocol", "UnsupportedProtocol"),
        ],
    )
    def test_what_never_left_was_not_sent(self, library: ModuleType, blocking: bool, trouble: str, told: str) -> None:
        def handle(request: Any) -> Any:
            raise getattr(library, trouble)("hunter2")

        assert HttpReply(status=0, sent=False, reason=told) == run(library, blocking, ask(), handle)

    @pytest.mark.parametrize(
        "trouble", ["ReadTimeout", "WriteTimeout", "ReadError", "WriteError", "RemoteProtocolError", "ProxyError"]
    )
    def test_any_other_trouble_may_have_arrived(self, library: ModuleType, blocking: bool, trouble: str) -> None:
        def handle(request: Any) -> Any:
            raise getattr(library, trouble)("hunter2")

        assert HttpReply(status=0, sent=True, reason=trouble) == run(library, blocking, ask(), handle)

    def test_a_reply_that_breaks_off_is_no_reply(self, library: ModuleType, blocking: bool) -> None:
        def breaking() -> Iterator[bytes]:
            yield b"{"
            raise library.RemoteProtocolError("peer closed connection")

        reply = run(library, blocking, ask(), lambda _: library.Response(200, stream=flowing(library, breaking())))
        assert HttpReply(status=0, sent=True, reason="RemoteProtocolError") == reply

    def test_a_redirect_is_not_followed(self, library: ModuleType, blocking: bool) -> None:
        def handle(request: Any) -> Any:
            return library.Response(307, headers={"location": "http://evil.test/"}, stream=flowing(library, []))

        assert run(library, blocking, ask(), handle).status == 307

    def test_a_reply_without_end_is_cut_off_and_no_reply(self, library: ModuleType, blocking: bool) -> None:
        taken = []

        def endless() -> Iterator[bytes]:
            while True:
                taken.append(1)
                yield b"x" * 65_536

        reply = run(library, blocking, ask(), lambda _: library.Response(200, stream=flowing(library, endless())))
        assert (0, True, b"") == (reply.status, reply.sent, reply.body)
        assert len(taken) == MOST_REPLY_BYTES // 65_536 + 1

    def test_a_compressed_reply_is_neither_asked_for_nor_unfolded(self, library: ModuleType, blocking: bool) -> None:
        packed = gzip.compress(b"0" * 10_000_000)

        def handle(request: Any) -> Any:
            assert request.headers["accept-encoding"] == "identity"
            return library.Response(200, headers={"content-encoding": "gzip"}, stream=flowing(library, [packed]))

        assert packed == run(library, blocking, ask(), handle).body

    def test_a_reply_that_is_in_memory_already_is_read_too(self, library: ModuleType, blocking: bool) -> None:
        assert run(library, blocking, ask(), lambda _: library.Response(200, content=b"answer")).body == b"answer"

    @pytest.mark.parametrize("timeout", [None, timedelta(seconds=90)])
    def test_the_timeout_is_the_calls(self, library: ModuleType, blocking: bool, timeout: timedelta | None) -> None:
        expected = None if timeout is None else timeout.total_seconds()

        def handle(request: Any) -> Any:
            assert set(request.extensions["timeout"].values()) == {expected}
            return library.Response(200)

        assert run(library, blocking, ask(timeout=timeout), handle).status == 200

    def test_a_conversation_may_take_several_turns(self, library: ModuleType, blocking: bool) -> None:
        def twice() -> Conversation[tuple[bytes, bytes]]:
            first = yield from ask(body=b"1")
            second = yield from ask(body=b"2")
            return first.body, second.body

        def echo(request: Any) -> Any:
            return library.Response(200, content=request.read())

        assert run(library, blocking, twice(), echo) == (b"1", b"2")


def test_a_conversation_that_asks_nothing_needs_no_client() -> None:
    assert converse(ask_nothing()) == "told"
    assert asyncio.run(aconverse(ask_nothing())) == "told"


def test_a_conversation_that_asks_needs_a_client() -> None:
    with pytest.raises(TypeError, match="client"):
        converse(ask())
    with pytest.raises(TypeError, match="client"):
        asyncio.run(aconverse(ask()))


def test_a_client_of_neither_library_is_refused() -> None:
    with pytest.raises(TypeError, match="httpx"):
        converse(ask(), object())


def test_a_clients_subclass_is_of_its_library() -> None:
    class Mine(httpx.Client):
        """Somebody's own client."""

    with Mine(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        assert converse(ask(), client).status == 200


def test_what_a_conversation_raises_comes_out() -> None:
    def refusing() -> Conversation[None]:
        yield from ()
        raise KeyError("told")

    with pytest.raises(KeyError, match="told"):
        converse(refusing())


def test_being_cancelled_while_waiting_comes_out_and_closes_the_conversation() -> None:
    closed = []

    def watched() -> Conversation[HttpReply]:
        try:
            return (yield HttpCall(method="GET", url=URL))
        finally:
            closed.append(True)

    asking = asyncio.Event()

    async def never(request: httpx.Request) -> httpx.Response:
        asking.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def cancelled() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(never)) as client:
            task = asyncio.create_task(aconverse(watched(), client))
            await asking.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    assert closed == [True]
