"""What every test may use."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from farebox.testing.postgres import Postgres


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio."""
    return "asyncio"


@pytest.fixture
def seed() -> int:
    """What chance begins with: `FAREBOX_SEED`, or a new number each time; it belongs in every assertion."""
    return int(os.environ.get("FAREBOX_SEED") or secrets.randbelow(2**32))


@pytest.fixture
def tell() -> Callable[[str], object]:
    """Tells a tally; `pytest -s` shows it."""
    return lambda text: sys.stdout.write(f"\n{text}\n")


@pytest.fixture(scope="session")
def open_postgres() -> Callable[..., AbstractContextManager[Postgres]]:
    """Opens a PostgreSQL: `with open_postgres() as server`. A test that can't have one is skipped, in CI it fails."""
    from farebox.testing.postgres import binaries, opened_postgres  # only those that use it need its driver

    if binaries() is None:
        told = "PostgreSQL is not installed (apt-get install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        pytest.skip(told)
    return opened_postgres


@pytest.fixture(scope="session")
def postgres(open_postgres: Callable[..., AbstractContextManager[Postgres]]) -> Iterator[Postgres]:
    """A PostgreSQL of all tests; what they make on it they drop. It is not flushed: no machine loses power here."""
    with open_postgres(fsync="off") as server:
        yield server
