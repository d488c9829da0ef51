from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from farebox.core.conversation import HttpReply
from farebox.nostr import Event, RelayCall, read_event, relay, sign_event
from farebox.nostr.call import acarry, carry
from farebox.nostr.keys import public_key
from farebox.nostr.link import MOST_MESSAGE_BYTES
from farebox.nostr.relay import BlockingRelays, Relays

pytestmark = pytest.mark.system

ASKER, ANSWERER, STRANGER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
NOW = datetime(2026, 11, 21, tzinfo=UTC)
NOBODY = "ws://127.0.0.1:1"
QUESTION = sign_event(ASKER, kind=23194, content="?", created_at=NOW)

Answers = Callable[[str], Sequence[Any]]


def answer(key: bytes = ANSWERER, kind: int = 23195, answers: str = QUESTION.id, content: str = "!") -> Event:
    return sign_event(key, kind=kind, content=content, tags=[["e", answers]], created_at=NOW)


def said(*events: Event) -> Answers:
    return lambda name: [["EVENT", name, event.as_json()] for event in events]


ANSWERED = said(answer())


@dataclass
class SmallRelay:
    """A relay that does what it is told. answers: what it says to the one subscription when something was published.

    again: what it says to a subscription after the connection broke. breaks: whether it closes after publishing.
    """

    answers: Answers = ANSWERED
    took: bool = True
    why: str = ""
    says_when_ready: bool = True
    closed: bool = False
    kept: Sequence[Event] = ()
    breaks: bool = False
    again: Answers | None = None
    heard: list[Any] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        async with serve(self._talk, "127.0.0.1", 0, close_timeout=0.2) as server:
            self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self.url

    async def _talk(self, socket: ServerConnection) -> None:
        self.connections += 1
        names = []
        async for message in socket:
            told = json.loads(message)
            self.heard.append(told)
            match told:
                case ["REQ", name, _]:
                    names.append(name)
                    says: list[Any] = [["EVENT", name, event.as_json()] for event in self.kept]
                    says += [["EOSE", name]] if self.says_when_ready else []
                    says = [["CLOSED", name, "restricted: no"]] if self.closed else says
                    if self.again is not None and self.connections > 1:
                        says += self.again(name)
                    await self._say(socket, says)
                case ["EVENT", event]:
                    await self._say(socket, [["OK", event["id"], self.took, self.why]])
                    for name in names:
                        await self._say(socket, self.answers(name))
                    if self.breaks:
                        await socket.close()

    async def _say(self, socket: ServerConnection, messages: Sequence[Any]) -> None:
        for message in messages:
            await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))

    def asked(self, what: str) -> int:
        return [each[0] for each in self.heard].count(what)


def a_call(*urls: str, timeout: float = 5, event: Event | None = QUESTION) -> RelayCall:
    return RelayCall(
        relays=urls,
        author=public_key(ANSWERER).hex(),
        kinds=(23195,) if event else (13194,),
        event=None if event is None else event.write(),
        answers=None if event is None else event.id,
        timeout=timedelta(seconds=timeout),
    )


def ask(*relays: SmallRelay, timeout: float = 5, event: Event | None = QUESTION, more: Sequence[str] = ()) -> HttpReply:
    """The reply to one call over these relays, and over URLs besides."""

    async def asked() -> HttpReply:
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(each.open()) for each in relays]
            return await acarry(a_call(*more, *urls, timeout=timeout, event=event))

    return asyncio.run(asked())


def test_the_answer_is_the_verified_event() -> None:
    reply = ask(SmallRelay())
    assert reply.status == 200
    assert answer().id == getattr(read_event(reply.body), "id", None)


def test_a_relay_is_listened_to_before_anything_is_published() -> None:
    small = SmallRelay()
    ask(small)
    first, second = small.heard[:2]
    assert ["REQ", "EVENT"] == [first[0], second[0]]
    assert {"kinds": [23195], "authors": [public_key(ANSWERER).hex()], "#e": [QUESTION.id]} == first[2]


