"""Spool: the copy of an answer while it flows, so that it can be given again.

Rules
1. A copy is in memory up to a quarter of a MiB. What goes beyond is in a file without a name, which only this process
   can open and which is gone when it is closed, also by a crash.
2. A copy that would grow beyond what is kept, or that the disk refuses, is dropped at once. The answer flows on.
3. Only a few copies are back in memory at the same time, for the moment in which they are stored.
"""

from __future__ import annotations

import asyncio
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
    """The copy of one answer. whole: whether all that was added is still there."""

    def __init__(self, spools: Spools) -> None:
        self.whole = True
        self._spools = spools
        self._size = self._in_memory = 0
        self._chunks: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._closed = False
        self._writing = threading.Lock()

    async def add(self, chunk: bytes) -> None:
        """A further piece."""
        self._size += len(chunk)
        if not self.whole:
            return
        if self._size > self._spools.most:
            self._drop()
            return
        self._chunks.append(chunk)
        self._in_memory += len(chunk)
        if self._in_memory > _MOST_IN_MEMORY:
            chunks, self._chunks, self._in_memory = self._chunks, [], 0
            try:
                await asyncio.to_thread(self._write, chunks)
            except OSError as error:
                log.error("spool-failed", bytes=self._size, reason=error.strerror)
                self._drop()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[bytes | None]:
        """All of it, for as long as it is needed; None when it is no longer whole."""
        if not self.whole or self._file is None:
            yield b"".join(self._chunks) if self.whole else None
            return
        async with self._spools.reading:
            body: bytes | None = None
            try:
                body = await asyncio.to_thread(self._read, self._file)
            except OSError as error:
                log.error("spool-failed", bytes=self._size, reason=error.strerror)
                self._drop()
            yield body

    def close(self) -> None:
        """Forget it."""
        with self._writing:
            self._closed = True
            self._chunks = []
            if self._file is not None:
                with suppress(OSError):  # a full disk, told once more; it is closed all the same
                    self._file.close()

    def _drop(self) -> None:
        self.whole = False
        self.close()

    def _write(self, chunks: list[bytes]) -> None:
        with self._writing:
            if self._closed:  # whoever waited for this was cancelled
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._spools.folder)  # noqa: SIM115 - closed by close()
            self._file.writelines(chunks)

    def _read(self, file: IO[bytes]) -> bytes:
        with self._writing:
            file.writelines(self._chunks)
            self._chunks = []
            file.seek(0)
            return file.read()
