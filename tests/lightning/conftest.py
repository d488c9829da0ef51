from __future__ import annotations

from collections.abc import Iterator

import pytest

from farebox.lightning.sandbox import Sandbox
from farebox.testing.faked_world import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def sandbox(clock: HandClock) -> Iterator[Sandbox]:
    opened = Sandbox.open(None, clock=clock)
    yield opened
    opened.close()
