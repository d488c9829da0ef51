"""A child process, as its supervisor sees it, and the post that it fills.

Rules
1. A post is filled again when its child dies, until it is given up: at once, and ever later when children die soon.
2. Why the first child can't begin is told to whoever waits for the post, which is then empty for good. Later it is
   tried again and again: what was broken meanwhile may be mended.
3. A child outlives nobody: its socket closes with its supervisor, however that ends.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

import farebox
from farebox.cli.orders import Line, Orders, Ready, Refused, Word
from farebox.core.errors import FareboxError, OperatorError

log = structlog.get_logger("farebox")

MOST_FAILURES: Final = 5  # in a row, of children that were never ready
_SETTLED: Final = timedelta(seconds=10)  # one that lived for so long did not die of beginning
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_READY_WITHIN: Final = timedelta(seconds=60)
_ENDS_WITHIN: Final = timedelta(seconds=1)  # of closing its line


class Child:
    """A process that was given orders."""

    def __init__(self, process: asyncio.subprocess.Process, line: Line) -> None:
        self._process = process
        self._line = line
        self.pid = process.pid

    @classmethod
    async def start(cls, orders: Orders, *, lent: Collection[socket.socket], environ: Mapping[str, str]) -> Child:
        """Start one. lent: sockets whose descriptors are in its orders. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *_command(orders),
                stdin=theirs.fileno(),
                pass_fds=tuple(each.fileno() for each in lent),
                env=dict(environ),
            )
        line = await Line.over(ours)
        line.say(orders)
        return cls(process, line)

    async def ready(self) -> Ready | None:
        """Returns when it does what it is for; None when it died first. Raises what it said that it refuses."""
        said = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_WITHIN.total_seconds()):
                said = await self._line.hear_said()
        if isinstance(said, Ready):
            return said
        with suppress(TimeoutError):  # whoever is killed while it ends can't say how it ended
            async with asyncio.timeout(_ENDS_WITHIN.total_seconds()):
                await self._process.wait()
        self.kill()
        await self.ended()
        if isinstance(said, Refused):
            raise said.error()
        return None

    def say(self, word: Word) -> None:
        """Tell it something."""
        self._line.say(word)

    def kill(self) -> None:
        """`kill -9`."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> str:
        """Returns when it has ended: how."""
        code = await self._process.wait()
        await self._line.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _command(orders: Orders) -> list[str]:
    # -P keeps the folder that we happen to be in off the path, unless this very farebox lies there.
    package = Path(farebox.__file__).parent
    here = bool(sys.path[0]) and package.parent == Path(sys.path[0]) and not sys.flags.safe_path
    return [sys.executable, *([] if here else ["-P"]), "-m", "farebox.cli.worker", orders.name]  # the last for `ps`


class Post:
    """A place in the shop, and the child that fills it.

    first: what the first child said when it was ready, or why there is none. task: runs until the post is given up.
    """

    def __init__(
        self,
        orders: Orders,
        *,
        lent: Collection[socket.socket],
        environ: Mapping[str, str],
        ended: Callable[[int], None],
        despair: Callable[[Post, str], None],
    ) -> None:
        """ended: told the pid of each child that has ended. despair: told when, and why, it can't be filled."""
        self.orders = orders
        self._lent = lent
        self._environ = environ
        self._ended = ended
        self._despair = despair
        self._given_up = asyncio.Event()
        self._child: Child | None = None
        self.is_filled = False
        self.first: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self.first.add_done_callback(lambda first: first.cancelled() or first.exception())  # it is told all the same
        self.task = asyncio.create_task(self._fill())

    def give_up(self, word: Word) -> None:
        """Fill it no more; whoever fills it now is told this word."""
        self._given_up.set()
        if self.is_filled:
            self.say(word)
        else:
            self.kill()  # it has nothing to finish

    def say(self, word: Word) -> None:
        """Tell something to whoever fills it."""
        if self._child is not None:
            self._child.say(word)

    def kill(self) -> None:
        """`kill -9` for whoever fills it."""
        if self._child is not None:
            self._child.kill()

    async def _fill(self) -> None:
        unready = soon = 0
        while not self._given_up.is_set():
            began_s = asyncio.get_running_loop().time()
            how, was_ready = await self._fill_once()
            if self._given_up.is_set() or (self.first.done() and self.first.exception() is not None):
                break
            lived_s = asyncio.get_running_loop().time() - began_s
            log.warning("died", which=self.orders.name, how=how, lived_s=round(lived_s, 1))
            unready = 0 if was_ready else unready + 1
            soon = 0 if lived_s > _SETTLED.total_seconds() else soon + 1
            if unready >= MOST_FAILURES:
                why = f"{self.orders.name} died {unready} times before it was ready ({how})"
                if not self.first.done():
                    self.first.set_exception(OperatorError(f"{why}; what it said stands above"))
                    break
                self._despair(self, why)
            with suppress(TimeoutError):
                async with asyncio.timeout(_pause_s(soon)):
                    await self._given_up.wait()
        self.first.cancel()

    async def _fill_once(self) -> tuple[str, bool]:
        """How it ended, and whether it was ready before."""
        try:
            child = await Child.start(self.orders, lent=self._lent, environ=self._environ)
        except OSError as error:
            return f"{error.strerror} when it was started", False
        self._child = child
        if self._given_up.is_set():
            child.kill()
        try:
            ready = await child.ready()
        except FareboxError as refused:
            ready = None
            if self.first.done():
                log.error("refused", which=self.orders.name, reason=str(refused))
            else:
                self.first.set_exception(refused)
        if ready is not None:
            self.is_filled = True
            if self.first.done():
                log.warning("replaced", which=self.orders.name)
            else:
                self.first.set_result(ready)
        how = await child.ended()
        self.is_filled = False
        self._ended(child.pid)
        return how, ready is not None


def _pause_s(soon: int) -> float:
    """Before the next child, after so many in a row that died soon."""
    return min(_FIRST_PAUSE_S * 2 ** min(soon - 2, 10), _LONGEST_PAUSE_S) if soon > 1 else 0.0