FORGED: dict[str, Any] = {
    "of another author": answer(key=STRANGER).as_json(),
    "of another kind": answer(kind=23196).as_json(),
    "to another request": answer(answers="00" * 32).as_json(),
    "changed": {**answer().as_json(), "content": "pay me"},
    "with the author changed": {**answer(key=STRANGER).as_json(), "pubkey": public_key(ANSWERER).hex()},
    "signed by another": replace(answer(), signature=answer(key=STRANGER).signature).as_json(),
    "no event": {"id": 1},
    "no object": [1],
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_an_event_that_is_no_answer_is_passed_over(forged: Any) -> None:
    assert HttpReply(status=0, sent=True, reason="Timeout") == ask(
        SmallRelay(answers=lambda name: [["EVENT", name, forged]]), timeout=0.3
    )
    both: Answers = lambda name: [["EVENT", name, forged], *said(answer())(name)]  # noqa: E731
    assert ask(SmallRelay(answers=both)).status == 200


def test_whatever_else_a_relay_says_is_passed_over() -> None:
    nonsense = ["", "[", b"\xff", "[" * 50_000, {}, [], [1], ["EVENT"], ["EVENT", "x", {}], ["OK"], ["OK", 1, 2, 3]]
    nonsense += [["EOSE"], ["EOSE", {}], ["CLOSED"], ["CLOSED", "x"], ["NOTICE", "hello"], ["AUTH", "x"], "é", "null"]
    assert ask(SmallRelay(answers=lambda name: [*nonsense, *said(answer())(name)])).status == 200


# what was sent, and what was not


def test_what_no_relay_can_be_reached_for_was_not_sent() -> None:
    assert HttpReply(status=0, sent=False, reason="connection refused") == ask(more=[NOBODY])
    assert not ask(more=["ws://", "nonsense", "http://127.0.0.1:1"]).sent


@pytest.mark.parametrize(
    ("why", "sent"),
    [
        ("blocked: no", False),
        ("rate-limited: slow down", False),
        ("auth-required: who are you", False),
        ("", False),
        ("error: the disk is full", True),
    ],
)
def test_what_every_relay_refused_was_not_sent(why: str, sent: bool) -> None:
    reply = ask(
        SmallRelay(took=False, why=why, answers=said()), SmallRelay(took=False, why="invalid: x", answers=said())
    )
    assert (0, sent) == (reply.status, reply.sent)
    assert "refused" in reply.reason


def test_what_one_relay_took_was_sent() -> None:
    refuses, silent = SmallRelay(took=False, why="blocked:", answers=said()), SmallRelay(answers=said())
    reply = ask(refuses, silent, timeout=0.3, more=[NOBODY])
    assert (0, True) == (reply.status, reply.sent)


def test_what_a_relay_has_already_is_taken() -> None:
    assert ask(SmallRelay(took=False, why="duplicate: have it")).status == 200


def test_where_we_may_not_listen_nothing_is_published() -> None:
    small = SmallRelay(closed=True)
    assert not ask(small).sent
    assert not small.asked("EVENT")


def test_a_relay_that_never_says_that_it_listens_is_used_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_LISTENING_WITHIN_S", 0.05)
    assert ask(SmallRelay(says_when_ready=False)).status == 200


# several relays, and trouble


def test_the_first_of_several_relays_that_answers_is_enough() -> None:
    silent, answers = SmallRelay(answers=said()), SmallRelay()
    assert ask(silent, answers, more=[NOBODY]).status == 200
    assert answers.asked("EVENT") == 1


def test_a_connection_that_breaks_is_made_again_and_nothing_is_published_twice() -> None:
    small = SmallRelay(answers=said(), breaks=True, again=said(answer()))
    assert ask(small).status == 200
    assert small.connections == 2
    assert small.asked("EVENT") == 1


def test_a_message_without_end_breaks_the_connection_and_no_more() -> None:
    small = SmallRelay(answers=lambda name: ["x" * (MOST_MESSAGE_BYTES + 1)], again=said(answer()))
    assert ask(small).status == 200
    assert small.connections == 2


def run(story: Callable[[Relays, SmallRelay], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        small = SmallRelay()
        async with small.open(), Relays() as relays:
            await story(relays, small)

    asyncio.run(told())


def test_a_connection_is_kept_for_the_next_call_and_shared_by_those_at_once() -> None:
    async def story(relays: Relays, small: SmallRelay) -> None:
        assert (await relays.ask(a_call(small.url))).status == 200
        replies = await asyncio.gather(*[relays.ask(a_call(small.url)) for _ in range(8)])
        assert [200] * 8 == [reply.status for reply in replies]
        assert small.connections == 1

    run(story)


def test_a_connection_that_broke_between_two_calls_is_made_again() -> None:
    async def story(relays: Relays, small: SmallRelay) -> None:
        small.breaks = True
        for number in (1, 2, 3):
            assert (await relays.ask(a_call(small.url))).status == 200
            await asyncio.sleep(0.05)
            assert number == small.connections

    run(story)


def test_a_call_that_is_cancelled_goes_up_and_leaves_nothing_behind() -> None:
    async def story(relays: Relays, small: SmallRelay) -> None:
        small.answers = said()
        asked = asyncio.create_task(relays.ask(a_call(small.url)))
        await asyncio.sleep(0.1)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.sleep(0.05)
        assert small.asked("CLOSE") == 1

    run(story)


# what relays keep


def info(at: int, key: bytes = ANSWERER) -> Event:
    return sign_event(key, kind=13194, content=str(at), created_at=NOW + timedelta(seconds=at))


def test_of_what_relays_keep_the_newest_is_read() -> None:
    first, second = SmallRelay(kept=[info(1), info(9, key=STRANGER)]), SmallRelay(kept=[info(2)])
    reply = ask(first, second, event=None)
    assert "2" == getattr(read_event(reply.body), "content", None)
    assert not first.asked("EVENT")


def test_what_no_relay_keeps_is_not_there_and_that_is_no_silence() -> None:
    assert HttpReply(status=404) == ask(SmallRelay(), event=None, more=[NOBODY])
    assert HttpReply(status=0, sent=False, reason="connection refused") == ask(event=None, more=[NOBODY])
    assert ask(SmallRelay(says_when_ready=False), event=None, timeout=0.2).status == 0


def test_a_relay_that_hangs_does_not_keep_what_another_has() -> None:
    begun = time.monotonic()
    assert ask(SmallRelay(says_when_ready=False), SmallRelay(kept=[info(1)]), event=None).status == 200
    assert time.monotonic() - begun < 3


# those who wait


def test_those_who_wait_get_the_same_also_inside_a_running_loop_and_at_once() -> None:
    async def told() -> None:
        small = SmallRelay()
        async with small.open() as url:
            assert (await asyncio.to_thread(carry, a_call(url))).status == 200
            with BlockingRelays() as relays:
                calls = [asyncio.to_thread(carry, a_call(url), relays) for _ in range(4)]
                assert [200] * 4 == [reply.status for reply in await asyncio.gather(*calls)]
                assert small.connections == 2

    asyncio.run(told())

    async def inside() -> HttpReply:
        return carry(a_call(NOBODY))

    assert not asyncio.run(inside()).sent


def test_relays_that_were_closed_may_be_asked_again() -> None:
    relays = BlockingRelays()
    for _ in range(2):
        assert not relays.ask(a_call(NOBODY)).sent
        relays.close()
    relays.close()


def test_a_call_prints_neither_its_relays_nor_its_event() -> None:
    shown = repr(a_call("wss://relay.test/token"))
    assert "token" not in shown
    assert QUESTION.content not in shown.replace("answers", "")
