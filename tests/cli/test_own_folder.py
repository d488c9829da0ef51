"""The folder of one supervisor."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from farebox.cli.own_folder import own_folder
from farebox.core.errors import ConfigError
from farebox.stores.remote import LONGEST_PATH


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder whose path is short, and where temporary files are."""
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_it_is_its_owners_alone_and_gone_in_the_end(short: Path) -> None:
    with own_folder(short) as own:
        assert short / "run" == own.parent
        assert [0o700, 0o700] == [stat.S_IMODE(folder.stat().st_mode) for folder in (own, own.parent)]
        (own / "x.sock").touch()
    assert [] == list((short / "run").iterdir())


def test_each_supervisor_has_its_own_and_takes_away_only_what_a_dead_one_left(short: Path) -> None:
    left = short / "run" / "left"
    with own_folder(short) as first:
        left.mkdir()
        (left / "lock").touch()
        with own_folder(short) as second:
            assert first != second
            assert {first, second} == set((short / "run").iterdir())


def test_where_the_path_is_too_long_for_a_socket_it_is_among_the_temporary_files(short: Path) -> None:
    state = short / ("x" * LONGEST_PATH)
    with own_folder(state) as own:
        assert short / f"farebox-{os.getuid()}" == own.parent
        assert len(os.fsencode(own / "ledger-9999.sock")) <= LONGEST_PATH


def test_a_folder_that_others_can_write_to_is_refused(short: Path) -> None:
    (short / "run").mkdir()
    (short / "run").chmod(0o777)
    with pytest.raises(ConfigError, match="not ours alone"), own_folder(short):
        pass
