"""One connection of a caller: how much he may say, and how long he may take."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import h11
import pytest

from farebox.http.forward.fields import Field
from farebox.http.forward.refusal import Refusal
from farebox.http.forward.wire import Caller, Line, Patience, Room

pytestmark = pytest.mark.anyio

HEAD = b"POST http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n"
SHORT = timedelta(milliseconds=10)
LONG = timedelta(seconds=20)


@dataclass
class Ear:
    """What hears the proxy. deaf: it takes nothing."""

    deaf: bool = False
    heard: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        self.heard += data

    async def drain(self) -> None:
        if self.deaf:
            await asyncio.Event().wait()

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        """Not here."""


def calling(
    *said: bytes,
    ear: Ear | None = None,
    room: Room | None = None,
    line: Line | None = None,
    **patience: timedelta | int,
) -> Caller:
    """A caller who has said this, and says nothing more, but has not gone. line: by which he may go."""
    line = line or Line()
    for part in said:
        line.feed_data(part)
    spans = {"stranger": LONG, "idle": LONG, "head": LONG, "body": LONG, "read": LONG}
    return Caller(line, ear or Ear(), Patience(**(spans | patience)), room=room)  # type: ignore[arg-type]  # each as it is


async def heard(caller: Caller) -> bytes:
    """The body of the next request."""
    assert isinstance(await caller.hear(), h11.Request)
    return await caller.body()


async def refused(caller: Caller) -> int:
    with pytest.raises(Refusal) as told:
        await heard(caller)
    return told.value.status


async def test_who_says_nothing_is_let_go_without_a_word() -> None:
    assert await calling(idle=SHORT).hear() is None


async def test_who_has_shown_no_token_is_waited_for_only_a_short_time_in_all() -> None:
    assert await calling(stranger=SHORT).hear() is None
    assert 408 == await refused(calling(HEAD, stranger=SHORT))
    asking = calling(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", stranger=SHORT)
    await heard(asking)
    await asking.say(200, [], b"ok")
    assert asking.next_one()
    assert await asking.hear() is None


async def test_who_has_shown_a_token_is_waited_for_as_long_as_between_requests() -> None:
    caller = calling(stranger=SHORT)
    caller.known = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5 * SHORT.total_seconds()):
            await caller.hear()


async def test_who_stops_in_a_head_is_told_so() -> None:
    assert 408 == await refused(calling(HEAD, head=SHORT))


async def test_who_stops_in_a_body_is_told_so() -> None:
    assert 408 == await refused(calling(HEAD + b"Content-Length: 9\r\n\r\nx", body=SHORT))


async def test_who_does_not_read_is_left() -> None:
    caller = calling(HEAD + b"\r\n", ear=Ear(deaf=True), read=SHORT)
    await caller.hear()
    await caller.body()
    with pytest.raises(TimeoutError):
        await caller.begin(200, [])


@pytest.mark.parametrize("size", [10, 11])
async def test_a_body_has_a_limit_however_it_is_framed(size: int) -> None:
    body = b"x" * size
    plain = b"Content-Length: %d\r\n\r\n%b" % (size, body)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, body)
    for framed in (plain, chunked):
        caller = calling(HEAD + framed, most_body=10)
        if size > 10:
            assert 413 == await refused(caller)
        else:
            assert body == await heard(caller)


async def test_the_bodies_of_all_callers_have_a_limit_together() -> None:
    room, said = Room(10), HEAD + b"Content-Length: 6\r\n\r\nsix by"
    one, other, third = (calling(said, room=room) for _ in range(3))
    await heard(one)
    assert 503 == await refused(other)
    other.forget_body()
    one.forget_body()
    one.forget_body()
    assert b"six by" == await heard(third)
    assert 503 == await refused(calling(said, room=room))


async def test_who_waits_to_be_asked_for_a_body_is_asked_when_it_is_wanted_and_not_before() -> None:
    ear = Ear()
    caller = calling(HEAD + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n", b"hi", ear=ear)
    await caller.hear()
    assert b"" == ear.heard
    assert b"hi" == await caller.body()
    assert ear.heard.startswith(b"HTTP/1.1 100")


async def test_a_refusal_before_the_body_ends_the_connection_and_does_not_ask_for_it() -> None:
    ear = Ear()
    caller = calling(HEAD + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n", ear=ear)
    await caller.hear()
    await caller.refuse(Refusal(407, "token-refused", "no"))
    assert ear.heard.startswith(b"HTTP/1.1 407")
    assert b"connection: close" in ear.heard.lower()
    assert not caller.next_one()


async def test_a_refusal_of_a_request_without_a_body_leaves_the_connection_open() -> None:
    caller = calling(b"GET http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    await caller.hear()
    await caller.refuse(Refusal(407, "token-refused", "no"))
    assert caller.next_one()


async def test_behind_a_request_of_which_the_end_is_not_certain_nothing_is_heard() -> None:
    both = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    caller = calling(HEAD + both)
    refusal = Refusal(400, "malformed-request", "two framings")
    assert 400 == await refused(caller)
    await caller.refuse(refusal)
    assert not caller.next_one()


async def test_one_who_is_told_to_leave_hears_it_with_his_answer() -> None:
    ear = Ear()
    caller = calling(b"GET http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", ear=ear)
    await caller.hear()
    caller.leave()
    await caller.say(200, [], b"ok")
    assert b"connection: close" in ear.heard.lower()
    assert not caller.next_one()


@pytest.mark.parametrize(
    ("method", "status", "fields", "parts", "is_whole"),
    [
        (b"GET", 200, [(b"content-length", b"4")], [b"ab"], False),
        (b"GET", 200, [(b"content-length", b"4")], [b"ab", b"cd"], True),
        (b"GET", 200, [], [b"abcd"], False),
        (b"GET", 204, [], [], True),
        (b"GET", 304, [(b"content-length", b"4")], [], True),
        (b"HEAD", 200, [(b"content-length", b"4")], [], True),
    ],
)
async def test_who_hangs_up_ends_what_is_done_for_him_unless_he_was_told_all(
    *, method: bytes, status: int, fields: list[Field], parts: list[bytes], is_whole: bool
) -> None:
    line, done = Line(), False
    caller = calling(method + b" http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", line=line)
    await heard(caller)
    with suppress(TimeoutError):
        async with caller.waiting():
            await caller.begin(status, fields)
            for part in parts:
                await caller.part(part)
            line.feed_eof()
            await asyncio.sleep(0.05)  # until it is written down that he was answered
            done = True
    assert is_whole is done


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_who_has_gone_before_he_is_answered_has_nothing_done_for_him(error: Exception | None) -> None:
    line = Line()
    caller = calling(HEAD + b"\r\n", line=line)
    await heard(caller)
    line.set_exception(error) if error else line.feed_eof()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5), caller.waiting():
            await asyncio.Event().wait()
    assert not caller.begun


async def test_nothing_is_read_from_a_caller_while_he_is_answered() -> None:
    line = Line()
    caller = calling(b"GET http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", line=line)
    await heard(caller)
    async with caller.waiting():
        line.feed_data(HEAD + b"Content-Length: 2\r\n\r\nhi")
        await asyncio.sleep(0.05)
        assert b"" == caller.unread
        await caller.say(200, [], b"ok")
    assert caller.next_one()
    assert b"hi" == await heard(caller)
