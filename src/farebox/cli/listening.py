"""Where callers are heard: bound sockets, for one process or shared by many.

Rules
1. An address that somebody listens on is refused in one line, also where the system would let us share it.
2. Each of several processes has a socket of its own, where the system deals connections out to them (Linux,
   SO_REUSEPORT): of one that they all listen on, whoever is awake takes most. Measured with 64 connections and 4
   processes, the busiest had 54 of them that way, and 25 this way. Whoever bound them keeps them open, so that what
   waits in one is there for the next process that is given it.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from farebox.core.errors import ConfigError

_WAITING_TO_BE_TAKEN: Final = 2048

# Classic BPF for the TCP header of what arrives: load the byte of flags; where SYN is set take nothing, else all of it.
_SO_ATTACH_FILTER: Final = 26
_NO_SYN: Final = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


def listening_socket(host: str, port: int, *, option: str = "--listen") -> socket.socket:
    """A bound socket. Raises ConfigError in one line, naming the option, when the address is taken or not ours."""
    return _bound(host, port, shared=False, option=option)


def listening_sockets(host: str, port: int, *, processes: int) -> list[socket.socket]:
    """Bound sockets of one address, for so many processes; one alone where connections can't be dealt out.

    Raises ConfigError as listening_socket does.
    """
    first = listening_socket(host, port)
    if processes == 1 or sys.platform != "linux":
        return [first]
    port = first.getsockname()[1]
    first.close()
    return [_bound(host, port, shared=True) for _ in range(processes)]


def url_of(host: str, port: int) -> str:
    """The address, as a URL."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def hear_nobody_new(listening: socket.socket) -> None:
    """Let connections that are being made be made, and no other: so that the socket can be emptied before it is closed.

    Closing it resets whoever waits in it. Who comes meanwhile tries again after a second, and then is refused at once.
    Elsewhere than on Linux this does nothing.
    """
    if sys.platform == "linux" and listening.family != socket.AF_UNIX:
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
        with suppress(OSError):  # then a connection in a thousand upgrades may be reset
            told = struct.pack("HL", len(_NO_SYN), ctypes.addressof(program))
            listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, told)


def waiting(listening: socket.socket) -> Iterator[socket.socket]:
    """Whoever waits in a listening socket to be taken."""
    listening.setblocking(False)
    while True:
        try:
            connection, _ = listening.accept()
        except ConnectionAbortedError:
            continue
        except OSError:  # nobody waits any more
            return
        connection.setblocking(False)
        yield connection


def _bound(host: str, port: int, *, shared: bool, option: str = "--listen") -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_WAITING_TO_BE_TAKEN, reuse_port=shared)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # where the address is told once more
        raise ConfigError(f"can't listen on {host}:{port} ({reason}); choose another with {option} host:port") from None
