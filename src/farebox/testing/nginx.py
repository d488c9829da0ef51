"""A real nginx in front of what is tested."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 20.0

_CONFIG: Final = """
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    log_format told '$status\t$upstream_status\t$upstream_cache_status\t$request';
    access_log {folder}/access.log told;
    {http}
    server {{
        listen 127.0.0.1:{port};
        {server}
    }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A line of the access log. upstream: the statuses that came from behind, one for each time it asked."""

    status: int
    upstream: tuple[int, ...]
    cache: str
    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nginx:
    """A running nginx."""

    folder: Path
    port: int

    def logged(self) -> list[Logged]:
        """Its access log so far."""
        told = []
        for line in (self.folder / "access.log").read_text("latin-1").splitlines():
            status, upstream, cache, request = line.split("\t", 3)
            asked = tuple(int(each) for each in upstream.replace(":", ",").split(",") if each.strip(" -"))
            told.append(Logged(status=int(status), upstream=asked, cache=cache, request=request))
        return told


def nginx_path() -> str | None:
    """Where nginx is, if it is."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def opened_nginx(folder: Path, *, server: str, http: str = "") -> Iterator[Nginx]:
    """nginx on a free port, with these lines in its `server` and `http` blocks; `{folder}` in them is its own."""
    command = nginx_path()
    if command is None:
        raise FileNotFoundError("nginx")
    folder.mkdir(parents=True)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    config = _CONFIG.format(
        user="user root root;" if os.geteuid() == 0 else "",  # its worker has to write here
        folder=folder,
        port=port,
        http=http.replace("{folder}", str(folder)),
        server=server.replace("{folder}", str(folder)),
    )
    (folder / "nginx.conf").write_text(config)
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [command, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
        )
    try:
        _wait_until_open(process, port, folder)
        yield Nginx(folder=folder, port=port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)


def _wait_until_open(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            told = (folder / "stderr").read_text()
            assert process.poll() is None, told
            assert time.monotonic() < until, told
            time.sleep(0.01)
        else:
            return
