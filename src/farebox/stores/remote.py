"""A ledger in another process of this machine, over a unix socket, so that many processes share one file.

A frame is MessagePack: `[number, method, name, arguments]` for a question, `[number, outcome, result]` for its answer.

Rules
1. Whoever can open the socket can do anything to the ledger: it is its owner's alone, in a folder that is too.
2. Many questions are under way on one connection, and are answered as they are done. What is asked in one turn of an
   event loop is sent together, and so is what is answered in one: it reaches the disk with one fsync.
3. When the connection is lost, everything under way ends with StoreUnavailable: nobody can tell whether it was done.
   The next question opens a new connection.
4. Whoever asks remembers the names of claims and captures that ended in doubt: it outlives the process that is asked.
5. Of the errors, StoreUnavailable travels. Any other is a fault of ours: told where it happened, RuntimeError to the
   one who asked, and the connection goes on.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from farebox.core.errors import StoreUnavailable
from farebox.core.ports import Clock, Ledger
from farebox.stores.calls import Call, calls, write
from farebox.stores.engine import utc_now
from farebox.stores.frames import Frames
from farebox.stores.names import Names, capturing, claiming

CALLS: Final = calls(Ledger, without=frozenset({"close"}))
LONGEST_PATH: Final = 100  # bytes; the system takes 107 at most, macOS 103
_NAMED: Final[Mapping[str, Callable[..., bytes]]] = {
    "hold": lambda payment_hash, *, digest, **_: claiming(payment_hash, digest),
    "capture": lambda hold, *_, **__: capturing(hold),
}
_WAITING_TO_BE_TAKEN: Final = 128
_GONE: Final = "The ledger's process went away; whether this was done is not known."
_UNREACHABLE: Final = "The ledger's process can't be reached."


class _Outcome(IntEnum):
    DONE = 0
    UNAVAILABLE = 1
    FAULT = 2


class _Question(msgspec.Struct, array_like=True):
    number: int
    method: str
    name: bytes | None
    arguments: msgspec.Raw


class _Answer(msgspec.Struct, array_like=True):
    number: int
    outcome: _Outcome
    result: msgspec.Raw


_read_question: Final = msgspec.msgpack.Decoder(_Question).decode
_read_answer: Final = msgspec.msgpack.Decoder(_Answer).decode
_read_text: Final = msgspec.msgpack.Decoder(str | None).decode


# --- the process that has the file ------------------------------------------------------------------------------------


def ledger_socket(path: Path) -> socket.socket:
    """A listening unix socket for its owner alone, in a folder that is made so too. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(os.fspath(path))
        path.chmod(0o600)
        bound.listen(_WAITING_TO_BE_TAKEN)
    except OSError:
        bound.close()
        raise
    return bound


