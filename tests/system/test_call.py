"""`farebox call` and the buyer's other commands: what they print, and their exit codes."""

from __future__ import annotations

import gzip
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from farebox.testing.market import whole_body

pytestmark = pytest.mark.system

CONFIG = """
free_calls = {free_calls}

[[route]]
path = "/write"
method = "POST"
price = "21 sat"
upstream = "{upstream}"

[[route]]
path = "/fortune"
price = "2000000 sat"
upstream = "{upstream}"
"""


@pytest.fixture
def free_calls() -> int:
    return 0


@pytest.fixture
def shop(free_calls: int, open_shop: Any, writer_url: str, tmp_path: Path) -> Iterator[Any]:
    config = tmp_path / "farebox.toml"
    config.write_text(CONFIG.format(free_calls=free_calls, upstream=writer_url))
    with open_shop(str(config)) as shop:
        yield shop


@pytest.fixture
def call(shop: Any, farebox: Any) -> Any:
    """`farebox call` by somebody with a wallet."""
    return lambda *arguments, **more: farebox(
        "call", *arguments, FAREBOX_WALLET=shop.place["buyer_wallet"], FAREBOX_STATE="buyer", **more
    )


def complaint(told: Any) -> dict[str, Any]:
    """The JSON object that a command which failed leaves on standard error."""
    (line,) = told.stderr.splitlines()
    return json.loads(line)


@pytest.mark.parametrize("free_calls", [1])
def test_a_free_call_needs_no_wallet(shop: Any, farebox: Any, writer: Any) -> None:
    told = farebox("call", f"{shop.url}/write", "-d", "hello")
    assert 0 == told.returncode, told
    assert {"text": writer.runs["hello"][0]} == json.loads(told.stdout)
    assert "free\n" == told.stderr


def test_a_paid_call_prints_the_answer_and_apart_from_it_what_it_cost(shop: Any, call: Any, writer: Any) -> None:
    told = call(f"{shop.url}/write", "-d", "hello", "--max", "21sat")
    assert 0 == told.returncode, told
    assert {"text": writer.runs["hello"][0]} == json.loads(told.stdout)
    assert told.stderr.startswith("paid 21 sat (fee 0 sat), payment ")


def test_a_call_can_tell_everything_as_one_json_object(shop: Any, call: Any, writer: Any) -> None:
    told = json.loads(call(f"{shop.url}/write", "-d", "hello", "--json").stdout)
    assert (200, True, 21_000, 0) == tuple(told[name] for name in ("status", "paid", "amount_msat", "fee_msat"))
    assert {"text": writer.runs["hello"][0]} == told["body"]


