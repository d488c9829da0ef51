"""What a supervisor and its children say to each other."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

from farebox.cli.config import Source
from farebox.cli.orders import Fixed, Line, Orders, Ready, Refused, Role, Word, read_orders
from farebox.core.errors import ConfigError, OperatorError

ORDERS = Orders(
    role=Role.WORKER,
    number=2,
    file="/etc/farebox.toml",
    flags={"listen": "127.0.0.1:1", "route": [{"path": "/x", "price": "21 sat"}]},
    folder="/var/lib/farebox",
    log_level="info",
    sandbox_allowed=False,
    sockets=(5, 6),
    ledger="/run/ledger.sock",
    seller="phoenixd+http://:secret@127.0.0.1:9740",
    fixed=Fixed(listen="127.0.0.1:1", store="sqlite:////x.db", sandbox=True),
)


def test_orders_arrive_as_they_were_given_and_what_follows_is_left_to_be_read() -> None:
    async def story() -> None:
        ours, theirs = socket.socketpair()
        supervisor = await Line.over(ours)
        supervisor.say(ORDERS)
        supervisor.say(Word.LEAVE)
        assert ORDERS == await asyncio.to_thread(read_orders, theirs)
        child = await Line.over(theirs)
        assert Word.LEAVE is await child.hear_word()
        for said in (Ready(version="1", workers=3, serves_ledger=True), Refused(kind="config-error", detail="no")):
            child.say(said)
            assert said == await supervisor.hear_said()
        await supervisor.close()
        assert await child.hear_word() is None
        child.say(Ready())  # into the void
        await child.close()

    asyncio.run(story())


def test_orders_name_their_child_and_where_the_configuration_is() -> None:
    assert "worker 2" == ORDERS.name
    assert "keeper" == msgspec.structs.replace(ORDERS, role=Role.KEEPER).name
    assert Source(file=Path("/etc/farebox.toml"), flags=ORDERS.flags) == ORDERS.source


def test_words_of_another_version_are_understood_as_far_as_they_are_known() -> None:
    newer = {**msgspec.to_builtins(ORDERS), "weather": "fine"}
    assert ORDERS == msgspec.json.decode(msgspec.json.encode(newer), type=Orders)
    older = {"type": "ready"}
    assert Ready() == msgspec.json.decode(msgspec.json.encode(older), type=Ready)


def test_a_refusal_is_the_error_that_it_was() -> None:
    error = Refused(kind="config-error", detail="there is no key").error()
    assert (ConfigError, "there is no key") == (type(error), error.detail)
    assert OperatorError is type(Refused(kind="of-a-newer-kind", detail="?").error())


def test_a_child_that_nobody_ordered_says_so() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(OperatorError, match="--workers"):
        read_orders(theirs)
