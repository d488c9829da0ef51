"""The same crooked paths on sockets: through `farebox serve`, to an upstream that is as forgiving as any."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farebox.testing.raw_http import calling, opened_backroom
from farebox.testing.spellings import meanings, spellings

pytestmark = [pytest.mark.system, pytest.mark.anyio]

ROUTES = """
free_calls = 0
[[route]]
path = "/api/dvm"
method = "POST"
upstream = "{upstream}"
price = "21 sat"
[[route]]
path = "/Files/*"
upstream = "{upstream}"
price = "5 sat"
[[route]]
path = "/*"
upstream = "{upstream}"
price = "free"
"""
METHODS = (b"GET", b"HEAD", b"OPTIONS", b"POST", b"GET", b"GET")
OVERRIDES = (b"", b"", b"", b"", b"X-HTTP-Method-Override: POST\r\n", b"X-Method-Override: POST\r\n")


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.full)])
async def test_no_spelling_on_a_socket_brings_an_unpaid_call_to_what_is_sold(
    count: int, open_shop: Any, tmp_path: Path, seed: int, tell: Callable[[str], object]
) -> None:
    statuses: dict[int, int] = {}
    with opened_backroom() as room:
        (tmp_path / "farebox.toml").write_text(ROUTES.format(upstream=f"http://127.0.0.1:{room.port}"))
        with open_shop(str(tmp_path / "farebox.toml")) as shop:
            for target in spellings(random.Random(seed), (b"/api/dvm", b"/Files/a/b", b"/free/x"), count):
                for method, override in zip(METHODS, OVERRIDES, strict=True):
                    async with calling(shop.port) as caller:
                        caller.say(
                            b"%b %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n" % (method, target, override)
                        )
                        answer = await caller.hear(without_body=method == b"HEAD")
                    assert answer is not None, (seed, target)
                    statuses[answer.status] = statuses.get(answer.status, 0) + 1
            told = shop.told
    hits = []
    for seen in room.seen:
        means = meanings(seen.path.partition("?")[0].encode("latin-1"))
        overridden = any(name.startswith(b"x-") and b"override" in name for name, _ in seen.fields)
        post = seen.line.startswith(b"POST ") or overridden or "_method=POST" in seen.path
        if any(each.startswith("/files/") for each in means) or (post and "/api/dvm" in means):
            hits.append(seen.line)
    tell(
        f"E3 on sockets: {count} spellings, {sum(statuses.values())} calls {statuses}, {len(room.seen)} of free paths "
        f"passed on, {len(hits)} of priced ones; FAREBOX_SEED={seed}"
    )
    assert ([], []) == (hits, room.broken), seed
    assert room.seen
    assert not [status for status in statuses if status >= 500], seed
    assert '"level": "error"' not in told
