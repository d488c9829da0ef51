"""`farebox call` when the wallet can't tell, when somebody presses Ctrl-C, and when its terminal is watched."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.http.request import Receive, Scope, Send
from farebox.stores import open_purse
from farebox.testing.market import whole_body

pytestmark = pytest.mark.system

PATIENCE_S = 20.0


@dataclass
class Line:
    """Between a buyer and its wallet: pays what it is asked to pay, and loses so many replies afterwards.

    silent: for as long as this is so, it does not say that it has paid.
    """

    wallet: str = ""
    lost_replies: int = 0
    silent: bool = False
    paying: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        kept = ("authorization", "content-type", "content-length", "accept")
        headers = {n.decode(): v.decode() for n, v in scope["headers"] if n.decode() in kept}
        query = scope["query_string"].decode()
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.request(
                scope["method"],
                self.wallet + scope["path"] + (f"?{query}" if query else ""),
                headers=headers,
                content=await whole_body(receive),
            )
        if scope["path"] == "/payinvoice":
            self.paying.set()
        while self.silent and self.paying.is_set():
            await asyncio.sleep(0.01)
        told = [(b"content-length", b"%d" % len(answer.content))]
        if self.lost_replies and self.paying.is_set():
            self.lost_replies -= 1
            await send({"type": "http.response.start", "status": answer.status_code, "headers": told})
            raise ConnectionResetError
        await send({"type": "http.response.start", "status": answer.status_code, "headers": told})
        await send({"type": "http.response.body", "body": answer.content})


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def shop(open_shop: Any, writer_url: str) -> Iterator[Any]:
    with open_shop("--upstream", writer_url, "--price", "21sat", "--free-calls", "0") as shop:
        yield shop


@pytest.fixture
def wallet(shop: Any, line: Line, serve_app: Any) -> Iterator[str]:
    """The buyer's wallet, by way of the line."""
    password, _, at = shop.place["buyer_wallet"].removeprefix("phoenixd+http://").partition("@")
    line.wallet = f"http://{at}"
    with serve_app(line) as url:
        yield f"phoenixd+http://{password}@{url.removeprefix('http://')}"
        line.silent = False


@pytest.fixture
def call(shop: Any, wallet: str, farebox: Any) -> Any:
    return lambda *arguments: farebox("call", shop.url, *arguments, FAREBOX_WALLET=wallet, FAREBOX_STATE="buyer")


@pytest.fixture
def spent(farebox: Any) -> Any:
    """What all calls together have cost, in millisatoshis."""
    return lambda: 500_000 - json.loads(farebox("budget", FAREBOX_STATE="buyer").stdout.splitlines()[0])["left_msat"]


def test_a_payment_of_which_the_wallet_can_not_tell_is_waited_for_and_then_served(
    call: Any, line: Line, writer: Any, spent: Any
) -> None:
    line.lost_replies = 3
    told = call("-d", "hello")
    assert 0 == told.returncode, told
    assert {"text": writer.runs["hello"][0]} == json.loads(told.stdout)
    assert "the wallet can't tell yet" in told.stderr
    assert 21_000 == spent()


def test_when_the_patience_ends_it_says_so_with_5_and_the_same_call_finds_the_payment(
    call: Any, line: Line, spent: Any
) -> None:
    line.lost_replies = 1_000
    told = call("-d", "hello", "--payment-timeout", "0.5")
    said = json.loads(told.stderr.splitlines()[-1])
    assert (5, "payment-unresolved", None) == (told.returncode, said["type"], said["money_moved"])
    line.lost_replies = 0
    again = call("-d", "hello")
    assert 0 == again.returncode, again
    assert "paid earlier" in again.stderr
    assert 21_000 == spent()


