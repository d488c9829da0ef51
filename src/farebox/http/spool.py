"""Spool: the copy of an answer while it flows, from which its caller is served, and so that it can be given again.

Rules
1. A copy is in memory up to a quarter of a MiB. What goes beyond is in a file without a name, which only this process
   can open and which is gone when it is closed, also by a crash.
2. A copy that grows beyond what is kept, or that the disk refuses, is no longer whole: from then on it has only what
   its caller was not given yet. The answer flows on.
3. Only a few copies are back in memory at the same time, for the moment in which they are stored.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
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
    """The copy of one answer. whole: whether all that was added is still there. size: bytes that were added."""

    def __init__(self, spools: Spools) -> None:
        self.whole = True
        self.size = 0
        self._spools = spools
        self._in_file = 0
        self._in_memory = bytearray()  # what comes after that
        self._file: IO[bytes] | None = None
        self._closed = False
        self._turn = threading.Lock()

    def add(self, chunk: bytes) -> None:
        """A further piece."""
        self.size += len(chunk)
        self._in_memory += chunk
        if self.size > self._spools.most:
            self.whole = False

    async def spill(self) -> None:
        """Put into the file what is too much for memory; not to be called twice at once."""
        if self.whole and len(self._in_memory) > _MOST_IN_MEMORY:
            try:
                await asyncio.to_thread(self._write, bytes(self._in_memory))
            except OSError as error:
                self._tell(error)
                return
            self._in_file += len(self._in_memory)
            self._in_memory.clear()

    async def read_at(self, at: int, most: int) -> bytes | None:
        """Some of what comes at this place, `most` bytes of it or fewer; None when it can't be read."""
        if at >= self._in_file:
            begin = at - self._in_file
            return bytes(memoryview(self._in_memory)[begin : begin + min(most, _MOST_IN_MEMORY)])
        try:
            return await asyncio.to_thread(self._read, at, min(most, _MOST_IN_MEMORY, self._in_file - at))
        except OSError as error:
            self._tell(error)
            return None

    def forget(self, before: int) -> None:
        """Of a copy that is no longer whole, what comes before this place is not needed any more."""
        if self.whole or before < self._in_file:
            return
        self._drop_file()
        del self._in_memory[: before - self._in_file]
        self._in_file = before

    @asynccontextmanager
    async def read(self) -> AsyncIterator[bytes | None]:
        """All of it, for as long as it is needed; None when it is no longer whole."""
        if not self.whole or not self._in_file:
            yield bytes(self._in_memory) if self.whole else None
            return
        async with self._spools.reading:
            body: bytes | None = None
            try:
                body = await asyncio.to_thread(self._read, 0, self._in_file) + self._in_memory
            except OSError as error:
                self._tell(error)
            yield body

    def close(self) -> None:
        """Forget it."""
        self._closed = True
        self._in_memory.clear()
        self._drop_file()

    def _tell(self, error: OSError) -> None:
        log.error("spool-failed", bytes=self.size, reason=error.strerror)
        self.whole = False

    def _drop_file(self) -> None:
        with self._turn:
            file, self._file = self._file, None
            if file is not None:
                with suppress(OSError):  # a full disk, told once more; it is closed all the same
                    file.close()

    def _write(self, piece: bytes) -> None:
        with self._turn:
            if self._closed:  # whoever waited for this was cancelled
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._spools.folder)  # noqa: SIM115 - closed by close()
            self._file.seek(self._in_file)
            self._file.write(piece)
            self._file.flush()

    def _read(self, at: int, size: int) -> bytes:
        with self._turn:
            if self._file is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._file.seek(at)
            piece = self._file.read(size)
        if len(piece) < size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return piece
