"""Listening to an author for as long as the connections are kept, over loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from farebox.core.conversation import HttpReply
from farebox.nostr import Event, ListenCall, sign_event
from farebox.nostr.call import acarry, carry
from farebox.nostr.keys import public_key
from farebox.nostr.relay import BlockingRelays, Relays

pytestmark = pytest.mark.system

SPEAKER, LISTENER, STRANGER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
NOW = datetime(2026, 11, 21, tzinfo=UTC)
NOBODY = "ws://127.0.0.1:1"
QUIET = HttpReply(status=204)


def told(
    number: int = 0, *, key: bytes = SPEAKER, kind: int = 23197, to: bytes = LISTENER, content: str = "!"
) -> Event:
    tags = [["p", public_key(to).hex()]]
    return sign_event(key, kind=kind, content=f"{number}{content}", tags=tags, created_at=NOW)


def a_call(*urls: str, within: float = 2) -> ListenCall:
    speaker, listener = (public_key(key).hex() for key in (SPEAKER, LISTENER))
    return ListenCall(
        relays=urls, author=speaker, kinds=(23197, 23196), addressed=listener, timeout=timedelta(seconds=within)
    )


@dataclass
class Loud:
    """A relay that says what it is told to, to everybody who listens. refuses: so many subscriptions."""

    refuses: int = 0
    heard: list[Any] = field(default_factory=list)
    listening: list[tuple[ServerConnection, str]] = field(default_factory=list)
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open(self, port: int = 0) -> AsyncIterator[str]:
        async with serve(self._talk, "127.0.0.1", port, close_timeout=0.2) as server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def say(self, *events: Event | Any) -> None:
        await asyncio.wait_for(self.subscribed.wait(), 2)
        for socket, name in self.listening:
            for event in events:
                said = event.as_json() if isinstance(event, Event) else event
                await socket.send(json.dumps(["EVENT", name, said]))
            await (await socket.ping())  # so that it has arrived

    async def hang_up(self) -> None:
        self.subscribed.clear()
        gone, self.listening = self.listening, []
        for socket, _ in gone:
            await socket.close()

    async def _talk(self, socket: ServerConnection) -> None:
        async for message in socket:
            said = json.loads(message)
            self.heard.append(said)
            if said[0] == "REQ" and self.refuses:
                self.refuses -= 1
                await socket.send(json.dumps(["CLOSED", said[1], "restricted: no"]))
            elif said[0] == "REQ":
                await socket.send(json.dumps(["EOSE", said[1]]))
                self.listening.append((socket, said[1]))
                self.subscribed.set()


Story = Callable[[Loud, Relays, str], Coroutine[Any, Any, None]]


def with_a_relay(story: Story, loud: Loud | None = None) -> None:
    async def run() -> None:
        relay = loud or Loud()
        async with relay.open() as url, Relays() as relays:
            await story(relay, relays, url)

    asyncio.run(run())


async def begin(relays: Relays, call: ListenCall, *louds: Loud) -> None:
    """Returns when these relays are listened to."""
    asked = asyncio.create_task(relays.ask(call))
    for loud in louds:
        await asyncio.wait_for(loud.subscribed.wait(), 5)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


def ids(reply: HttpReply) -> list[str]:
    assert reply.status == 200, reply
    return [each["id"] for each in json.loads(reply.body)]


def test_what_is_told_is_heard_once_in_its_order_over_one_subscription() -> None:
    async def story(loud: Loud, relays: Relays, url: str) -> None:
        asked = asyncio.create_task(relays.ask(a_call(url)))
        await loud.say(told(1))
        assert ids(await asked) == [told(1).id]
        await loud.say(told(2), told(1), told(3))
        assert ids(await relays.ask(a_call(url))) == [told(2).id, told(3).id]
        assert await relays.ask(a_call(url, within=0.05)) == QUIET
        assert len(loud.heard) == 1
        wanted = loud.heard[0][2]
        assert wanted == {
            "kinds": [23197, 23196],
            "authors": [public_key(SPEAKER).hex()],
            "#p": [public_key(LISTENER).hex()],
            "limit": 0,
        }

    with_a_relay(story)


FORGED: dict[str, Any] = {
    "of another author": told(key=STRANGER),
    "of another kind": told(kind=23195),
    "to somebody else": told(to=STRANGER),
    "changed": {**told().as_json(), "content": "pay me"},
    "with the author changed": {**told(key=STRANGER).as_json(), "pubkey": public_key(SPEAKER).hex()},
    "signed by another": replace(told(), signature=told(key=STRANGER).signature),
    "too large": told(content="." * 20_000),
    "no event": {"id": 1},
    "with no name for an id": {**told().as_json(), "id": []},
    "no object": [1],
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_the_author_did_not_tell_us_is_passed_over(forged: Any) -> None:
    async def story(loud: Loud, relays: Relays, url: str) -> None:
        await begin(relays, a_call(url), loud)
        await loud.say(forged, told(7))
        assert ids(await relays.ask(a_call(url))) == [told(7).id]

    with_a_relay(story)


def test_of_what_comes_faster_than_it_is_asked_for_the_newest_is_kept() -> None:
    async def story(loud: Loud, relays: Relays, url: str) -> None:
        events = [told(number) for number in range(60)]
        await begin(relays, a_call(url), loud)
        await loud.say(*events)
        assert ids(await relays.ask(a_call(url))) == [event.id for event in events[10:]]

    with_a_relay(story)


def test_a_connection_that_breaks_is_made_again_and_what_comes_then_is_heard() -> None:
    async def story(loud: Loud, relays: Relays, url: str) -> None:
        await begin(relays, a_call(url), loud)
        await loud.hang_up()
        asked = asyncio.create_task(relays.ask(a_call(url)))
        await loud.say(told(1))
        assert ids(await asked) == [told(1).id]

    with_a_relay(story)


def test_a_relay_that_does_not_let_us_listen_is_asked_again() -> None:
    async def story(loud: Loud, relays: Relays, url: str) -> None:
        asked = asyncio.create_task(relays.ask(a_call(url)))
        await loud.say(told(1))
        assert ids(await asked) == [told(1).id]
        assert ["REQ"] * 2 == [each[0] for each in loud.heard if each[0] == "REQ"]

    with_a_relay(story, Loud(refuses=1))


@pytest.mark.parametrize("urls", [(NOBODY,), ("nonsense",), (NOBODY, "ws://127.0.0.1:2")])
def test_where_no_relay_is_listened_to_that_is_told(urls: Sequence[str]) -> None:
    reply = asyncio.run(acarry(a_call(*urls, within=0.2)))
    assert (0, False) == (reply.status, reply.sent)
    assert reply.reason


def test_one_relay_of_several_is_enough_and_what_two_tell_is_heard_once() -> None:
    async def run() -> None:
        first, second = Loud(), Loud()
        async with first.open() as one, second.open() as two, Relays() as relays:
            call = a_call(NOBODY, one, two, within=0.05)
            await begin(relays, call, first, second)
            assert await relays.ask(call) == QUIET
            await first.say(told(1))
            await second.say(told(1), told(2))
            assert ids(await relays.ask(call)) == [told(1).id, told(2).id]
            await first.hang_up()
            await second.say(told(3))
            assert ids(await relays.ask(call)) == [told(3).id]

    asyncio.run(run())


def test_nobody_is_listened_to_any_more_when_the_relays_are_closed() -> None:
    async def run() -> None:
        loud = Loud()
        async with loud.open() as url:
            async with Relays() as relays:
                await begin(relays, a_call(url), loud)
            await asyncio.wait_for(loud.listening[0][0].wait_closed(), 2)
            loud.subscribed.clear()
            await asyncio.sleep(0.3)  # a connection that breaks is made again by then
            assert not loud.subscribed.is_set()

    asyncio.run(run())


def test_those_who_wait_hear_what_comes_meanwhile() -> None:
    async def story(loud: Loud, relays: Relays, url: str) -> None:
        asked = asyncio.create_task(asyncio.to_thread(carry, a_call(url)))
        await loud.say(told(1))
        assert ids(await asked) == [told(1).id]
        with BlockingRelays() as kept:
            assert await asyncio.to_thread(kept.ask, a_call(url, within=1)) == QUIET

    with_a_relay(story)
