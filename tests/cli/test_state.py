"""What is kept for a person is theirs alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
import structlog

from farebox.cli.state import (
    LiveKeyRing,
    MasterKey,
    key_ring,
    read_json,
    read_keys,
    state_dir,
    usual_dir,
    write_keys,
    write_private,
)
from farebox.core.errors import ConfigError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


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
    write_private(path, path.read_text() + sha256(b"new").hexdigest() + "\n")
    ring = key_ring(path)
    assert ring.key_ids()[0] == old.newest
    assert ring.newest != old.newest


def test_a_key_file_tells_when_a_key_was_made_if_that_is_known(tmp_path: Path) -> None:
    keys = (MasterKey.fresh(NOW), MasterKey(master=MasterKey.fresh(NOW).master))
    write_keys(tmp_path / "keys", keys)
    assert keys == read_keys(tmp_path / "keys")


def test_a_remark_of_the_operator_is_no_date_and_no_harm(tmp_path: Path) -> None:
    write_private(tmp_path / "keys", f"{sha256(b'x').hexdigest()} # from the old machine\n\n")
    assert [None] == [key.made_at for key in read_keys(tmp_path / "keys")]


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key_ring(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        key_ring(path)


@pytest.mark.parametrize(("folder_mode", "good"), [(0o755, True), (0o1777, True), (0o777, False)])
def test_keys_in_a_folder_where_anybody_could_replace_them_are_refused(
    tmp_path: Path, folder_mode: int, good: bool
) -> None:
    path = tmp_path / "folder" / "keys"
    key_ring(path)
    path.parent.chmod(folder_mode)
    if good:
        assert len(read_keys(path)) == 1
    else:
        with pytest.raises(ConfigError, match="chmod o-w"):
            key_ring(path)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "not hex", "ab" * 16, "00" * 32, "6368616e67656d65" * 4, "# made 2026-01-02", "\udcff"],
    ids=["nothing", "no line", "no hex", "short", "zeros", "changeme", "a date alone", "no text"],
)
def test_what_is_no_key_is_refused_with_its_file_and_not_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(text.encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(ConfigError) as error:
        key_ring(path)
    assert not text.strip() or text not in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_linked_key_file_stays_a_link(tmp_path: Path) -> None:
    key_ring(tmp_path / "real")
    (tmp_path / "keys").symlink_to(tmp_path / "real")
    write_keys(tmp_path / "keys", [MasterKey.fresh(NOW)])
    assert (tmp_path / "keys").is_symlink()
    assert key_ring(tmp_path / "keys").newest == key_ring(tmp_path / "real").newest


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
    assert state_dir(Path("named")) == Path("named")


def test_a_state_folder_below_a_home_is_there_also_where_no_shell_has_read_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FAREBOX_STATE", "~/own")
    monkeypatch.setenv("XDG_STATE_HOME", "~/state")
    assert [tmp_path / "own", tmp_path / "named", tmp_path / "state" / "farebox"] == [
        state_dir(), state_dir(Path("~/named")), usual_dir()
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="there is no home for ~nobody-of-this-name"):
        state_dir(Path("~nobody-of-this-name/state"))


# --- keys that follow their file --------------------------------------------------------------------------------------


@dataclass
class Seconds:
    """A monotonic clock that is moved by hand."""

    at: float = 100.0

    def __call__(self) -> float:
        return self.at


def add_key(path: Path) -> bytes:
    write_keys(path, (*read_keys(path), MasterKey.fresh(NOW)))
    return key_ring(path).newest


def test_a_changed_file_is_taken_up_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Seconds()
    keys = LiveKeyRing(path, clock=clock)
    before = keys.ring()
    newest = add_key(path)
    clock.at += 0.99
    assert before is keys.ring()
    clock.at += 0.02
    assert newest == keys.ring().newest
    assert before.newest in keys.ring()


def test_a_revoked_key_is_gone_within_a_second_also_for_what_names_it(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Seconds()
    first = key_ring(path).newest
    add_key(path)
    keys = LiveKeyRing(path, clock=clock)
    assert first in keys.ring(first)
    write_keys(path, read_keys(path)[1:])
    clock.at += 1.01
    assert first not in keys.ring(first)


def test_an_unknown_key_is_looked_for_at_once(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Seconds()
    keys = LiveKeyRing(path, clock=clock)
    newest = add_key(path)
    clock.at += 0.006
    assert newest in keys.ring(newest)


def test_made_up_key_ids_do_not_make_it_look_for_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Seconds()
    keys = LiveKeyRing(tmp_path / "keys", clock=clock)
    looks = 0
    stat_of = Path.stat

    def counted(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        nonlocal looks
        looks += 1
        return stat_of(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", counted)
    for n in range(10_000):  # within one second
        clock.at += 0.0001
        keys.ring(n.to_bytes(4, "big"))
    assert 190 <= looks <= 200


def test_the_ring_is_the_same_object_while_no_key_came_or_went(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Seconds()
    keys = LiveKeyRing(path, clock=clock)
    before = keys.ring()
    write_private(path, path.read_text() + "\n")
    clock.at += 2
    assert before is keys.ring()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        lambda path: path.write_text(path.read_text()[:40]),
        lambda path: path.write_text("no key"),
        lambda path: path.chmod(0o644),
        lambda path: path.parent.chmod(0o777) or write_private(path, path.read_text()),
    ],
    ids=["gone", "emptied", "cut off", "garbage", "open to others", "in an open folder"],
)
def test_a_file_that_can_not_be_used_changes_nothing_and_is_told_once(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    path, clock = tmp_path / "folder" / "keys", Seconds()
    keys = LiveKeyRing(path, clock=clock)
    before = keys.ring()
    good = read_keys(path)
    spoil(path)
    with structlog.testing.capture_logs() as told:
        for _ in range(5):
            clock.at += 2
            assert before is keys.ring()
    assert [("keys-kept-as-they-were", "error")] == [(line["event"], line["log_level"]) for line in told]
    assert good[0].master.reveal().hex() not in str(told)

    path.parent.chmod(0o700)
    write_keys(path, (*good, MasterKey.fresh(NOW)))
    clock.at += 2
    assert key_ring(path).newest == keys.ring().newest


def test_a_shop_does_not_open_with_a_weak_key(tmp_path: Path) -> None:
    write_private(tmp_path / "keys", "00" * 32)
    with pytest.raises(ConfigError, match="32 random bytes"):
        LiveKeyRing(tmp_path / "keys")
