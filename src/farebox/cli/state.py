"""Where farebox keeps things for a person: their state folder, their keys, the sandbox they left running.

Rules
1. Everything here is readable by its owner alone; a key that others can read is refused, not used.
2. A file is written beside its name and moved over it, so that a reader sees the whole or the old one.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from farebox.core.errors import ConfigError
from farebox.core.secret import KEY_BYTES, KeyRing

OWNER_ONLY: Final = 0o600


def state_dir() -> Path:
    """`$FAREBOX_STATE`, or farebox's folder under `$XDG_STATE_HOME` or `~/.local/state`."""
    chosen = os.environ.get("FAREBOX_STATE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "farebox"


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
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"can't write {path}: {error.strerror}") from None


def key_ring(path: Path) -> KeyRing:
    """The master keys in a file, one per line in hex, oldest first; a new one is made where there is no file.

    Raises ConfigError when others can read the file, or it holds something else.
    """
    if not path.exists():
        write_private(path, secrets.token_hex(KEY_BYTES) + "\n")
    try:
        mode = path.stat().st_mode
        lines = path.read_text().split()
    except OSError as error:
        raise ConfigError(f"can't read the keys in {path}: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"others can read the keys in {path}; make them yours alone: chmod 600 {path}")
    try:
        return KeyRing([bytes.fromhex(line) for line in lines])
    except ValueError:
        raise ConfigError(f"{path} is not a key file; each line is a key of {KEY_BYTES} bytes in hex") from None


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
