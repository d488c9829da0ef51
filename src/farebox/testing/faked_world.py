"""A world for the backend suites around an adapter and a fake of its API, which stands in front of the sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final, TypeVar

from farebox.core.conversation import HttpCall, HttpReply
from farebox.core.ports import Conversation, Receiver, Wallet
from farebox.lightning.sandbox import Sandbox
from farebox.testing.sandbox_world import SandboxWorld

T = TypeVar("T")

Fake = Callable[[HttpCall], HttpReply]
Change = Callable[[int, HttpReply], HttpReply]  # of the first reply of a conversation, which is 0, and so on
NO_CONNECTION: Final = HttpReply(status=0, sent=False, reason="ConnectError")


@dataclass
class HandClock:
    """A clock that moves when it is told to."""

    now: datetime = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """What time it is."""
        return self.now

    def forward(self, span: timedelta) -> None:
        """Move on."""
        self.now += span


class FakedWorld(SandboxWorld):
    """A StreamWorld and a WalletWorld: what the adapter asks is answered by a fake, without a socket.

    fake: gives the reply to a call. It asks the sandbox's seller for the receiver's key, its buyer for the wallet's.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        forward: Callable[[timedelta], None],
        fake: Fake,
        *,
        receiver: Receiver,
        wallet: Wallet,
    ) -> None:
        super().__init__(sandbox, forward)
        self.receiver = receiver
        self.wallet = wallet
        self._fake = fake
        self._change: Change | None = None

    def ask(self, conversation: Conversation[T]) -> T:
        """Carry a conversation to its end."""
        try:
            call = next(conversation)
            for number in count():
                assert isinstance(call, HttpCall), "a fake is asked over HTTP"
                reply = self._fake(call)
                call = conversation.send(reply if self._change is None else self._change(number, reply))
        except StopIteration as end:
            outcome: T = end.value
            return outcome
        raise AssertionError("a conversation has an end")

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        """While this lasts the fake is not even asked."""
        fake, self._fake = self._fake, lambda _: NO_CONNECTION
        yield
        self._fake = fake

    @contextmanager
    def changed(self, change: Change) -> Iterator[None]:
        """While this lasts the fake does what it is asked, and what comes back is something else."""
        self._change = change
        yield
        self._change = None
