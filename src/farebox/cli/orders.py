"""What a supervisor and its children say to each other: lines of JSON over a socket that is the child's standard input.

Rules
1. No secret is on a command line or in the environment of a child: it comes over this socket.
2. The child reads the configuration itself, because it may be newer than its supervisor. So may these words: whoever
   adds a field gives it a default, and what is not known is left out.
3. When the socket is closed, the other one is gone.
"""

from __future__ import annotations

import asyncio
import socket
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from farebox.cli.config import Source
from farebox.core.errors import ConfigError, FareboxError, OperatorError, StoreUnavailable, WalletError

_MOST: Final = 2**24  # bytes of a line
_KINDS: Final = {kind("").type: kind for kind in (ConfigError, WalletError, StoreUnavailable)}


class Role(StrEnum):
    """What a child is for."""

    KEEPER = "keeper"  # of what there is one of: the ledger's file, the sandbox, the upkeep
    WORKER = "worker"  # answers calls


class Word(StrEnum):
    """What a child is told while it runs."""

    LEAVE = "leave"  # another one takes over: end when nobody needs you any more
    STOP = "stop"  # all of us end: finish what is under way
    END = "end"  # at once


class Fixed(msgspec.Struct, frozen=True, kw_only=True):
    """What can't change while a shop is open: payments are under way in one ledger, at one address."""

    listen: str
    store: str
    sandbox: bool


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The first line to a child.

    sockets: descriptors that it is given, to listen on. ledger: the path of the socket where the ledger is asked, None
    where each opens its own. seller: the URL by which the sandbox is paid; it holds a password.
    """

    role: Role
    number: int
    file: str | None
    flags: dict[str, Any]  # as Source.flags
    folder: str
    log_level: str
    sandbox_allowed: bool
    sockets: tuple[int, ...] = ()
    ledger: str | None = None
    seller: str | None = None
    fixed: Fixed | None = None

    @property
    def name(self) -> str:
        """`worker 2`."""
        return f"{self.role} {self.number}" if self.role is Role.WORKER else self.role

    @property
    def source(self) -> Source:
        """Where the configuration is."""
        return Source(file=None if self.file is None else Path(self.file), flags=self.flags)


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The child does what it is for.

    version: of farebox, as the child is. workers: how many are wanted. serves_ledger: whether workers find the ledger
    at its socket.
    """

    version: str = ""
    workers: int = 1
    serves_ledger: bool = False


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The child can't do what it is for, and ends. kind: the type of the error."""

    kind: str
    detail: str | None = None

    def error(self) -> FareboxError:
        """The error, as it was."""
        return _KINDS.get(self.kind, OperatorError)(self.detail)


Said = Ready | Refused
_read_said: Final = msgspec.json.Decoder(Ready | Refused).decode
_read_orders: Final = msgspec.json.Decoder(Orders).decode


def read_orders(control: socket.socket) -> Orders:
    """Wait for the first line, and leave the rest to be read. Raises OperatorError when there is none."""
    with control.makefile("rb", buffering=0) as unbuffered:
        line = unbuffered.readline()
    if not line:
        raise OperatorError("this is started by `farebox serve --workers`")
    return _read_orders(line)


class Line:
    """One end of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, control: socket.socket) -> Line:
        """Speak over a connected socket."""
        return cls(*await asyncio.open_unix_connection(sock=control, limit=_MOST))

    def say(self, message: Orders | Said | Word) -> None:
        """Send a line; nothing where the other one is gone."""
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")

    async def hear_said(self) -> Said | None:
        """What the child says; None when it is gone."""
        line = await self._line()
        return _read_said(line) if line else None

    async def hear_word(self) -> Word | None:
        """What the child is told; None when its supervisor is gone."""
        line = await self._line()
        return msgspec.json.decode(line, type=Word) if line else None

    async def close(self) -> None:
        """Say no more."""
        self._writer.close()

    async def _line(self) -> bytes:
        try:
            return await self._reader.readline()
        except ConnectionError:
            return b""