def test_a_body_can_come_from_a_file_or_from_standard_input(shop: Any, call: Any, writer: Any, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("from a file")
    codes = [
        call(f"{shop.url}/write", "-d", "@prompt.txt").returncode,
        call(f"{shop.url}/write", "-d", "@-", stdin="from a pipe").returncode,
        call(f"{shop.url}/write", "-d", "a=1", "--data", "b=2", "-d", "@-", stdin="c=3").returncode,
    ]
    assert [0, 0, 0] == codes
    assert {"from a file", "from a pipe", "a=1&b=2&c=3"} == set(writer.runs)


def test_a_call_over_its_maximum_is_not_paid_and_ends_with_3(shop: Any, call: Any, writer: Any) -> None:
    told = call(f"{shop.url}/write", "-d", "hello", "--max", "20sat")
    said = complaint(told)
    assert (3, "") == (told.returncode, told.stdout)
    assert ("over-budget", False) == (said["type"], said["money_moved"])
    assert {} == writer.runs


def test_a_call_over_the_budget_is_not_paid_and_ends_with_3(shop: Any, call: Any, writer: Any) -> None:
    first, second = (call(f"{shop.url}/write", "-d", prompt, "--budget", "42 sat/day") for prompt in ("one", "two"))
    assert (0, 3) == (first.returncode, second.returncode)
    assert {"one"} == set(writer.runs)
    assert 21_000 == complaint(second)["left_msat"]


def test_a_wallet_that_can_not_pay_ends_with_4_and_leaves_the_budget_free(shop: Any, call: Any, farebox: Any) -> None:
    told = call(f"{shop.url}/fortune", "--budget", "9000000 sat/day")
    left = farebox("budget", "500 sat/day", FAREBOX_STATE="buyer")
    assert (4, "payment-failed") == (told.returncode, complaint(told)["type"])
    assert 500_000 == json.loads(left.stdout)["left_msat"]


def test_a_server_that_can_not_be_reached_ends_with_6(farebox: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    told = farebox("call", f"http://127.0.0.1:{port}/write")
    assert (6, "", "network") == (told.returncode, told.stdout, complaint(told)["type"])


def test_a_page_that_is_not_there_ends_with_7(shop: Any, call: Any) -> None:
    told = call(f"{shop.url}/nothing")
    assert 7 == told.returncode
    assert "route-unknown" == json.loads(told.stdout)["error"]
    said = complaint(told)
    assert ("server-refused", 404, False) == tuple(said[name] for name in ("type", "status", "money_moved"))
    assert "the server answered 404" in said["message"]


def test_a_refusal_that_was_paid_for_says_so_also_with_s(serve_app: Any, open_shop: Any, farebox: Any) -> None:
    async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 422, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    with serve_app(refuse) as url, open_shop("--upstream", url, "--price", "21sat", "--free-calls", "0") as shop:
        own = {"FAREBOX_WALLET": shop.place["buyer_wallet"], "FAREBOX_STATE": "buyer"}
        told = [farebox("call", shop.url, *more, **own) for more in ((), ("-s",))]
        left = json.loads(farebox("budget", **own).stdout)["left_msat"]
    assert [(7, "no")] * 2 == [(each.returncode, each.stdout) for each in told]
    said = [complaint(each) for each in told]
    assert [(True, 21_000, "server-refused")] * 2 == [(s["money_moved"], s["amount_msat"], s["type"]) for s in said]
    assert all(each["next_step"].startswith("Make the same call again") for each in said)
    assert 479_000 == left  # for the second call pays nothing


def test_a_dry_run_tells_the_price_pays_nothing_and_ends_with_10(shop: Any, call: Any, writer: Any) -> None:
    told = call(f"{shop.url}/write", "-d", "hello", "--dry-run")
    price = json.loads(told.stdout)
    assert (10, {}) == (told.returncode, writer.runs)
    assert ("21 sat", 21_000, True, False) == tuple(price[name] for name in ("price", "amount_msat", "fits", "free"))


def test_with_i_the_head_of_the_answer_is_printed_before_it(shop: Any, call: Any, writer: Any) -> None:
    told = call(f"{shop.url}/write", "-d", "hello", "-i")
    head, _, body = told.stdout.partition("\n\n")
    assert "HTTP/1.1 200 OK" == head.splitlines()[0]
    assert "content-type: application/json" in head.splitlines()
    assert {"text": writer.runs["hello"][0]} == json.loads(body)


@pytest.mark.parametrize(
    ("arguments", "location"),
    [((), "-L follows it"), (("-L",), "the server answered 404")],
)
def test_a_redirect_is_followed_only_where_that_is_wanted(
    arguments: tuple[str, ...], location: str, serve_app: Any, farebox: Any
) -> None:
    async def moved(scope: Any, receive: Any, send: Any) -> None:
        status = 302 if scope["path"] == "/" else 404
        await send({"type": "http.response.start", "status": status, "headers": [(b"location", b"/elsewhere")]})
        await send({"type": "http.response.body", "body": b""})

    with serve_app(moved) as url:
        told = farebox("call", url, *arguments)
    assert location in told.stderr
    assert (7 if arguments else 0) == told.returncode


@pytest.mark.parametrize("place", ["http://a..b/", "http://xn--a/", "http://127.0.0.1:99999/"])
def test_a_redirect_to_what_is_no_address_is_told_in_one_object(place: str, serve_app: Any, farebox: Any) -> None:
    async def moved(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 302, "headers": [(b"location", place.encode())]})
        await send({"type": "http.response.body", "body": b""})

    with serve_app(moved) as url:
        told = [farebox("call", "-L", url), farebox("call", "-L", "--dry-run", url)]
    assert [(6, False)] * 2 == [(each.returncode, complaint(each)["money_moved"]) for each in told]
    assert all("redirects to what is no address" in complaint(each)["message"] for each in told)


def test_what_is_no_text_is_base64_in_a_json_object(serve_app: Any, farebox: Any) -> None:
    async def give(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"\xff\x00"})

    with serve_app(give) as url:
        told = json.loads(farebox("call", url, "--json").stdout)
    assert (None, "/wA=", 2) == (told["body"], told["body_base64"], told["size"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("call", "http://user:password@127.0.0.1:1/"), "credentials"),
        (("call", "http://127.0.0.1:1/", "-d", "@nosuch"), "nosuch"),
        (("call", "http://127.0.0.1:1/", "-o", "no/such/folder/book"), "no/such/folder/book"),
        (("call", "http://127.0.0.1:1/", "--wallet", "bogus://:password@127.0.0.1"), "bogus"),
        (("call", "http://127.0.0.1:1/", "--budget", "500 sat/dya"), "'dya' is no span"),
        (("call", "http://127.0.0.1:1/", "--max-redirects", "many"), "--max-redirects"),
        (("call", "http://127.0.0.1:1/", "-c"), "-c goes with -o FILE"),
        (("call", "http://127.0.0.1:1/", "-c", "-o", "-"), "-c goes with -o FILE"),
        (("call", "http://127.0.0.1:1/", "-i", "--json"), "--json"),
        (("call",), "url"),
        (("call", "http://127.0.0.1:1/", "--nosuch"), "--nosuch"),
        (("budget", "--time-zone", "Nowhere"), "Nowhere"),
        (("approvals", "approve", "7"), "7 is not known"),
        (("purse", "show", "nobody"), "nobody"),
        (("purse", "revoke", "nobody"), "nobody"),
        (("purse", "attenuate", "fbx_", "--until", "2020-01-01"), "2020-01-01"),
        (("proxy",), "FAREBOX_WALLET"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_was_called_wrongly_sends_nothing_and_ends_with_2(
    arguments: tuple[str, ...], named: str, farebox: Any
) -> None:
    more = {"FAREBOX_WALLET": "phoenixd+http://:pw@127.0.0.1:1"} if "--budget" in arguments else {}
    told = farebox(*arguments, **more)
    assert (2, "") == (told.returncode, told.stdout)
    assert "password" not in told.stderr
    told_of = complaint(told)
    assert (2, False) == (told_of["exit_code"], told_of["money_moved"])
    assert named in told_of["message"]


HOSTILE = b"HTTP/1.1 404 Not\x1b[31m Found\r\nServer: \x1b]0;head\x07\r\nConnection: close\r\n\r\n\x1b[2J\x9bbody\tend"


@pytest.fixture
def hostile_url() -> Iterator[str]:
    """A server that writes what no honest one can."""

    def answer() -> None:
        line, _ = listening.accept()
        with line:
            line.recv(65536)
            line.sendall(HOSTILE)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=answer)
        answering.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        answering.join(timeout=20)


def test_a_terminal_does_not_obey_what_a_server_writes(hostile_url: str, tmp_path: Path) -> None:
    shown = on_a_terminal(tmp_path, "call", "-i", "-v", hostile_url)
    assert "�[2J�body" in shown
    assert ["< server: �]0;head�", "server: �]0;head�"] == [line for line in shown.splitlines() if "head" in line]
    assert 3 == shown.count("404 Not�[31m Found")
    assert not set(shown) & {"\x1b", "\x07", "\x9b"}


def test_a_pipe_gets_what_a_server_writes_as_it_is(hostile_url: str, start_farebox: Any) -> None:
    out, _ = start_farebox("call", hostile_url).communicate(timeout=20)
    assert HOSTILE.partition(b"\r\n\r\n")[2] == out


def on_a_terminal(folder: Path, *arguments: str) -> str:
    """All that the command writes to a terminal that knows no colours."""
    ours, theirs = pty.openpty()
    home = {"HOME": str(folder), "PATH": os.environ["PATH"], "TERM": "dumb"}
    command = [Path(sys.executable).with_name("farebox"), *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=home) as running:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # which is how Linux says that the other end is closed
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        assert running.wait(timeout=20) is not None
    return shown.decode()


@pytest.mark.parametrize(
    ("typed", "offered"), [("farebox call --pref", "--prefer"), ("farebox call --prefer p", "payment")]
)
def test_a_shell_can_complete_options_and_their_values(typed: str, offered: str, farebox: Any) -> None:
    words = typed.split()
    more = {"_FAREBOX_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    assert [offered] == farebox(**more).stdout.split()


def test_a_call_that_costs_and_no_wallet_says_how_to_name_one(shop: Any, farebox: Any) -> None:
    told = farebox("call", f"{shop.url}/write", "-d", "hello")
    assert 2 == told.returncode
    assert "FAREBOX_WALLET" in complaint(told)["message"]
    assert complaint(told)["money_moved"] is False


def test_a_shop_on_this_machine_lends_its_play_money(shop: Any, farebox: Any) -> None:
    told = farebox("call", f"{shop.url}/write", "-d", "hello", "--state-dir", str(shop.folder / "seller"))
    assert 0 == told.returncode, told
    assert told.stderr.startswith("paid 21 sat")


def test_the_books_of_both_sides_are_json_in_a_pipe_and_hold_no_secret(shop: Any, call: Any, farebox: Any) -> None:
    call(f"{shop.url}/write", "-d", "hello")
    wallet_url = shop.place["buyer_wallet"]
    told = {
        "ledger": farebox("ledger", shop.place["store"]),
        "budget": farebox("budget", FAREBOX_STATE="buyer"),
        "history": farebox("history", FAREBOX_STATE="buyer"),
        "wallet": farebox("wallet", wallet_url),
    }
    assert {0} == {each.returncode for each in told.values()}
    first = {name: json.loads(each.stdout.splitlines()[0]) for name, each in told.items()}
    assert ("21 sat", True) == (first["ledger"]["earned"], first["ledger"]["balanced"])
    assert 479_000 == first["budget"]["left_msat"]
    assert ("captured", True, "21 sat") == tuple(first["history"][name] for name in ("state", "served", "amount"))
    assert 999_979_000 == first["wallet"]["balance_msat"]
    password = wallet_url.removeprefix("phoenixd+http://:").partition("@")[0]
    assert not any(password in each.stdout + each.stderr for each in told.values())


def test_what_is_packed_without_being_asked_for_is_given_as_it_came(serve_app: Any, farebox: Any) -> None:
    """A few bytes that unfold to gigabytes fill nothing."""
    packed, heard = gzip.compress(bytes(2**20)), []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        heard.append(dict(scope["headers"]).get(b"accept-encoding"))
        headers = [(b"content-encoding", b"gzip"), (b"content-length", b"%d" % len(packed))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": packed})

    with serve_app(app) as url:
        told = json.loads(farebox("call", url, "--json").stdout)
        assert 0 == farebox("call", url, "-H", "accept-encoding: gzip", "-o", "packed").returncode
    assert (len(packed), packed) == (told["size"], b64decode(told["body_base64"]))
    assert [b"identity", b"gzip"] == heard


def test_a_large_file_is_sent_from_where_it_lies(serve_app: Any, farebox: Any, tmp_path: Path) -> None:
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = await whole_body(receive)
        heard.append((dict(scope["headers"])[b"host"].decode(), len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    (tmp_path / "large").write_bytes(bytes(2**20 + 1))
    with serve_app(app) as url:
        told = farebox("call", url, "-d", f"@{tmp_path / 'large'}")
    assert 0 == told.returncode, told
    assert [(url.removeprefix("http://"), 2**20 + 1)] == heard


def test_a_file_that_is_too_large_for_the_server_is_its_refusal(shop: Any, call: Any, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(9 * 2**20))
    told = call(f"{shop.url}/write", "-d", f"@{tmp_path / 'large'}")
    assert (7, 413) == (told.returncode, complaint(told)["status"])


def test_a_maximum_that_a_paying_proxy_would_not_hear_of_is_refused(farebox: Any) -> None:
    way = "http://purse:fbx_AgEN@127.0.0.1:9"
    told = farebox("call", "http://shop.example/", "--max", "1sat", http_proxy=way)
    assert (2, "usage-error") == (told.returncode, complaint(told)["type"])
    assert "--max" in complaint(told)["detail"]
    assert 6 == farebox("call", "http://shop.example/", http_proxy=way).returncode
    assert 6 == farebox("call", "http://127.0.0.1:9/", "--max", "1sat", http_proxy=way, no_proxy="127.0.0.1").returncode
