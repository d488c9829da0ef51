"""A folder for the time that one supervisor runs: its sockets, and what its children share.

Rules
1. It is made for its owner alone, and taken away in the end; one that a killed supervisor left, by the next one.
2. Whose supervisor lives is told by a lock, which no process that is gone can hold, and not by a process number.
3. Its path is short enough for a unix socket; where the state folder's is not, it is among the temporary files, in a
   folder that nobody else can have made ready for us.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from farebox.cli.state import made_dir
from farebox.core.errors import ConfigError
from farebox.stores.remote import LONGEST_PATH

_LOCK: Final = "lock"
_LONGEST_NAME: Final = "0123456789/ledger-99999.sock"


@contextmanager
def own_folder(state: Path) -> Iterator[Path]:
    """A new folder, below the state folder where that is possible. Raises ConfigError."""
    around = state.resolve() / "run"
    if len(os.fsencode(around / _LONGEST_NAME)) > LONGEST_PATH:
        around = Path(tempfile.gettempdir()) / f"farebox-{os.getuid()}"
    made_dir(around)
    status = around.lstat()
    if (
        status.st_uid != os.getuid()
        or not stat.S_ISDIR(status.st_mode)
        or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ):
        raise ConfigError(f"{around} is not ours alone; take it away")
    _take_away_left(around)
    own = Path(tempfile.mkdtemp(prefix="", dir=around))
    with (own / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _take_away_left(around: Path) -> None:
    for left in around.glob(f"*/{_LOCK}"):
        with left.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its supervisor lives
            shutil.rmtree(left.parent, ignore_errors=True)
