"""Answers that are too large or too slow, over real sockets on loopback, and a buyer in a process of its own.

python -m farebox.testing.hostile.bombs http://127.0.0.1:4711 client      # prints what each of them came to, as JSON
"""

from __future__ import annotations

import asyncio
import json
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import httpx

from farebox.core.errors import FareboxError
from farebox.http.buy import AsyncClient, Client
from farebox.testing.buyers import Mint, ScriptedWallet
from farebox.testing.hostile.challenges import packed

Say = Callable[[bytes], None]

_DRIP_EVERY_S: Final = 0.05
_GIBIBYTE_IN_MEBIBYTES: Final = 1024
_HEAD: Final = b"HTTP/1.1 402 Payment Required\r\nconnection: close\r\ncontent-type: application/json\r\n"


def _body(coding: bytes, data: bytes) -> bytes:
    return b"content-encoding: %b\r\ncontent-length: %d\r\n\r\n%b" % (coding, len(data), data)


def _for_ever(say: Say, data: bytes, pause_s: float = 0.0) -> None:
    while True:
        say(data)
        if pause_s:
            time.sleep(pause_s)


def _plain(say: Say) -> None:
    say(_HEAD + b"content-length: 2\r\n\r\n{}")


def _gzip(say: Say) -> None:
    say(_HEAD + _body(b"gzip", packed(_GIBIBYTE_IN_MEBIBYTES)))


def _nested(say: Say) -> None:
    say(_HEAD + _body(b"gzip, gzip", packed(_GIBIBYTE_IN_MEBIBYTES, layers=2)))


def _gzip_without_end(say: Say) -> None:
    say(_HEAD + b"content-encoding: gzip\r\n\r\n")
    _for_ever(say, packed(_GIBIBYTE_IN_MEBIBYTES))


def _unknown(coding: bytes) -> Callable[[Say], None]:
    def bomb(say: Say) -> None:
        say(_HEAD + b"content-encoding: %b\r\n\r\n" % coding)
        _for_ever(say, bytes(65_536))

    return bomb


def _endless(say: Say) -> None:
    say(_HEAD + b"\r\n")
    _for_ever(say, b" " * 65_536)


def _endless_chunks(say: Say) -> None:
    say(_HEAD + b"transfer-encoding: chunked\r\n\r\n")
    _for_ever(say, b"1\r\n \r\n" * 1024)


def _drip(say: Say) -> None:
    say(_HEAD + b"\r\n")
    _for_ever(say, b" ", _DRIP_EVERY_S)


def _endless_head(say: Say) -> None:
    say(_HEAD)
    _for_ever(say, b"www-authenticate: L402 macaroon=a, invoice=b\r\n" * 512)


def _early_hints(say: Say) -> None:
    say(b"HTTP/1.1 103 Early Hints\r\nwww-authenticate: L402 macaroon=a, invoice=b\r\n\r\n" * 3)
    _plain(say)


def _trailers(say: Say) -> None:
    say(_HEAD + b"transfer-encoding: chunked\r\ntrailer: www-authenticate\r\n\r\n")
    say(b"2\r\n{}\r\n0\r\nwww-authenticate: L402 macaroon=a, invoice=b\r\n\r\n")


BOMBS: Final = MappingProxyType(
    {
        "plain": _plain,
        "gzip": _gzip,
        "nested": _nested,
        "gzip-without-end": _gzip_without_end,
        "br": _unknown(b"br"),
        "zstd": _unknown(b"zstd"),
        "endless": _endless,
        "endless-chunks": _endless_chunks,
        "drip": _drip,
        "endless-head": _endless_head,
        "early-hints": _early_hints,
        "trailers": _trailers,
    }
)


@contextmanager
def served_bombs() -> Iterator[tuple[str, dict[str, int]]]:
    """A server of all bombs, each at its name for a path; and how many bytes of each were taken."""
    taken: dict[str, int] = {}

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = b""
            while b"\r\n\r\n" not in asked and (part := self.request.recv(4096)):
                asked += part
            name = asked.split(b" ")[1].decode()[1:]

            def say(data: bytes) -> None:
                for at in range(0, len(data), 65_536):
                    self.request.sendall(data[at : at + 65_536])
                    taken[name] = taken.get(name, 0) + len(data[at : at + 65_536])

            with suppress(OSError):
                BOMBS[name](say)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    packed(_GIBIBYTE_IN_MEBIBYTES, layers=2)  # made beforehand, for it takes its time
    packed(_GIBIBYTE_IN_MEBIBYTES)
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", taken
        finally:
            server.shutdown()
            thread.join()


async def _buy(kind: str, base: str) -> dict[str, dict[str, Any]]:
    """What buying each of them comes to, with one client: its error, how long it took, and how much larger it made us.

    The first one is for warming up.
    """
    wallet = ScriptedWallet(Mint(lambda: datetime.now(UTC)))
    terms: dict[str, Any] = {"wallet": wallet, "budget": "500 sat/day", "purse": ":memory:"}
    tally: dict[str, dict[str, Any]] = {}
    async with AsyncClient(**terms) as aclient:
        with Client(**terms) as client:
            for name in ("plain", *BOMBS):
                started, size = time.monotonic(), _size_kib()
                end = "answered"
                try:
                    await aclient.get(f"{base}/{name}") if kind == "async client" else client.get(f"{base}/{name}")
                except (FareboxError, httpx.HTTPError) as error:
                    end = "paid" if wallet.payments else type(error).__name__
                tally[name] = {"end": end, "seconds": time.monotonic() - started, "grown_kib": _peak_kib() - size}
    return tally


def _size_kib() -> int:
    """How large we are, from which on the peak is counted."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak_kib() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_buy(sys.argv[2], sys.argv[1]))))
