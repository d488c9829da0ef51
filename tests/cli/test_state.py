"""What is kept for a person is theirs alone."""

import stat
from pathlib import Path

import pytest

from farebox.cli.state import key_ring, read_json, state_dir, write_private
from farebox.core.errors import ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "made" / "keys"
    first, again = key_ring(path), key_ring(path)
    assert first.newest == again.newest
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_a_second_line_is_the_newer_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    old = key_ring(path)
    write_private(path, path.read_text() + bytes(range(32)).hex() + "\n")
    ring = key_ring(path)
    assert ring.key_ids()[0] == old.newest
    assert ring.newest != old.newest


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key_ring(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        key_ring(path)


@pytest.mark.parametrize("text", ["", "not hex", "ab" * 16, "00" * 32])
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    write_private(path, text)
    with pytest.raises(ConfigError) as error:
        key_ring(path)
    assert not text or text not in str(error.value)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_small_file_that_is_gone_or_broken_is_empty(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("{")
    assert (read_json(tmp_path / "gone"), read_json(broken)) == ({}, {})


def test_the_state_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FAREBOX_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_dir() == tmp_path / "farebox"
    monkeypatch.setenv("FAREBOX_STATE", str(tmp_path / "own"))
    assert state_dir() == tmp_path / "own"
