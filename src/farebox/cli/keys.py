"""`farebox keys`: the master keys of a shop, listed, rotated and revoked while it serves.

Rules
1. The newest key mints; every key in the file verifies. Whoever serves from the file takes it up by itself.
2. No key is ever shown, only its id.
3. Two commands at once do not lose a key: the file's folder is locked from reading to writing.
4. The last key is not taken away: nothing could be sold.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from farebox.cli.config import read_place
from farebox.cli.output import Cell, show, tell
from farebox.cli.state import LOOK_EVERY, MasterKey, key_file, read_keys, ring_of, write_keys
from farebox.core.errors import ConfigError
from farebox.gate import Terms

# What a shop may set as the life of its invoices (`invoice_expires_in_s`), and then the time to claim.
NEEDED_FOR: Final = timedelta(days=1) + Terms().claim_within


def chosen_file(named: Path | None, *, folder: Path) -> Path:
    """The key file that is named, or else that of the farebox.toml in this folder, or else that in the state folder.

    Raises ConfigError when there is none.
    """
    config = Path("farebox.toml")
    path = named or key_file(read_place(config, "keys").keys if config.exists() else None, folder)
    if not path.exists():
        raise ConfigError(f"there is no key file at {path}; name yours with --keys, or make one with `farebox init`")
    return path


def show_keys(path: Path, *, as_json: bool) -> None:
    """The keys, oldest first. Raises ConfigError."""
    keys = read_keys(path)
    ids = _ids(keys, path)
    rows: list[dict[str, Cell]] = [
        {
            "id": key_id,
            "made_at": None if each.made_at is None else each.made_at.isoformat(),
            "mints": key_id == ids[-1],
            "needed_until": None if until is None else until.isoformat(),
        }
        for key_id, each, until in zip(ids, keys, _needed_until(keys), strict=True)
    ]
    show(rows, title=f"keys in {path}", as_json=as_json)


def rotate(path: Path, *, now: datetime) -> str:
    """Add a fresh key, which mints from now on; its id. Raises ConfigError."""
    with _alone(path):
        keys = (*read_keys(path), MasterKey.fresh(now))
        write_keys(path, keys)
    return _ids(keys, path)[-1]


def revoke(path: Path, key_id: str) -> None:
    """Take a key away, for good. Raises ConfigError for an id that is not there, and for the last key."""
    with _alone(path):
        keys = read_keys(path)
        ids = _ids(keys, path)
        if key_id not in ids:
            raise ConfigError(f"there is no key {key_id} in {path}; there are {', '.join(ids)}")
        left = [each for each, its in zip(keys, ids, strict=True) if its != key_id]
        if not left:
            raise ConfigError("this is the only key; first make another: farebox keys rotate")
        write_keys(path, left)


def prune(path: Path, *, now: datetime) -> Sequence[str]:
    """Take away the keys that nobody can need any more; their ids. Raises ConfigError."""
    with _alone(path):
        keys = read_keys(path)
        gone = [until is not None and until <= now for until in _needed_until(keys)]
        if any(gone):
            write_keys(path, [each for each, over in zip(keys, gone, strict=True) if not over])
    return [key_id for key_id, over in zip(_ids(keys, path), gone, strict=True) if over]


def tell_rotated(key_id: str, *, as_json: bool) -> None:
    """What a rotation did."""
    show([{"id": key_id, "mints": True}], title="rotated", as_json=as_json)
    tell(
        f"shops that serve from this file mint with it within {LOOK_EVERY.total_seconds():.0f} s; old proofs stay good"
    )


def tell_revoked(key_ids: Sequence[str], *, as_json: bool) -> None:
    """What was taken away."""
    show([{"id": key_id, "revoked": True} for key_id in key_ids], title="revoked", as_json=as_json, empty="no key")
    if key_ids:
        tell("proofs minted under it are refused, and answers sealed under it are gone (410), within a second")


def utc_now() -> datetime:
    """The wall clock, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def _ids(keys: Sequence[MasterKey], path: Path) -> list[str]:
    return [ring_of([each], path).newest.hex() for each in keys]


def _needed_until(keys: Sequence[MasterKey]) -> list[datetime | None]:
    """Until when something that a key minted can be claimed: counted from when the next one took over.

    None for the newest, and where the file does not tell.
    """
    after = [each.made_at for each in keys[1:]]
    return [None if made_at is None else made_at + LOOK_EVERY + NEEDED_FOR for made_at in after] + [None]


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While this lasts no other such command changes the file."""
    try:
        import fcntl
    except ImportError:  # not made for Windows: there two commands at once are not kept apart
        yield
        return
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
