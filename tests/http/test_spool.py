"""The copy of an answer while it flows: small ones in memory, large ones in a file that nobody else can open."""

import asyncio
import os
import random
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from farebox.http.spool import Spool, Spools

pytestmark = pytest.mark.anyio

MOST = 2**20


async def add(spool: Spool, chunk: bytes) -> None:
    spool.add(chunk)
    if spool.is_full() and spool.makes_room() is not None:
        await spool.spill()


async def copied(spools: Spools, chunks: list[bytes]) -> tuple[Spool, bytes | None]:
    spool = spools.open()
    for chunk in chunks:
        await add(spool, chunk)
    async with spool.read() as body:
        return spool, body


@pytest.mark.parametrize("sizes", [[], [1], [0, 5, 0], [262_144], [262_145], [100_000] * 5, [300_000, 1], [MOST]])
async def test_a_copy_is_what_was_added(tmp_path: Path, sizes: list[int]) -> None:
    chance = random.Random(1)
    chunks = [chance.randbytes(size) for size in sizes]
    spool, body = await copied(Spools(str(tmp_path), most=MOST), chunks)
    async with spool.read() as again:
        assert b"".join(chunks) == body == again
    assert [] == list(tmp_path.iterdir())
    spool.close()


@pytest.mark.parametrize(("size", "files"), [(200_000, 0), (300_000, 1)])
async def test_only_a_large_copy_is_in_a_file_and_only_its_owner_could_open_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, files: int
) -> None:
    opened: list[Any] = []
    original = tempfile.TemporaryFile

    def watched(**given: Any) -> Any:
        opened.append(original(**given))
        return opened[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    spool, _ = await copied(Spools(str(tmp_path), most=MOST), [bytes(size)])
    modes = [Path(f"/proc/self/fd/{file.fileno()}").stat() for file in opened]
    spool.close()
    assert [(0o600, 0)] * files == [(each.st_mode & 0o777, each.st_nlink) for each in modes]
    assert [True] * files == [file.closed for file in opened]


async def test_a_copy_that_grows_beyond_what_is_kept_is_dropped(tmp_path: Path) -> None:
    spool, body = await copied(Spools(str(tmp_path), most=MOST), [bytes(MOST), b"1"])
    spool.close()
    assert (None, False) == (body, spool.whole)


@pytest.mark.parametrize("most", [997, 100_000, 10**6])
async def test_a_copy_is_read_from_any_place_while_it_grows(tmp_path: Path, most: int) -> None:
    chance = random.Random(2)
    spool, added, read = Spools(str(tmp_path), most=MOST).open(), b"", bytearray()
    for _ in range(12):
        chunk = chance.randbytes(chance.randrange(80_000))
        added += chunk
        await add(spool, chunk)
        while len(read) < len(added) - 60_000:  # so that some of it is in the file by then
            read += await spool.read_at(len(read), most) or b""
    for at in [chance.randrange(len(added)) for _ in range(50)]:
        piece = await spool.read_at(at, most)
        assert piece
        assert added[at : at + len(piece)] == piece
        assert len(piece) <= most
    spool.close()
    assert len(added) > 262_144
    assert added.startswith(read)


@pytest.mark.parametrize("largest", [1_000, 100_000, 500_000])
async def test_a_copy_that_is_not_whole_has_the_last_of_what_was_added(tmp_path: Path, largest: int) -> None:
    chance = random.Random(3)
    spool, added, given = Spools(str(tmp_path), most=400_000).open(), bytearray(), 0
    while len(added) < 2_000_000:
        chunk = chance.randbytes(chance.randrange(largest))
        added += chunk
        spool.add(chunk)
        if spool.is_full():
            room = spool.makes_room()
            while given < (len(added) if room is None else room):
                piece = await spool.read_at(given, len(added) - given)
                assert piece
                assert added[given : given + len(piece)] == piece
                given += len(piece)
            if room is None:
                spool.forget(given)
            else:
                await spool.spill()
        assert len(added) - given <= 400_000 + 262_144
    assert not spool.whole
    for at in [chance.randint(given, len(added)) for _ in range(20)]:
        piece = await spool.read_at(at, 50_000)
        assert piece or at == len(added)
        assert piece is not None
        assert added[at : at + len(piece)] == piece
    spool.close()


async def test_a_copy_can_be_closed_while_it_is_written_and_waits_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on, files = threading.Event(), threading.Event(), []
    original, opened = os.pwrite, tempfile.TemporaryFile

    def slow(*given: Any) -> int:
        writing.set()
        go_on.wait(10)
        return original(*given)

    def watched(**given: Any) -> Any:
        files.append(opened(**given))
        return files[-1]

    monkeypatch.setattr(os, "pwrite", slow)
    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    spool = Spools(str(tmp_path), most=MOST).open()
    spool.add(bytes(300_000))
    spilling = asyncio.create_task(spool.spill())
    await asyncio.to_thread(writing.wait, 10)
    spilling.cancel()
    spool.close()
    closed_at_once = files[0].closed
    go_on.set()
    async with asyncio.timeout(10):
        while not files[0].closed:
            await asyncio.sleep(0.001)
    assert not closed_at_once


@pytest.mark.parametrize("chunks", [[bytes(300_000)], [bytes(300_000), bytes(300_000), bytes(10)]])
async def test_a_copy_that_the_disk_refuses_is_dropped_and_told(
    monkeypatch: pytest.MonkeyPatch, chunks: list[bytes]
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("r+b", 2**19))  # noqa: SIM115
    with capture_logs() as logs:
        spool, body = await copied(Spools(None, most=MOST), chunks)
        spool.close()
    assert (None, False) == (body, spool.whole)
    assert [("spool-failed", "No space left on device")] == [(line["event"], line["reason"]) for line in logs]


async def test_only_a_few_large_copies_are_read_back_at_once(tmp_path: Path) -> None:
    spools = Spools(str(tmp_path), most=MOST)
    reading = most = 0
    four = asyncio.Barrier(4)

    async def read() -> None:
        nonlocal reading, most
        spool = spools.open()
        await add(spool, bytes(300_000))
        async with spool.read():
            reading += 1
            most = max(most, reading)
            await four.wait()
            reading -= 1
        spool.close()

    async with asyncio.timeout(20):
        await asyncio.gather(*[read() for _ in range(20)])
    assert 4 == most


def test_what_is_to_be_written_after_a_copy_was_closed_opens_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: opened.append(given))
    spool = Spools(None, most=MOST).open()
    spool.close()
    spool._write(0, bytes(10))
    assert [] == opened
