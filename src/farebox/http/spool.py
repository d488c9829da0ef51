"""Spool: the copy of an answer while it flows, from which its caller is served, and so that it can be given again.

Rules
1. A copy is in memory up to a quarter of a MiB. What goes beyond is in a file without a name, which only this process
   can open and which is gone when it is closed, also by a crash.
2. A copy that grows beyond what is kept is no longer whole. It has the last of it then, in a file that is written round
   and round, and its caller has to have been given what is written over. The answer flows on.
3. So it does when the disk refuses: what is in the file by then can still be read, and the rest stays in memory.
4. Only a few copies are back in memory at the same time, for the moment in which they are stored.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, Final

import structlog

log = structlog.get_logger("farebox")

_MOST_IN_MEMORY: Final = 256 * 1024
_MOST_READ_BACK: Final = 4


class Spools:
    """Where the copies of one paywall are.

    folder: for those that are not in memory; None for the system's temporary one. most: bytes of a copy that is kept.
    """

    def __init__(self, folder: str | None, *, most: int) -> None:
        self.folder = folder
        self.most = most
        self.reading = asyncio.Semaphore(_MOST_READ_BACK)

    def open(self) -> Spool:
        """An empty copy; close it."""
        return Spool(self)


class Spool:
    """The copy of one answer. whole: whether all that was added is still there. size: bytes that were added.

    One at a time adds and spills; another one may read meanwhile.
    """

    def __init__(self, spools: Spools) -> None:
        self.whole = True
        self.size = 0
        self._spools = spools
        self._most_in_memory = min(_MOST_IN_MEMORY, spools.most)
        self._in_file = 0
        self._in_memory = bytearray()  # what comes after that
        self._file: IO[bytes] | None = None
        self._refused = self._unreadable = self._closed = False
        self._turn = threading.Lock()

    def add(self, chunk: bytes) -> None:
        """A further piece."""
        self.size += len(chunk)
        self._in_memory += chunk
        if self.size > self._spools.most:
            self.whole = False

    def is_full(self) -> bool:
        """Whether more is in memory than should be."""
        return len(self._in_memory) > self._most_in_memory

    def makes_room(self) -> int | None:
        """Up to where it has to have been read before what is in memory can be spilled; None when it can't be."""
        if self._refused or len(self._in_memory) > self._spools.most:
            return None
        return max(0, self.size - self._spools.most)

    async def spill(self) -> None:
        """Put what is in memory into the file, over what was there before, as `makes_room` tells."""
        piece = bytes(self._in_memory)
        try:
            await asyncio.to_thread(self._write, self._in_file, piece)
        except OSError as error:
            self._tell(error)
            self._refused = True
            return
        self._in_file += len(piece)
        del self._in_memory[: len(piece)]

    async def read_at(self, at: int, most: int) -> bytes | None:
        """Some of what comes at this place, `most` bytes of it or fewer; None when it can't be read."""
        if at >= self._in_file:
            begin = at - self._in_file
            return bytes(memoryview(self._in_memory)[begin : begin + min(most, _MOST_IN_MEMORY)])
        try:
            return await asyncio.to_thread(self._read, at, min(most, _MOST_IN_MEMORY, self._in_file - at))
        except OSError as error:
            self._tell(error)
            self._unreadable = True
            return None

    def has(self, at: int) -> bool:
        """Whether what comes at this place and behind it is there, as far as can be told."""
        return at >= self._in_file or not self._unreadable

    def forget(self, before: int) -> None:
        """Of a copy that is no longer whole, what comes before this place is not needed in memory any more."""
        if not self.whole and before > self._in_file:
            del self._in_memory[: before - self._in_file]
            self._in_file = before

    @asynccontextmanager
    async def read(self) -> AsyncIterator[bytes | None]:
        """All of it, for as long as it is needed; None when it is no longer whole, or can't be read."""
        if self.whole and self._in_file:
            async with self._spools.reading:
                try:
                    body = await asyncio.to_thread(self._read, 0, self._in_file) + self._in_memory
                except OSError as error:
                    self._tell(error)
                    self._unreadable = True
                else:
                    yield body
                    return
        yield bytes(self._in_memory) if self.whole else None

    def close(self) -> None:
        """Forget it."""
        self._closed = True
        self._in_memory.clear()
        self._close_file()

    def _tell(self, error: OSError) -> None:
        log.error("spool-failed", bytes=self.size, reason=error.strerror)
        self.whole = False

    def _close_file(self) -> None:
        """Close it, unless it is being written or read just now: then whoever does that closes it afterwards."""
        if self._closed and self._turn.acquire(blocking=False):
            file, self._file = self._file, None
            self._turn.release()
            if file is not None:
                file.close()

    def _write(self, at: int, piece: bytes) -> None:
        with self._turn:
            if self._closed:  # whoever waited for this was cancelled
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._spools.folder, buffering=0)  # noqa: SIM115 - close() closes
            view = memoryview(piece)
            while view:
                place, most = self._place(at)
                written = os.pwrite(self._file.fileno(), view[:most], place)
                at, view = at + written, view[written:]
        self._close_file()

    def _read(self, at: int, size: int) -> bytes:
        read = bytearray()
        with self._turn:
            while len(read) < size:
                place, most = self._place(at + len(read))
                if self._file is None or not (
                    piece := os.pread(self._file.fileno(), min(most, size - len(read)), place)
                ):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                read += piece
        self._close_file()
        return bytes(read)

    def _place(self, at: int) -> tuple[int, int]:
        """Where in the file this is, and how many bytes come there before it goes round."""
        place = at % self._spools.most
        return place, self._spools.most - place
