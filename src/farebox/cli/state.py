"""Where farebox keeps things for a person: their state folder, their keys, the sandbox they left running.

Rules
1. Everything here is readable by its owner alone; a key that others can read is refused, not used.
2. A file is written beside its name and moved over it, so that a reader sees the whole or the old one.
3. A running shop takes up a key file that was changed by itself, within a second; one that it can't use changes
   nothing, and is told in one line.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from farebox.core.errors import ConfigError
from farebox.core.secret import KEY_BYTES, KeyRing, Secret
from farebox.stores.places import at_home

OWNER_ONLY: Final = 0o600
LOOK_EVERY: Final = timedelta(seconds=1)
_LOOK_EVERY_S: Final = LOOK_EVERY.total_seconds()
# A key id that is not known is looked for at once, but not for every made-up one. Between a rotation and a proof under
# the new key, this process' last look can't fall: an invoice is made, told, paid and shown in between.
_LOOK_AGAIN_AFTER_S: Final = 0.005
_MADE: Final = "made "

log = structlog.get_logger("farebox")


def state_dir(named: Path | None = None) -> Path:
    """The folder that was named, `$FAREBOX_STATE`, or a person's usual one; `~` is a home. Raises ConfigError."""
    chosen = named or os.environ.get("FAREBOX_STATE")
    return at_home(Path(chosen)) if chosen else usual_dir()


def usual_dir() -> Path:
    """Farebox's folder under `$XDG_STATE_HOME` or `~/.local/state`. Raises ConfigError."""
    return at_home(Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")) / "farebox"


def made_dir(path: Path) -> Path:
    """The folder, made if it is not there. Raises ConfigError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError
    except OSError as error:
        raise ConfigError(
            f"can't write to {path} ({error.strerror or 'no permission'}); choose another folder"
        ) from None
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read. Raises ConfigError."""
    made_dir(path.parent)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists() and os.name == "posix" and os.geteuid() == 0:  # for whom root does it, his it stays
            os.chown(beside, path.stat().st_uid, path.stat().st_gid)
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"can't write {path}: {error.strerror}") from None


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder can't be opened
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


# --- master keys ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterKey:
    """One line of a key file. made_at: None where the line does not tell."""

    master: Secret[bytes]
    made_at: datetime | None = None

    @classmethod
    def fresh(cls, made_at: datetime) -> MasterKey:
        """A random one."""
        return cls(master=Secret(secrets.token_bytes(KEY_BYTES)), made_at=made_at)


def read_keys(path: Path) -> tuple[MasterKey, ...]:
    """The master keys in a file, oldest first: one per line in hex, and behind a `#` when it was made.

    Raises ConfigError when the file is missing, holds something else, or others can read or replace it.
    """
    return _read_keys(path)[0]


def write_keys(path: Path, keys: Sequence[MasterKey]) -> None:
    """Replace a key file, for its owner alone. Raises ConfigError."""
    lines = [
        each.master.reveal().hex() + (f"  # {_MADE}{each.made_at.isoformat()}" if each.made_at is not None else "")
        for each in keys
    ]
    write_private(path.resolve(), "\n".join(lines) + "\n")  # a link stays a link


def ring_of(keys: Sequence[MasterKey], path: Path) -> KeyRing:
    """The ring of the keys in a file. Raises ConfigError for a weak one."""
    try:
        return KeyRing([each.master.reveal() for each in keys])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.detail}") from None


def key_file(named: Path | None, folder: Path) -> Path:
    """Where the master keys are: the file that the configuration names, or the one in the state folder."""
    return named or folder / "keys"


def key_ring(path: Path) -> KeyRing:
    """The master keys in a file as they are now; a new one is made where there is no file.

    Raises ConfigError when the file holds something else, or others can read or replace it.
    """
    if not path.exists():
        write_keys(path, [MasterKey.fresh(datetime.now(UTC).replace(microsecond=0))])
    return ring_of(read_keys(path), path)


class LiveKeyRing:
    """The master keys in a file, as core.secret.Keys that follow it.

    The file is looked at once a second at most, and at once for a key id that is not known. Raises ConfigError as
    key_ring does; later, a file that can't be used is told in the log, and the keys stay as they were.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._ring = key_ring(path)
        self._seen = _seen(path)
        self._looked_at = clock()

    def ring(self, key_id: bytes | None = None) -> KeyRing:
        """The ring as it is now; with a key id, looked at afresh before that id is called unknown."""
        known = key_id is None or key_id in self._ring
        if self._clock() - self._looked_at >= (_LOOK_EVERY_S if known else _LOOK_AGAIN_AFTER_S):
            self._look()
        return self._ring

    def _look(self) -> None:
        self._looked_at = self._clock()
        seen = _seen(self._path)
        if seen == self._seen:
            return
        try:
            keys, self._seen = _read_keys(self._path)
            ring = ring_of(keys, self._path)
        except ConfigError as error:
            self._seen = seen  # so that it is told once
            log.error("keys-kept-as-they-were", file=str(self._path), reason=error.detail)
            return
        if ring.key_ids() != self._ring.key_ids():
            self._ring = ring
            log.info("keys-changed", keys=len(keys), newest=ring.newest.hex())


_Seen = tuple[int, ...]


def _seen(path: Path) -> _Seen:
    """What tells that a file was written, replaced or opened to others; nothing for one that can't be found."""
    try:
        return _looks(path.stat())
    except OSError:
        return ()


def _looks(status: os.stat_result) -> _Seen:
    return status.st_dev, status.st_ino, status.st_size, status.st_mode, status.st_mtime_ns, status.st_ctime_ns


def _read_keys(path: Path) -> tuple[tuple[MasterKey, ...], _Seen]:
    try:
        with path.open() as file:
            status = os.fstat(file.fileno())
            lines = file.read().splitlines()
        around = path.resolve().parent.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"can't read the keys in {path}: {reason}") from None
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"others can read the keys in {path}; make them yours alone: chmod 600 {path}")
    if around & stat.S_IWOTH and not around & stat.S_ISVTX:
        raise ConfigError(
            f"anybody can replace the keys in {path}; close the folder: chmod o-w {path.resolve().parent}"
        )
    try:
        keys = tuple(_read_key(line) for line in lines if line.strip())
    except ValueError:
        raise ConfigError(f"{path} is not a key file; each line is a key of {KEY_BYTES} bytes in hex") from None
    if not keys:
        raise ConfigError(f"there is no key in {path}; take the file away, and farebox makes a new one")
    return keys, _looks(status)


def _read_key(line: str) -> MasterKey:
    digits, _, remark = line.partition("#")
    remark = remark.strip()
    made_at = datetime.fromisoformat(remark.removeprefix(_MADE)) if remark.startswith(_MADE) else None
    return MasterKey(master=Secret(bytes.fromhex(digits.strip())), made_at=made_at)


# --- the sandbox that was left running --------------------------------------------------------------------------------


def read_json(path: Path) -> Mapping[str, str]:
    """A small file of ours; empty where there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def sandbox_file(folder: Path, port: int) -> Path:
    """Where a running sandbox leaves the addresses of its wallets."""
    return folder / f"sandbox-{port}.json"


def running_sandbox(folder: Path) -> Mapping[str, str]:
    """The wallets of the sandbox that was started last and still answers; empty where there is none."""
    for file in sorted(folder.glob("sandbox-[0-9]*.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            with socket.create_connection(("127.0.0.1", int(file.stem.removeprefix("sandbox-"))), timeout=1):
                return read_json(file)
        except (OSError, ValueError):
            continue
    return {}