class ServedLedger:
    """A ledger that is being served, and who asks it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._asking: set[_Serving] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()

    async def deserted(self) -> None:
        """Returns as soon as nobody is connected."""
        await self._nobody.wait()

    def _connected(self) -> _Serving:
        serving = _Serving(self._ledger, self._left)
        self._asking.add(serving)
        self._nobody.clear()
        return serving

    def _left(self, serving: _Serving) -> None:
        self._asking.discard(serving)
        if not self._asking:
            self._nobody.set()


@asynccontextmanager
async def serve_ledger(ledger: Ledger, bound: socket.socket) -> AsyncIterator[ServedLedger]:
    """Answer whoever connects to this listening socket, which is closed in the end; the ledger is not."""
    served = ServedLedger(ledger)
    server = await asyncio.get_running_loop().create_unix_server(served._connected, sock=bound)
    try:
        yield served
    finally:
        server.close()
        for serving in tuple(served._asking):
            serving.close()
        await served.deserted()


class _Serving(Frames):
    """One process that asks."""

    def __init__(self, ledger: Ledger, left: Callable[[_Serving], None]) -> None:
        super().__init__()
        self._ledger = ledger
        self._left = left
        self._running: set[asyncio.Task[None]] = set()

    def connection_lost(self, exc: Exception | None) -> None:
        for running in self._running:  # what was handed over to the database is done all the same
            running.cancel()
        self._left(self)

    def frame_received(self, frame: bytes) -> None:
        running = self._loop.create_task(self._answer(_read_question(frame)))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _answer(self, question: _Question) -> None:
        outcome, result = _Outcome.DONE, None
        try:
            call = CALLS[question.method]
            asked = call.heard(question.arguments)
            if question.name is not None:
                asked["name"] = question.name
            result = call.answer(await getattr(self._ledger, call.name)(**asked))
        except StoreUnavailable as error:
            outcome, result = _Outcome.UNAVAILABLE, error.detail
        except Exception as error:  # noqa: BLE001 - a fault: told here with all there is, and there by its name
            outcome, result = _Outcome.FAULT, type(error).__name__
            self._loop.call_exception_handler({"message": f"{question.method} failed", "exception": error})
        self.send(write((question.number, outcome, result)))


# --- the processes that ask it ----------------------------------------------------------------------------------------


class RemoteLedger:
    """A ledger at a socket. Its methods are those of core.ports.Ledger, made from there: see `open_remote_ledger`."""

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self._path = path
        self._clock = clock
        self._names = Names()
        self._numbers = itertools.count()
        self._asking: _Asking | None = None
        self._opening = asyncio.Lock()
        self._queued = 0  # for the connection; whoever comes later does not overtake them
        self._closed = False

    def now(self) -> datetime:
        """The clock of this machine, on which the ledger's process is too."""
        return self._clock()

    async def close(self) -> None:
        """Close the connection. The ledger itself stays open, for others."""
        self._closed = True
        async with self._opening:
            if self._asking is not None:
                self._asking.close()
                await self._asking.lost.wait()

    async def _call(self, call: Call, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        named = _NAMED.get(call.name)
        given = cast("bytes | None", kwargs.pop("name", None)) if named else None
        with nullcontext() if named is None else self._names.name(named(*args, **kwargs), given) as name:
            arguments = call.ask(args, kwargs)
            asking = self._asking
            if asking is None or not asking.is_open or self._queued:
                asking = await self._connected()
            return await asking.ask(call, next(self._numbers), name, arguments)

    async def _connected(self) -> _Asking:
        self._queued += 1
        try:
            async with self._opening:
                if self._closed:
                    raise StoreUnavailable("It is closed.")
                if self._asking is None or not self._asking.is_open:
                    self._asking = await self._open()
                return self._asking
        finally:
            self._queued -= 1

    async def _open(self) -> _Asking:
        try:
            _, asking = await asyncio.get_running_loop().create_unix_connection(_Asking, os.fspath(self._path))
        except OSError:
            raise StoreUnavailable(_UNREACHABLE) from None
        return asking


class _Asking(Frames):
    """A connection to the ledger's process, and what is under way on it."""

    def __init__(self) -> None:
        super().__init__()
        self._under_way: dict[int, tuple[Call, asyncio.Future[object]]] = {}
        self.lost = asyncio.Event()

    async def ask(self, call: Call, number: int, name: bytes | None, arguments: msgspec.Struct) -> object:
        if not self.is_open:
            raise StoreUnavailable(_UNREACHABLE)
        answered: asyncio.Future[object] = self._loop.create_future()
        self._under_way[number] = call, answered
        self.send(write((number, call.name, name, arguments)))
        try:
            return await answered
        finally:
            self._under_way.pop(number, None)

    def frame_received(self, frame: bytes) -> None:
        answer = _read_answer(frame)
        call, answered = self._under_way.get(answer.number, (None, None))
        if call is None or answered is None or answered.done():  # nobody waits for it any more
            return
        match answer.outcome:
            case _Outcome.DONE:
                answered.set_result(call.answered(answer.result))
            case _Outcome.UNAVAILABLE:
                answered.set_exception(StoreUnavailable(_read_text(answer.result)))
            case _Outcome.FAULT:
                answered.set_exception(RuntimeError(f"the ledger's process failed: {_read_text(answer.result)}"))

    def connection_lost(self, exc: Exception | None) -> None:
        for _, answered in self._under_way.values():
            if not answered.done():
                answered.set_exception(StoreUnavailable(_GONE))
        self.lost.set()


def _asks(call: Call) -> Callable[..., Coroutine[Any, Any, object]]:
    async def method(self: RemoteLedger, *args: object, **kwargs: object) -> object:
        return await self._call(call, args, kwargs)

    method.__name__ = method.__qualname__ = call.name
    return method


for _call in CALLS.values():
    setattr(RemoteLedger, _call.name, _asks(_call))


def open_remote_ledger(path: Path, clock: Clock = utc_now) -> Ledger:
    """The ledger that is served at a socket, opened when it is first asked. Raises nothing: it may come up later."""
    return cast(Ledger, RemoteLedger(path, clock))  # its methods are those of the port
