"""What every test may use."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from farebox.testing.postgres import Postgres
    from farebox.testing.real_electrum import RealElectrum
    from farebox.testing.regtest import Regtest

_TOLD: Final = "told"


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio."""
    return "asyncio"


@pytest.fixture
def seed() -> int:
    """What chance begins with: `FAREBOX_SEED`, or a new number each time; it belongs in every assertion."""
    return int(os.environ.get("FAREBOX_SEED") or secrets.randbelow(2**32))


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], object]:
    """Tells a tally, which stands at the end of the run as well; `pytest -s` shows it at once."""

    def told(text: str) -> None:
        record_property(_TOLD, text)
        sys.stdout.write(f"\n{text}\n")

    return told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the proofs told, those of every process."""
    told = [
        (report.nodeid, text)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        if report.when == "call"
        for name, text in report.user_properties
        if name == _TOLD
    ]
    if told:
        terminalreporter.section("what was seen")
    for test, text in sorted(told):
        terminalreporter.write_line(f"{test}\n    {text}")


@pytest.fixture(scope="session")
def regtest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regtest]:
    """Real Lightning nodes; `scripts/lightning` makes ready what they are started from."""
    from farebox.testing.regtest import Regtest, kept_programs

    with Regtest(tmp_path_factory.mktemp("regtest"), kept_programs(os.environ)) as started:
        yield started


@pytest.fixture(scope="session")
def electrum(regtest: Regtest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealElectrum]:
    """A wallet service on those nodes' network. A test that can't have one is skipped, in CI it fails."""
    from farebox.testing.real_electrum import RealElectrum
    from farebox.testing.regtest import kept_programs

    programs = kept_programs(os.environ)
    if not (programs.parent / "electrum.made").exists():
        told = "Electrum is not there (scripts/lightning --electrum makes it ready, or says why it can't)"
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        pytest.skip(told)
    with RealElectrum(regtest, tmp_path_factory.mktemp("electrum"), programs) as started:
        yield started


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
