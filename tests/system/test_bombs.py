"""Answers that are too large or too slow (target B7): a buyer gives up in time and stays small."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from farebox.testing.hostile.bombs import BOMBS, served_bombs

pytestmark = pytest.mark.system

MOST_MEMORY_KIB = 16 * 1024
MOST_SECONDS = 11  # ten of patience, and what it takes to begin and to end
MOST_TAKEN = 16 * 2**20  # what the kernel's buffers hold and more
ENDLESS_HEAD = "RemoteProtocolError"


@pytest.mark.parametrize("kind", ["client", "async client"])
def test_no_bomb_takes_memory_or_time(kind: str, tell: Callable[[str], object]) -> None:
    with served_bombs() as (url, taken):
        ran = subprocess.run(
            [sys.executable, "-m", "farebox.testing.hostile.bombs", url, kind],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )

    tally = json.loads(ran.stdout)
    assert set(tally) == set(BOMBS)
    ends = {name: told["end"] for name, told in tally.items()}
    assert ends == dict.fromkeys(BOMBS, "ChallengeUnreadable") | {"endless-head": ENDLESS_HEAD}
    assert max(told["seconds"] for told in tally.values()) < MOST_SECONDS, tally
    assert max(told["grown_kib"] for told in tally.values()) < MOST_MEMORY_KIB, tally
    assert max(taken.values()) < MOST_TAKEN, taken
    slowest = max(tally, key=lambda name: float(tally[name]["seconds"]))
    grown = max(told["grown_kib"] for told in tally.values())
    tell(f"{kind}: {len(tally)} bombs, {grown} KiB more at most, {tally[slowest]['seconds']:.1f} s at most ({slowest})")
