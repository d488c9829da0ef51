"""A shop's credential can be paid, and can't pay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
import structlog

from farebox.cli.credential import ask_again, check_credentials
from farebox.core.bolt11 import Network
from farebox.core.errors import ConfigError
from farebox.core.ports import Conversation, HttpCall
from farebox.http.selling import Gate, open_gate
from farebox.lightning.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@dataclass
class Node:
    """A receiver that says, one after another, whether it could pay."""

    sayings: list[bool | None]
    name: str = "the node"
    network: Network | None = None
    narrow: str = "use the other password"
    asked: int = field(default=0)

    def spends(self) -> Conversation[bool | None]:
        self.asked += 1
        return self.sayings.pop(0)
        yield HttpCall(method="GET", url="")  # a conversation without a word is still one


@asynccontextmanager
async def opened(receiver: object) -> AsyncIterator[Gate]:
    gate = open_gate(receiver=receiver)  # type: ignore[arg-type]  # no invoice is made here
    try:
        yield gate
    finally:
        await gate.close()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    opened = Sandbox.open(None)
    yield opened
    opened.close()


async def test_a_credential_that_can_spend_is_refused_with_what_to_do() -> None:
    async with opened(Node([True])) as gate:
        with pytest.raises(ConfigError) as refused:
            await check_credentials(gate)
    assert "use the other password" in str(refused.value)
    assert "--allow-spending-key" in str(refused.value)


async def test_a_credential_that_can_not_spend_is_good() -> None:
    async with opened(Node([False])) as gate:
        assert [] == await check_credentials(gate)


async def test_the_credential_of_a_node_that_only_stands_in_must_not_spend_either() -> None:
    async with opened([Node([False]), Node([True], name="the other node")]) as gate:
        with pytest.raises(ConfigError, match="the other node can spend"):
            await check_credentials(gate)


async def test_of_several_nodes_those_that_do_not_answer_are_asked_again() -> None:
    silent = [Node([None], name=name) for name in ("the second", "the third")]
    async with opened([Node([False]), *silent]) as gate:
        assert silent == await check_credentials(gate)


async def test_the_sandbox_is_not_asked(sandbox: Sandbox) -> None:
    async with opened(sandbox.seller) as gate:
        assert [] == await check_credentials(gate)


async def test_a_node_that_does_not_answer_is_warned_of_and_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    node = Node([None, None, True])
    async with opened(node) as gate:
        (silent,) = await check_credentials(gate)
        with structlog.testing.capture_logs() as told:
            await ask_again(gate, silent, after=timedelta(0))
    assert "the node does not say" in capsys.readouterr().err
    assert [("credential-can-spend", "error")] == [(line["event"], line["log_level"]) for line in told]
    assert node.asked == 3


async def test_nothing_is_told_when_it_can_not_spend_after_all() -> None:
    node = Node([None, False])
    async with opened(node) as gate:
        (silent,) = await check_credentials(gate)
        with structlog.testing.capture_logs() as told:
            await ask_again(gate, silent, after=timedelta(0))
    assert ([], 2) == (told, node.asked)
