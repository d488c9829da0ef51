"""Callers who take their time: half a head, half a body, and then a byte now and again.

`python -m farebox.testing.slow_callers PORT PATH HEADS BODIES EVERY_S` does it in a process of its own, and tells as
JSON when each was closed.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from dataclasses import asdict, dataclass, field

from farebox.testing.raw_http import RawCaller

_AT_ONCE = 50
_ENOUGH_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """What became of slow callers: after how many seconds each was closed, and how often each status was said."""

    after_s: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    left_open: int = 0


async def _dawdle(port: int, begun: bytes, drop: bytes, every_s: float) -> tuple[float, int] | None:
    """Begin a request and drop a byte now and again; seconds until it was closed, and the status that was said."""
    loop = asyncio.get_running_loop()
    caller = await RawCaller.call(port)
    since = loop.time()
    caller.say(begun)
    answer = asyncio.ensure_future(caller.reader.read())
    try:
        while loop.time() - since < _ENOUGH_S:
            await asyncio.wait([answer], timeout=every_s)
            if answer.done():
                told = b"" if answer.exception() else answer.result()
                return loop.time() - since, int(told[9:12] or 0)
            caller.say(drop)
    finally:
        answer.cancel()
        await caller.close()
    return None


async def dawdle(port: int, path: str, *, heads: int, bodies: int, every_s: float) -> tuple[Closed, Closed]:
    """What becomes of so many who begin a head, and so many who begin a body."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX: ".encode()
    body = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 100000\r\n\r\n".encode()
    each = [head] * heads + [body] * bodies
    callers: list[asyncio.Future[tuple[float, int] | None]] = []
    for number, begun in enumerate(each):
        callers.append(asyncio.ensure_future(_dawdle(port, begun, b"x", every_s)))
        if number % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0.02)
    ends = await asyncio.gather(*callers)
    return _told(ends[:heads]), _told(ends[heads:])


def _told(ends: list[tuple[float, int] | None]) -> Closed:
    closed = [end for end in ends if end is not None]
    statuses: dict[str, int] = {}
    for _, status in closed:
        statuses[str(status)] = statuses.get(str(status), 0) + 1
    return Closed(after_s=[after for after, _ in closed], statuses=statuses, left_open=len(ends) - len(closed))


def main() -> None:
    """The command."""
    port, path, heads, bodies, every_s = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ends = asyncio.run(dawdle(int(port), path, heads=int(heads), bodies=int(bodies), every_s=float(every_s)))
    sys.stdout.write(json.dumps([asdict(end) for end in ends]))


if __name__ == "__main__":
    main()