@pytest.mark.parametrize("of_a_token", [False, True])
def test_ctrl_c_while_paying_says_that_it_may_still_go_through_and_the_same_call_finds_it(
    call: Any, line: Line, shop: Any, wallet: str, spent: Any, start_farebox: Any, farebox: Any, of_a_token: bool
) -> None:
    made = farebox("purse", "add", "agent", "--limit", "100 sat/day", FAREBOX_STATE="buyer").stdout
    named = ("--purse", made.strip()) if of_a_token else ()
    line.silent = True
    process = start_farebox("call", shop.url, "-d", "hello", *named, FAREBOX_WALLET=wallet, FAREBOX_STATE="buyer")
    assert line.paying.wait(PATIENCE_S)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    said = json.loads(err.splitlines()[-1])
    assert (5, b"", "payment-unresolved") == (process.returncode, out, said["type"])
    assert "may still go through" in said["detail"]
    assert said["next_step"].startswith("Make the same call again")

    line.silent = False
    again = call("-d", "hello", *named)
    assert 0 == again.returncode, again
    assert 21_000 == spent()


def test_ctrl_c_before_anything_is_paid_is_only_that(writer: Any, writer_url: str, start_farebox: Any) -> None:
    writer.held = True
    process = start_farebox("call", writer_url, "-d", "hello", FAREBOX_STATE="buyer")
    until = time.monotonic() + PATIENCE_S
    while not writer.runs and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert (b"", b"") == process.communicate(timeout=PATIENCE_S)
    writer.held = False
    assert 130 == process.returncode


def test_the_exchange_is_told_without_its_secrets(call: Any, shop: Any, wallet: str) -> None:
    told = call("-d", "hello", "-v", "-H", "Authorization: Bearer sk-secret", "-H", "Cookie: a=secret-too")
    proof = [line for line in told.stderr.splitlines() if line.startswith("> authorization: L402")]
    assert 0 == told.returncode, told
    assert 1 == len(proof)
    assert "< HTTP/1.1 402 Payment Required" in told.stderr
    password = wallet.removeprefix("phoenixd+http://:").partition("@")[0]
    for secret in ("sk-secret", "secret-too", password, 'macaroon="'):
        assert secret not in told.stderr


def test_with_s_nothing_is_said_of_what_went_well(call: Any) -> None:
    told = call("-d", "hello", "-s")
    assert (0, "") == (told.returncode, told.stderr)


