"""What keeps a shop from starting is said in one line, which names it and what to do."""

from __future__ import annotations

import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

ROUTE = '[[route]]\npath = "/x"\nprice = "21 sat"\ndemo = true\n'
SOMEWHERE = ("--listen", "127.0.0.1:0", "--state-dir", "state")
UPSTREAM = ("--upstream", "http://127.0.0.1:9", "--price", "21sat", *SOMEWHERE)


def refusal(told: Any) -> str:
    """The one line that a command which can't run leaves, on its way out with code 1."""
    assert (1, "") == (told.returncode, told.stdout), told
    (line,) = told.stderr.splitlines()
    return json.loads(line)["message"]


def test_a_port_that_is_taken_is_named(farebox: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        told = refusal(farebox("serve", *UPSTREAM, "--listen", address))
    assert f"can't listen on {address} (Address already in use); choose" in told
    assert "--listen" in told


def test_an_address_of_the_metrics_that_is_taken_is_named_with_its_own_option(farebox: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = refusal(farebox("serve", *UPSTREAM, "--metrics", f"127.0.0.1:{taken.getsockname()[1]}"))
    assert "choose another with --metrics" in told


def test_a_ledger_in_a_folder_that_is_not_there_is_refused_and_nothing_is_made(farebox: Any, tmp_path: Path) -> None:
    told = refusal(farebox("serve", *UPSTREAM, "--store", f"sqlite:///{tmp_path}/mounted/shop.db"))
    assert "The ledger can't be kept in" in told
    assert "No such file or directory" in told
    assert not (tmp_path / "mounted").exists()


def test_a_folder_that_can_not_be_written_to_is_named(farebox: Any, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, and no folder")
    assert "can't write to state" in refusal(farebox("serve", *UPSTREAM))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_is_forbidden_is_named(farebox: Any, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o500)
    assert "can't write to state" in refusal(farebox("serve", *UPSTREAM))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("free_call = 3\n" + ROUTE, "`free_call` is not known; did you mean `free_calls`?"),
        (ROUTE.replace("price", "prise"), "route 1: `prise` is not known; did you mean `price`?"),
        (ROUTE.replace("21 sat", "21"), "route 1: `price`: A price is written such as `21 sat`"),
        (ROUTE.replace("demo = true", ""), "route 1: needs exactly one of `upstream`, `openai` and `demo`"),
        (ROUTE.replace('"/x"', '"x"'), "'POST x' is no route"),
        (ROUTE + ROUTE, "/x is listed twice"),
        ('trusted_proxies = ["0.0.0.0/0"]\n' + ROUTE, "would let every caller choose an address"),
        ('receiver = "$NOT_SET_ANYWHERE"\n' + ROUTE, "the environment has no NOT_SET_ANYWHERE"),
        ("listen = 8402\n" + ROUTE, "`listen`: a text in quotes"),
        ("", "`route`: Field required"),
        ("[[route\n", "Expected ']]'"),
    ],
)
def test_a_mistake_in_the_file_is_named(written: str, told: str, farebox: Any, tmp_path: Path) -> None:
    (tmp_path / "farebox.toml").write_text(written)
    assert told in refusal(farebox("serve", "farebox.toml", *SOMEWHERE))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "say what is sold"),
        (("nothing.toml",), "can't read nothing.toml"),
        (("--upstream", "http://127.0.0.1:9"), "--upstream needs --price"),
        (("--openai", "http://127.0.0.1:9/v1"), "--openai needs --model"),
        ((*UPSTREAM, "--listen", "8402"), "listen is host:port"),
        ((*UPSTREAM, "--receiver", "lnd://127.0.0.1"), "no wallet has the scheme lnd"),
        (
            (*UPSTREAM, "--store", "mysql://x"),
            "a ledger is kept at a URL; for a file write sqlite:/// in front of its path",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments: tuple[str, ...], told: str, farebox: Any) -> None:
    assert told in refusal(farebox("serve", *arguments))


def test_play_money_is_not_taken_from_the_public(farebox: Any) -> None:
    told = refusal(farebox("serve", *UPSTREAM, "--listen", "0.0.0.0:0"))
    assert "the sandbox moves no real money" in told
    assert "--sandbox" in told


def test_keys_that_others_can_read_are_refused(farebox: Any, tmp_path: Path) -> None:
    key = secrets.token_hex(32)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "keys").write_text(key)
    (tmp_path / "state" / "keys").chmod(0o644)
    told = refusal(farebox("serve", *UPSTREAM))
    assert "others can read the keys" in told
    assert "chmod 600" in told
    assert key not in told


def test_a_key_file_of_something_else_is_refused(farebox: Any, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "keys").touch(mode=0o600)
    (tmp_path / "state" / "keys").write_text("correct horse battery staple")
    told = refusal(farebox("serve", *UPSTREAM))
    assert "is not a key file" in told
    assert "horse" not in told


def test_a_ledger_that_is_none_is_left_alone(farebox: Any, tmp_path: Path) -> None:
    (tmp_path / "shop.db").write_bytes(b"dear diary " * 100)
    assert "shop.db is not a ledger" in refusal(farebox("serve", *UPSTREAM, "--store", "sqlite:///shop.db"))
    assert b"dear diary " * 100 == (tmp_path / "shop.db").read_bytes()
