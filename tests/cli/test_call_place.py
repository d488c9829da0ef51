"""Where an answer goes: whole or not there, taken up where it broke off, and printed once."""

from __future__ import annotations

import io
import os
import resource
from pathlib import Path

import httpx
import pytest

from farebox.cli.call_place import AnotherAnswer, Download, Place, Printed, Remembered, check_output, is_whole
from farebox.core.errors import ConfigError, MalformedValue, UsageError

ASKED = httpx.Request("GET", "https://api.example.com/book")
ETAG = {"etag": '"1"'}


class Screen(io.BytesIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def answer(request: httpx.Request = ASKED, status: int = 200, **headers: str) -> httpx.Response:
    told = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
    return httpx.Response(status, headers=told, request=request)


def fill(place: Place, *parts: bytes, **headers: str) -> None:
    assert place.begins(answer(**headers))
    for part in parts:
        place.take(part)


def left(folder: Path, **headers: str) -> Download:
    """What a download leaves that broke off after four bytes, taken up again."""
    broken = Download(folder / "book", key="k", resume=False)
    fill(broken, b"abcd", **headers)
    broken.leave()
    return Download(folder / "book", key="k", resume=True)


def test_the_rest_is_asked_for_only_if_it_is_of_the_same(tmp_path: Path) -> None:
    asked = left(tmp_path, **ETAG).asking(ASKED)
    assert ("bytes=4-", '"1"', "identity") == tuple(
        asked.headers[name] for name in ("range", "if-range", "accept-encoding")
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"etag": 'W/"1"'},
        {"etag": '"1"', "content_encoding": "gzip"},
        {"etag": '"\xe9\xff"'},
        {"last_modified": "\xe9"},
        {"etag": f'"{"x" * 5000}"'},
    ],
)
def test_what_can_not_be_told_to_be_the_same_is_asked_for_whole(headers: dict[str, str], tmp_path: Path) -> None:
    assert ASKED is left(tmp_path, **headers).asking(ASKED)


def test_what_another_call_has_left_is_asked_for_whole(tmp_path: Path) -> None:
    left(tmp_path, **ETAG)
    assert ASKED is Download(tmp_path / "book", key="another", resume=True).asking(ASKED)


def test_a_post_is_asked_for_whole(tmp_path: Path) -> None:
    post = httpx.Request("POST", "https://api.example.com/book", content=b"x")
    assert post is left(tmp_path, **ETAG).asking(post)


def test_the_rest_is_put_behind_what_is_here(tmp_path: Path) -> None:
    place = left(tmp_path, last_modified="Sun, 22 Nov 2026 02:00:00 GMT")
    assert place.begins(answer(place.asking(ASKED), 206, content_range="bytes 4-5/6"))
    place.take(b"ef")
    place.finish()
    assert b"abcdef" == (tmp_path / "book").read_bytes()
    assert ["book"] == [file.name for file in tmp_path.iterdir()]


def test_a_whole_answer_takes_the_place_of_what_is_here(tmp_path: Path) -> None:
    place = left(tmp_path, **ETAG)
    assert place.begins(answer(place.asking(ASKED), 200))
    place.take(b"ABCDEF")
    place.finish()
    assert b"ABCDEF" == (tmp_path / "book").read_bytes()


@pytest.mark.parametrize(
    ("status", "span"),
    [(206, "bytes 3-5/6"), (206, "bytes 4-4/6"), (206, "bytes 4-5/*"), (206, ""), (416, "bytes */4")],
)
def test_a_part_that_does_not_fit_is_not_taken_and_all_is_asked_for(status: int, span: str, tmp_path: Path) -> None:
    place = left(tmp_path, **ETAG)
    assert not place.begins(answer(place.asking(ASKED), status, content_range=span))
    assert ASKED is place.asking(ASKED)


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    place = Download(tmp_path / "book", key="k", resume=False)
    fill(place, b"abc")
    assert not (tmp_path / "book").exists()
    place.finish()
    assert b"abc" == (tmp_path / "book").read_bytes()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "book")
    place = Download(tmp_path / "link", key="k", resume=False)
    fill(place, b"abc")
    place.finish()
    assert (tmp_path / "link").is_symlink()
    assert b"abc" == (tmp_path / "book").read_bytes()


def test_what_is_printed_is_not_printed_twice() -> None:
    out = io.BytesIO()
    place = Printed(out)
    fill(place, b"abc", b"d")
    fill(place, b"a", b"bcde", b"f")
    place.finish()
    assert (b"abcdef", 6) == (out.getvalue(), place.size)


