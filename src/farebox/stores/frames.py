"""Frames: messages over a stream of bytes, each a length of four bytes and that many more."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Final, cast

_LENGTH_BYTES: Final = 4


class Frames(asyncio.Protocol, ABC):
    """One end of a connection: whole frames come in, and what goes out in one turn of the loop goes together."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._coming = bytearray()
        self._going: list[bytes] = []

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        coming = self._coming
        coming += data
        begin = 0
        while len(coming) - begin >= _LENGTH_BYTES:
            end = begin + _LENGTH_BYTES + int.from_bytes(coming[begin : begin + _LENGTH_BYTES], "big")
            if len(coming) < end:
                break
            self.frame_received(bytes(coming[begin + _LENGTH_BYTES : end]))
            begin = end
        del coming[:begin]

    @abstractmethod
    def frame_received(self, frame: bytes) -> None:
        """A frame came."""

    def send(self, frame: bytes) -> None:
        """Send a frame at the end of this turn of the loop; nothing where nobody is there to take it."""
        if not self._going:
            self._loop.call_soon(self._flush)
        self._going += (len(frame).to_bytes(_LENGTH_BYTES, "big"), frame)

    def close(self) -> None:
        """Send what is to be sent, and close the connection."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def _flush(self) -> None:
        if self._going and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._going))
        self._going.clear()
