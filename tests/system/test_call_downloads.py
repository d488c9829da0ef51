"""`farebox call -o`: a download that is whole or not there, goes on where it broke off, and is paid once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.http.request import Receive, Scope, Send
from farebox.testing.market import whole_body

pytestmark = pytest.mark.system

BOOK = random.Random(7).randbytes(3 * 1024 * 1024)
CUT_AT = 1_500_000
SENT_ON = ("accept", "authorization", "range", "if-range")  # a shop gives whole answers, whatever range is asked for


class Shelf:
    """A service whose files say what they are."""

    def __init__(self) -> None:
        self.book = BOOK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await whole_body(receive)
        etag = f'"{sha256(self.book).hexdigest()[:16]}"'.encode()
        headers = [(b"content-length", b"%d" % len(self.book)), (b"etag", etag)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.book})


@dataclass
class Front:
    """What stands in front of a shop: it breaks off answers, and can give the rest of one (RFC 9110, 14)."""

    shop: str = ""
    slices: bool = True
    cuts: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = await whole_body(receive)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.request(
                scope["method"],
                self.shop + scope["path"],
                headers={name: value for name, value in headers.items() if name in SENT_ON},
                content=body or None,
            )
        whole, status = answer.content, answer.status_code
        kept = ("www-authenticate", "content-type", "etag", "retry-after", "payment-replayed")
        told = [(name.encode(), value.encode()) for name, value in answer.headers.multi_items() if name in kept]
        if status == 200:
            span = headers.get("range")
            self.asked.append(span)
            if self.slices and span and headers.get("if-range") == answer.headers["etag"]:
                start = int(span.removeprefix("bytes=").removesuffix("-"))
                told.append((b"content-range", b"bytes %d-%d/%d" % (start, len(whole) - 1, len(whole))))
                whole, status = whole[start:], 206
        told.append((b"content-length", b"%d" % len(whole)))
        await send({"type": "http.response.start", "status": status, "headers": told})
        if answer.status_code == 200 and self.cuts:
            await send({"type": "http.response.body", "body": whole[: self.cuts.pop(0)], "more_body": True})
            raise ConnectionResetError
        await send({"type": "http.response.body", "body": whole})


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def front() -> Front:
    return Front()


@pytest.fixture
def url(shelf: Shelf, front: Front, serve_app: Any, open_shop: Any) -> Iterator[str]:
    with (
        serve_app(shelf) as upstream,
        open_shop("--upstream", upstream, "--price", "21sat", "--free-calls", "0") as shop,
    ):
        front.shop = shop.url
        with serve_app(front) as address:
            yield f"{address}/book"


@pytest.fixture
def call(url: str, tmp_path: Path, farebox: Any) -> Any:
    """`farebox call` by somebody with the play money of the shop."""
    wallet = json.loads((tmp_path / "shop" / "state.json").read_text())["buyer_wallet"]
    return lambda *arguments: farebox("call", *arguments, FAREBOX_WALLET=wallet, FAREBOX_STATE="buyer")


@pytest.fixture
def spent(farebox: Any) -> Any:
    """What all calls together have cost, in millisatoshis."""
    return lambda: 500_000 - json.loads(farebox("budget", FAREBOX_STATE="buyer").stdout)["left_msat"]


def test_a_download_has_its_name_when_it_is_whole_and_nothing_is_left_beside_it(
    url: str, call: Any, tmp_path: Path
) -> None:
    told = call(url, "-o", "book")
    assert (0, "") == (told.returncode, told.stdout), told
    assert BOOK == (tmp_path / "book").read_bytes()
    assert [] == list(tmp_path.glob("book.*"))


def test_a_download_that_breaks_off_is_taken_up_where_it_broke_off(
    url: str, call: Any, front: Front, spent: Any, tmp_path: Path
) -> None:
    front.cuts = [CUT_AT]
    told = call(url, "-o", "book")
    assert 0 == told.returncode, told
    assert "paid 21 sat" in told.stderr
    assert "paid earlier" not in told.stderr
    assert BOOK == (tmp_path / "book").read_bytes()
    assert [None, f"bytes={CUT_AT}-"] == front.asked
    assert 21_000 == spent()


@pytest.mark.parametrize("slices", [True, False])
def test_a_download_that_broke_off_for_good_goes_on_with_c_and_is_not_paid_again(
    slices: bool, url: str, call: Any, front: Front, spent: Any, tmp_path: Path
) -> None:
    front.slices, front.cuts = slices, [CUT_AT, 0, 0, 0]
    broken = call(url, "-o", "book")
    said = json.loads(broken.stderr.splitlines()[-1])
    assert (8, "paid-not-served", True) == (broken.returncode, said["type"], said["money_moved"])
    assert not (tmp_path / "book").exists()
    left = (tmp_path / "book.part").stat().st_size

    told = call(url, "-o", "book", "-c")
    assert 0 == told.returncode, told
    assert "paid earlier" in told.stderr
    assert BOOK == (tmp_path / "book").read_bytes()
    assert (f"bytes={left}-" if left else None) == front.asked[-1]
    assert 21_000 == spent()


def test_a_download_that_is_whole_is_not_bought_again_with_c_and_is_without(
    url: str, call: Any, front: Front, spent: Any, tmp_path: Path
) -> None:
    assert 0 == call(url, "-o", "book").returncode
    asked = list(front.asked)
    told = call(url, "-c", "-o", "book")
    assert (0, "", 21_000) == (told.returncode, told.stdout, spent()), told
    assert "book is whole already" in told.stderr
    assert asked == front.asked
    row = json.loads(call(url, "-c", "-o", "book", "--json").stdout)
    assert (True, False, len(BOOK)) == (row["whole_already"], row["paid"], row["size"])

    (tmp_path / "book").write_bytes(b"another")
    assert 0 == call(url, "-o", "book").returncode
    assert (BOOK, 42_000) == ((tmp_path / "book").read_bytes(), spent())


def test_a_paid_answer_for_which_there_is_no_room_is_paid_and_not_served(
    url: str, call: Any, spent: Any, tmp_path: Path
) -> None:
    (tmp_path / "book.part").mkdir()
    told = call(url, "-o", "book")
    complaint = json.loads(told.stderr.splitlines()[-1])
    assert (8, True, 21_000) == (told.returncode, complaint["money_moved"], spent())
    assert "can't write" in complaint["message"]
    (tmp_path / "book.part").rmdir()
    assert 0 == call(url, "-o", "book").returncode
    assert (BOOK, 21_000) == ((tmp_path / "book").read_bytes(), spent())


def test_a_download_of_what_has_changed_starts_over(
    url: str, call: Any, front: Front, shelf: Shelf, tmp_path: Path
) -> None:
    (tmp_path / "book.part").write_bytes(BOOK[:CUT_AT])
    front.cuts = [CUT_AT, 0, 0, 0]
    call(url, "-o", "book")
    note = tmp_path / "book.part.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"validator": '"of an older one"'}))
    assert 0 == call(url, "-o", "book", "-c").returncode
    assert BOOK == (tmp_path / "book").read_bytes()


def test_what_is_left_of_another_call_is_not_gone_on_with(url: str, call: Any, front: Front, tmp_path: Path) -> None:
    (tmp_path / "book.part").write_bytes(b"of something else")
    (tmp_path / "book.part.json").write_text(json.dumps({"call": "00", "validator": '"x"'}))
    assert 0 == call(url, "-o", "book", "-c").returncode
    assert BOOK == (tmp_path / "book").read_bytes()
    assert [None] == front.asked


def test_an_answer_that_breaks_off_in_a_pipe_is_printed_once(
    url: str, call: Any, shelf: Shelf, front: Front, spent: Any
) -> None:
    shelf.book = b"a line of text\n" * 200_000
    front.cuts = [CUT_AT, CUT_AT + 1]
    told = call(url)
    assert 0 == told.returncode, told.stderr
    assert shelf.book.decode() == told.stdout
    assert 21_000 == spent()


def test_a_file_that_can_not_be_written_is_found_out_before_anything_is_paid(
    url: str, call: Any, spent: Any, front: Front
) -> None:
    told = call(url, "-o", "no/such/folder/book")
    assert 2 == told.returncode
    assert "nothing was sent" in told.stderr
    assert (0, []) == (spent(), front.asked)


def test_a_refusal_is_printed_and_leaves_the_file_as_it_was(call: Any, url: str, front: Front, tmp_path: Path) -> None:
    (tmp_path / "book").write_text("mine")
    front.shop += "/../"
    told = call(url, "-o", "book")
    assert 7 == told.returncode, told
    assert "mine" == (tmp_path / "book").read_text()


def test_a_device_can_take_the_answer(url: str, call: Any) -> None:
    told = call(url, "-o", "/dev/null")
    assert (0, "") == (told.returncode, told.stdout), told