@pytest.mark.parametrize("again", [b"abXdef", b"abc"])
def test_another_answer_is_not_printed_behind_the_first_one(again: bytes) -> None:
    out = io.BytesIO()
    place = Printed(out)
    fill(place, b"abcd")

    def come_again() -> None:
        fill(place, again)
        place.finish()

    with pytest.raises(AnotherAnswer):
        come_again()
    assert b"abcd" == out.getvalue()


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ((b"\x1b]0;mine\x07", b"\x1b[2J"), "�]0;mine��[2J\n"),
        ((b"\x9b2J \x7f \xc2\x9b2J",), "�2J � �2J\n"),
        ((b"sm\xc3", b"\xb8r\tbr\xc3\xb8d\r", b"\nost\n"), "smør\tbrød\nost\n"),
        ((b"paid 9999 sat\rfree", b"\r"), "paid 9999 sat�free�\n"),
        ((b"\xe2\x80\xaetas", b"\xc3"), "�tas�\n"),
        ((), ""),
    ],
)
def test_a_terminal_shows_what_a_stranger_wrote_and_does_not_obey_it(parts: tuple[bytes, ...], shown: str) -> None:
    screen = Screen()
    place = Printed(screen)
    fill(place, *parts)
    place.finish()
    assert shown == screen.getvalue().decode()
    assert len(b"".join(parts)) == place.size


def test_a_terminal_does_not_obey_the_head_of_an_answer_and_a_pipe_gets_it_as_it_is() -> None:
    told = {}
    for out in (Screen(), io.BytesIO()):
        Printed(out).head(["HTTP/1.1 200 \x1b[2J", "x-name: \x9b31m"])
        told[type(out)] = out.getvalue().decode()
    assert "HTTP/1.1 200 �[2J\nx-name: �31m\n\n" == told[Screen]
    assert "HTTP/1.1 200 \x1b[2J\r\nx-name: \x9b31m\r\n\r\n" == told[io.BytesIO]


def test_a_pipe_gets_the_bytes_as_they_are() -> None:
    out = io.BytesIO()
    place = Printed(out)
    fill(place, bytes(range(256)))
    place.finish()
    assert bytes(range(256)) == out.getvalue()


@pytest.mark.parametrize(
    ("there", "whole"),
    [
        ({"book": b"all"}, True),
        ({}, False),
        ({"book": b""}, False),  # made beforehand, as by mktemp
        ({"book": b"old", "book.part": b"ne"}, False),
        ({"book.part": b"ne"}, False),
    ],
)
def test_a_download_is_whole_when_it_has_its_name_and_no_part_is_left(
    there: dict[str, bytes], whole: bool, tmp_path: Path
) -> None:
    for name, content in there.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "book")
    assert {whole} == {is_whole(tmp_path / "book"), is_whole(tmp_path / "link")}
    assert not is_whole(Path(os.devnull))


def test_what_is_too_large_for_a_json_object_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="-o FILE"):
        fill(Remembered(), b"x" * (16 * 1024 * 1024), b"x")


def test_a_place_that_can_not_be_written_to_is_found_out_before(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "no" / "book"):
        with pytest.raises(ConfigError, match="nothing was sent"):
            check_output(place)
    with pytest.raises(MalformedValue):
        check_output(tmp_path / "a\x1b[2Jb")


@pytest.mark.parametrize(
    "note",
    [
        b'{"call": "k", "validator": "\\u00e9"}',
        b'{"call": "k", "validator": "\\"1\\"\\r\\nCookie: x"}',
        b'{"call": "k", "validator": 7}',
        b"[]",
        b"\xff",
        b"[" * 50_000,
    ],
)
def test_what_is_noted_is_used_only_if_it_can_be_sent(note: bytes, tmp_path: Path) -> None:
    left(tmp_path, **ETAG)
    (tmp_path / "book.part.json").write_bytes(note)
    assert ASKED is Download(tmp_path / "book", key="k", resume=True).asking(ASKED)


@pytest.mark.parametrize("name", ["book.part", "book.part.json"])
def test_a_link_that_somebody_has_put_there_is_not_followed(name: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / name).symlink_to(precious)
    with pytest.raises(UsageError):
        check_output(tmp_path / "book")
    with pytest.raises(ConfigError):
        fill(Download(tmp_path / "book", key="k", resume=False), b"abcd", **ETAG)
    assert "mine" == precious.read_text()


def test_a_note_is_not_read_from_where_a_link_leads(tmp_path: Path) -> None:
    left(tmp_path, **ETAG)
    note = tmp_path / "book.part.json"
    note.rename(tmp_path / "elsewhere")
    note.symlink_to(tmp_path / "elsewhere")
    assert ASKED is Download(tmp_path / "book", key="k", resume=True).asking(ASKED)


def test_a_disk_that_is_full_is_seen_with_the_part_for_which_it_has_no_room(tmp_path: Path) -> None:
    """Not at the end, when the answer counts as served."""
    download = Download(tmp_path / "book", key="k", resume=False)
    assert download.begins(answer())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3, before[1]))
        with pytest.raises(ConfigError, match="can't write"):
            download.take(b"abcd")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