def test_events_are_printed_as_they_come(serve_app: Any, start_farebox: Any) -> None:
    go_on = threading.Event()

    async def events(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: one\n\n", "more_body": True})
        await asyncio.to_thread(go_on.wait, PATIENCE_S)
        await send({"type": "http.response.body", "body": b"data: two\n\n"})

    with serve_app(events) as url:
        process = start_farebox("call", url)
        assert process.stdout is not None
        assert b"data: one\n" == process.stdout.readline()  # while the second one is not sent yet
        go_on.set()
        rest = process.stdout.read()
    assert (b"\ndata: two\n\n", 0) == (rest, process.wait(timeout=PATIENCE_S))


def to_nobody(folder: Path, *arguments: str, **more: str) -> tuple[int, bytes]:
    """The exit code and standard error of a command whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return printing_onto(write, folder, *arguments, **more)


def to_a_full_disk(folder: Path, *arguments: str, **more: str) -> tuple[int, bytes]:
    """The same of a command whose output is a file on a disk that is full."""
    return printing_onto(os.open("/dev/full", os.O_WRONLY), folder, *arguments, **more)


def printing_onto(write: int, folder: Path, *arguments: str, **more: str) -> tuple[int, bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAREBOX_", "PYTHON"))}
    command = [Path(sys.executable).with_name("farebox"), *arguments]
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            cwd=folder,
            env={**kept, "HOME": str(folder), "FAREBOX_STATE": "buyer", **more},
        )
    finally:
        os.close(write)
    return ran.returncode, ran.stderr


@pytest.mark.parametrize("arguments", [(), ("-i",)])
def test_a_call_whose_reader_has_gone_ends_as_by_sigpipe_and_the_same_call_has_the_answer(
    arguments: tuple[str, ...], call: Any, shop: Any, wallet: str, writer: Any, spent: Any, farebox: Any, tmp_path: Path
) -> None:
    assert (141, b"") == to_nobody(tmp_path, "call", shop.url, "-d", "hello", *arguments, FAREBOX_WALLET=wallet)
    (bought,) = farebox("history", FAREBOX_STATE="buyer").stdout.splitlines()
    assert ("captured", False, 21_000) == tuple(json.loads(bought)[n] for n in ("state", "served", "amount_msat"))
    again = call("-d", "hello")
    assert {"text": writer.runs["hello"][0]} == json.loads(again.stdout)
    assert "paid earlier" in again.stderr
    assert 21_000 == spent()


@pytest.mark.parametrize("arguments", [("budget",), ("purse", "add", "bot", "--limit", "9 sat/day"), ("--version",)])
def test_every_command_whose_reader_has_gone_ends_as_by_sigpipe(arguments: tuple[str, ...], tmp_path: Path) -> None:
    open_purse(tmp_path / "buyer" / "purse.db").close()
    assert (141, b"") == to_nobody(tmp_path, *arguments)


def test_an_answer_for_which_the_disk_has_no_room_is_told_in_one_line_and_the_same_call_has_it(
    call: Any, shop: Any, wallet: str, writer: Any, spent: Any, tmp_path: Path
) -> None:
    code, told = to_a_full_disk(tmp_path, "call", shop.url, "-d", "hello", FAREBOX_WALLET=wallet)
    (line,) = told.splitlines()
    complaint = json.loads(line)
    assert (8, "paid-not-served", True) == (code, complaint["type"], complaint["money_moved"])
    assert "No space left" in complaint["detail"]
    again = call("-d", "hello")
    assert {"text": writer.runs["hello"][0]} == json.loads(again.stdout)
    assert "paid earlier" in again.stderr
    assert 21_000 == spent()


def test_an_object_for_which_the_disk_has_no_room_says_what_was_paid(
    shop: Any, wallet: str, spent: Any, tmp_path: Path
) -> None:
    code, told = to_a_full_disk(tmp_path, "call", shop.url, "-d", "hello", "--json", "-s", FAREBOX_WALLET=wallet)
    (line,) = told.splitlines()
    complaint = json.loads(line)
    assert (1, True, 21_000) == (code, complaint["money_moved"], complaint["amount_msat"])
    assert 21_000 == spent()


@pytest.mark.parametrize("arguments", [("budget",), ("purse", "add", "bot", "--limit", "9 sat/day")])
def test_every_command_for_which_the_disk_has_no_room_says_so_in_one_line(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    open_purse(tmp_path / "buyer" / "purse.db").close()
    code, told = to_a_full_disk(tmp_path, *arguments)
    (line,) = told.splitlines()
    assert 1 == code
    assert "No space left" in json.loads(line)["detail"]


@pytest.mark.parametrize("arguments", [("budget",), ("--version",), ("call", "http://127.0.0.1:9/")])
def test_a_standard_output_that_is_closed_is_told_in_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, sys; os.close(1); os.execv(sys.argv[1], sys.argv[1:])"]
    farebox = str(Path(sys.executable).with_name("farebox"))
    ran = subprocess.run(
        [*command, farebox, *arguments], stderr=subprocess.PIPE, timeout=PATIENCE_S, cwd=tmp_path, check=False
    )
    (line,) = ran.stderr.splitlines()
    assert (1, False) == (ran.returncode, json.loads(line)["money_moved"])
    assert "standard output is closed" in json.loads(line)["detail"]


def test_a_standard_input_that_is_closed_is_an_empty_one(farebox: Any, writer_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, sys; os.close(0); os.execv(sys.argv[1], sys.argv[1:])"]
    program = str(Path(sys.executable).with_name("farebox"))
    ran = subprocess.run(
        [*command, program, "call", writer_url, "-d", "@-"],
        capture_output=True, timeout=PATIENCE_S, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert b"Traceback" not in ran.stderr
    assert 0 == ran.returncode, ran
