"""Where callers are heard."""

from __future__ import annotations

import socket
import sys

import pytest

from farebox.cli.listening import hear_nobody_new, listening_socket, listening_sockets, url_of, waiting
from farebox.core.errors import ConfigError

pytestmark = pytest.mark.system

HERE = "127.0.0.1"


def port_of(bound: socket.socket) -> int:
    port: int = bound.getsockname()[1]
    return port


def test_an_address_that_is_taken_is_refused_in_one_line_also_where_it_could_be_shared() -> None:
    with listening_socket(HERE, 0) as taken, pytest.raises(ConfigError, match="can't listen on"):
        listening_sockets(HERE, port_of(taken), processes=2)
    shared = listening_sockets(HERE, 0, processes=2)
    with shared[0], shared[-1], pytest.raises(ConfigError, match="can't listen on"):
        listening_sockets(HERE, port_of(shared[0]), processes=2)


def test_each_process_has_a_socket_of_one_address() -> None:
    sockets = listening_sockets(HERE, 0, processes=3)
    assert 1 == len({port_of(each) for each in sockets})
    assert (3 if sys.platform == "linux" else 1) == len(sockets)
    for each in sockets:
        each.close()


def test_who_waits_in_a_socket_is_found_and_who_comes_after_is_not() -> None:
    with listening_socket(HERE, 0) as listening:
        callers = [socket.create_connection((HERE, port_of(listening)), timeout=5) for _ in range(3)]
        hear_nobody_new(listening)
        late = socket.socket()
        late.setblocking(False)
        late.connect_ex((HERE, port_of(listening)))
        taken = list(waiting(listening))
        assert {each.getsockname() for each in callers} == {each.getpeername() for each in taken}
        assert [] == list(waiting(listening))
    for each in (*callers, *taken, late):
        each.close()


def test_an_address_of_ipv6_is_in_brackets() -> None:
    assert ("http://[::1]:80", "http://127.0.0.1:80") == (url_of("::1", 80), url_of(HERE, 80))
