"""What tests of the stores may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from farebox.testing.postgres import Postgres


@pytest.fixture
def raw_url(postgres: Postgres) -> Iterator[str]:
    """A database with nothing in it."""
    made = postgres.new_database()
    yield made
    postgres.drop(made)
