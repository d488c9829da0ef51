"""`farebox keys`: listed, rotated and revoked, and never shown."""

from __future__ import annotations

import json
import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from farebox.cli.keys import NEEDED_FOR, chosen_file, prune, revoke, rotate, show_keys
from farebox.cli.state import key_ring, read_keys
from farebox.core.errors import ConfigError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one key."""
    key_ring(tmp_path / "keys")
    return tmp_path / "keys"


def test_a_rotation_adds_a_key_that_mints_and_keeps_the_old_one(path: Path) -> None:
    before = key_ring(path).newest
    made = rotate(path, now=NOW)
    assert [before.hex(), made] == [key_id.hex() for key_id in key_ring(path).key_ids()]
    assert made == key_ring(path).newest.hex()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_list_has_ids_oldest_first_and_no_key(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [rotate(path, now=NOW + timedelta(days=n)) for n in range(2)]
    show_keys(path, as_json=True)
    told = capsys.readouterr().out
    rows = [json.loads(line) for line in told.splitlines()]
    assert made == [row["id"] for row in rows[1:]]
    assert [False, False, True] == [row["mints"] for row in rows]
    assert [NOW.isoformat(), (NOW + timedelta(days=1)).isoformat()] == [row["made_at"] for row in rows[1:]]
    assert not any(key.master.reveal().hex()[:16] in told for key in read_keys(path))


def test_a_revoked_key_is_gone_and_the_rest_stay(path: Path) -> None:
    first = key_ring(path).newest.hex()
    second, third = rotate(path, now=NOW), rotate(path, now=NOW)
    revoke(path, second)
    assert [first, third] == [key_id.hex() for key_id in key_ring(path).key_ids()]


def test_the_last_key_is_not_revoked(path: Path) -> None:
    only = key_ring(path).newest.hex()
    with pytest.raises(ConfigError, match="farebox keys rotate"):
        revoke(path, only)
    path.write_text(path.read_text() * 2)
    with pytest.raises(ConfigError, match="the only key"):
        revoke(path, only)
    assert only == key_ring(path).newest.hex()


def test_an_id_that_is_not_there_is_refused_with_those_that_are(path: Path) -> None:
    with pytest.raises(ConfigError, match=key_ring(path).newest.hex()):
        revoke(path, "00000000")


def test_only_what_nobody_can_need_any_more_is_pruned(path: Path) -> None:
    first = key_ring(path).newest.hex()
    second = rotate(path, now=NOW)
    third = rotate(path, now=NOW + timedelta(days=10))
    over = NOW + NEEDED_FOR + timedelta(seconds=1)
    assert [] == prune(path, now=over - timedelta(seconds=1))
    assert [first] == prune(path, now=over)
    assert [second] == prune(path, now=over + timedelta(days=10))
    assert [] == prune(path, now=over + timedelta(days=10_000))
    assert [third] == [key_id.hex() for key_id in key_ring(path).key_ids()]


def test_the_file_is_the_one_named_or_that_of_the_shop_here_or_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("named", "of-the-shop", "own/keys"):
        key_ring(tmp_path / name)
    assert Path("named") == chosen_file(Path("named"), folder=Path("own"))
    assert Path("own/keys") == chosen_file(None, folder=Path("own"))
    Path("farebox.toml").write_text('keys = "of-the-shop"\n[[route]]\npath = "/x"\nprice = "1 sat"\ndemo = true\n')
    assert Path("of-the-shop") == chosen_file(None, folder=Path("own"))


def test_a_file_that_is_not_there_is_not_made_by_accident(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key file"):
        chosen_file(tmp_path / "typo", folder=tmp_path)
    assert [] == list(tmp_path.iterdir())


def _rotate(path: str) -> None:
    for _ in range(10):
        rotate(Path(path), now=NOW)


@pytest.mark.system
def test_two_commands_at_once_lose_no_key(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_rotate, args=(str(path),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [0, 0] == [process.exitcode for process in both]
    assert len(read_keys(path)) == 21
