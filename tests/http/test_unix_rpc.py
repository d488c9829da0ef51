from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from farebox.core.ports import HttpCall, HttpReply, Line
from farebox.http.unix_rpc import aask_unix_rpc, ask_unix_rpc, is_unix_rpc

MOST = 100_000
Serve = Callable[[socket.socket], None]

both = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "awaiting"])


def ask(path: Path | str, blocking: bool, **changes: Any) -> HttpReply:
    call = HttpCall(
        **{"method": "POST", "url": "unix:///rpc/listpays", "line": Line(socket=str(path)), "body": b"{}", **changes}
    )
    if blocking:
        return ask_unix_rpc(call, most_bytes=MOST)
    return asyncio.run(aask_unix_rpc(call, most_bytes=MOST))


@contextmanager
def serving(path: Path, serve: Serve) -> Iterator[None]:
    """A real socket, where one connection is served."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()

        def run() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join()


def request_of(connection: socket.socket) -> dict[str, Any]:
    body = b""
    while not body.endswith(b"\n\n"):
        body += connection.recv(65_536)
    told = json.loads(body)
    assert isinstance(told, dict)
    return told


def replying(*pieces: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        request_of(connection)
        for piece in pieces:
            connection.sendall(piece)

    return serve


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lightning-rpc"


@both
class TestUnixRpc:
    def test_a_call_is_a_method_with_its_parameters_as_they_are(self, path: Path, blocking: bool) -> None:
        seen = []

        def serve(connection: socket.socket) -> None:
            body = b""
            while not body.endswith(b"\n\n"):
                body += connection.recv(65_536)
            seen.append(body)
            told = {"jsonrpc": "2.0", "id": json.loads(body)["id"], "result": {"pays": []}}
            connection.sendall(json.dumps(told).encode() + b"\n\n")

        with serving(path, serve):
            reply = ask(path, blocking, body='{"description": "é"}'.encode())
        assert HttpReply(status=200, body=b'{"pays": []}') == reply
        asked = json.loads(seen[0])
        assert ("2.0", "listpays", {"description": "é"}) == (asked["jsonrpc"], asked["method"], asked["params"])
        assert b"\\u" not in seen[0]

    def test_no_body_is_no_parameters(self, path: Path, blocking: bool) -> None:
        seen = []

        def serve(connection: socket.socket) -> None:
            seen.append(request_of(connection))
            connection.sendall(b'{"jsonrpc":"2.0","id":"farebox","result":{}}\n\n')

        with serving(path, serve):
            assert 200 == ask(path, blocking, body=b"").status
        assert {} == seen[0]["params"]

    def test_an_error_is_a_reply_of_500(self, path: Path, blocking: bool) -> None:
        with serving(path, replying(b'{"jsonrpc":"2.0","id":"farebox","error":{"code":904,"message":"Timed out"}}\n')):
            reply = ask(path, blocking)
        assert (500, {"code": 904, "message": "Timed out"}) == (reply.status, json.loads(reply.body))

    def test_a_reply_is_whole_when_its_object_is_however_it_comes(self, path: Path, blocking: bool) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": "farebox", "result": {"a": {"b": "}"}}}, indent=1).encode()
        with serving(path, replying(*[bytes([octet]) for octet in body], b"\n\n")):
            reply = ask(path, blocking)
        assert {"a": {"b": "}"}} == json.loads(reply.body)

    @pytest.mark.parametrize(
        "told",
        [
            b"<html>{}",
            b"[]{}",
            b"7",
            b"{}",
            b'{"jsonrpc":"2.0","id":"another","result":{}}',
            b'{"jsonrpc":"2.0","id":"farebox"}',
            b'{"jsonrpc":"2.0","id":"farebox","result":{},"error":{}}',
            b'{"jsonrpc":"2.0","id":"farebox","result":{',
            b'{"id":"farebox","result":' + b"[" * 90_000 + b"}",
            b'{"id":"farebox","result":' + b"9" * 5_000 + b"}",
            b"\xff{}",
            b"",
        ],
    )
    def test_what_can_not_be_read_may_have_been_done(self, path: Path, blocking: bool, told: bytes) -> None:
        with serving(path, replying(told)):
            reply = ask(path, blocking)
        assert (0, True, b"") == (reply.status, reply.sent, reply.body)
        assert reply.reason

    def test_a_reply_without_end_is_cut_off(self, path: Path, blocking: bool) -> None:
        with serving(path, replying(*[b'{"a":"}' + b"x" * 65_536] * 100)):
            assert HttpReply(status=0, reason=f"the reply is larger than {MOST} bytes") == ask(path, blocking)

    def test_a_server_that_tells_byte_after_byte_is_not_waited_for_without_end(
        self, path: Path, blocking: bool
    ) -> None:
        over = threading.Event()

        def serve(connection: socket.socket) -> None:
            while not over.wait(0.005):
                connection.sendall(b" ")

        begun = time.monotonic()
        with serving(path, serve):
            reply = ask(path, blocking, timeout=timedelta(milliseconds=50))
            over.set()
        assert HttpReply(status=0, sent=True, reason="ReadTimeout") == reply
        assert time.monotonic() - begun < 1

    def test_a_server_that_reads_nothing_may_have_heard(self, path: Path, blocking: bool) -> None:
        over = threading.Event()
        with serving(path, lambda connection: over.wait(2) and None):
            body = b'{"a":"' + b"x" * 10_000_000 + b'"}'
            reply = ask(path, blocking, body=body, timeout=timedelta(milliseconds=50))
            over.set()
        assert HttpReply(status=0, sent=True, reason="ReadTimeout") == reply

    def test_a_server_that_hangs_up_may_have_heard(self, path: Path, blocking: bool) -> None:
        with serving(path, lambda connection: connection.close()):
            reply = ask(path, blocking)
        assert (0, True) == (reply.status, reply.sent)

    @pytest.mark.parametrize("name", ["nobody-listens", "x" * 200, "a\0b"])
    def test_what_did_not_connect_was_not_sent(self, tmp_path: Path, blocking: bool, name: str) -> None:
        reply = ask(f"{tmp_path}/{name}", blocking)
        assert (0, False) == (reply.status, reply.sent)
        assert reply.reason

    def test_a_socket_of_which_the_server_is_gone_was_not_sent_to(self, path: Path, blocking: bool) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(str(path))
        assert HttpReply(status=0, sent=False, reason="connection refused") == ask(path, blocking)


def test_being_cancelled_is_no_reply_and_leaves_no_connection(path: Path) -> None:
    hung_up = threading.Event()

    def serve(connection: socket.socket) -> None:
        request_of(connection)
        if connection.recv(1) == b"":
            hung_up.set()

    async def cancelled() -> None:
        call = HttpCall(method="POST", url="unix:///rpc/xpay", line=Line(socket=str(path)), timeout=None)
        task = asyncio.create_task(aask_unix_rpc(call, most_bytes=MOST))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with serving(path, serve):
        asyncio.run(cancelled())
    assert hung_up.is_set()


def test_only_a_call_over_a_socket_with_such_a_url_is_one() -> None:
    line = Line(socket="/run/lightning-rpc")
    calls = [
        HttpCall(method="POST", url="unix:///rpc/xpay", line=line),
        HttpCall(method="POST", url="unix:///rpc/xpay"),
        HttpCall(method="POST", url="http://node/rpc/xpay", line=line),
        HttpCall(method="POST", url="unix:///rpc/xpay", line=Line(certificate="a certificate")),
    ]
    assert [True, False, False, False] == [is_unix_rpc(call) for call in calls]
