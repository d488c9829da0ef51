"""The servers that are measured, and the one that all of them ask: each a process pinned to a core."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
BODY = '{"data":"' + "x" * 1010 + '"}'
PATIENCE_S = 20

# One process, no log, temporary files of its own; `%s` is the server block.
_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {block}
}}
"""
_ANSWERS = "server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{body}'; }} }}"
_PROXIES = """
    upstream service {{ server {upstream}; keepalive 128; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
"""
_SHOP = """
listen = "127.0.0.1:{port}"
store = "sqlite:///{folder}/ledger.db"
keys = "{folder}/keys"
free_calls = 0

[[route]]
path = "/paid"
method = "GET"
price = "1 sat"
upstream = "http://{upstream}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running process. `address` is host:port."""

    pid: int
    address: str

    def cpu_s(self) -> float:
        """Seconds of CPU that all its threads have used, from /proc/<pid>/stat."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def found(program: str) -> str | None:
    """Where a program is, also where only root looks."""
    return shutil.which(program, path=PATHS)


@contextmanager
def nginx_upstream(folder: Path, core: int) -> Iterator[Server]:
    """An nginx that answers every request with one kilobyte of JSON."""
    port = free_port()
    with _nginx(folder, core, port, _ANSWERS.format(port=port, body=BODY)) as server:
        yield server


@contextmanager
def nginx_proxy(folder: Path, core: int, upstream: Server) -> Iterator[Server]:
    """The yardstick: an nginx that passes everything on."""
    port = free_port()
    with _nginx(folder, core, port, _PROXIES.format(port=port, upstream=upstream.address)) as server:
        yield server


@contextmanager
def proxy_alone(folder: Path, core: int, upstream: Server) -> Iterator[Server]:
    """Our proxy without a gate."""
    port = free_port()
    command = [sys.executable, str(HERE / "proxy_app.py"), f"http://{upstream.address}", str(port)]
    with _running(command, folder, core, port) as server:
        yield server


@contextmanager
def gateway(folder: Path, core: int, upstream: Server, port: int) -> Iterator[Server]:
    """`farebox serve` as anyone runs it, but for its log; ledger and keys are in the folder."""
    (folder / "farebox.toml").write_text(_SHOP.format(port=port, folder=folder, upstream=upstream.address))
    farebox = Path(sys.executable).with_name("farebox")
    command = [
        str(farebox),
        "serve",
        str(folder / "farebox.toml"),
        "--state-dir",
        str(folder),
        "--log-level",
        "warning",
    ]
    with _running(command, folder, core, port) as server:
        yield server


def free_port() -> int:
    """A port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _nginx(folder: Path, core: int, port: int, block: str) -> Iterator[Server]:
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, block=block))
    with _running(
        [found("nginx") or "nginx", "-c", str(config), "-e", str(folder / "error.log")], folder, core, port
    ) as it:
        yield it


@contextmanager
def _running(command: list[str], folder: Path, core: int, port: int) -> Iterator[Server]:
    folder.mkdir(exist_ok=True)
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(["taskset", "-c", str(core), *command], stdout=log, stderr=log)
    try:
        _wait_for(process, port, folder / "output.log")
        yield Server(pid=process.pid, address=f"127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"bench: {process.args!r} does not listen on {port}:\n{log.read_text(errors='replace')[-2000:]}")
