"""The first command of the README."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from farebox.testing.postgres import wait_for

pytestmark = pytest.mark.system

PATIENCE_S = 20.0


def test_the_demo_goes_as_it_tells(farebox: Any) -> None:
    ran = farebox("demo")
    assert (0, "") == (ran.returncode, ran.stderr), ran.stdout
    assert ran.stdout.count("✓") >= 10


def test_a_demo_that_stays_tells_programs_of_the_shop_that_stays_and_of_no_other(
    start_farebox: Any, tmp_path: Path
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    state = tmp_path / "state.json"
    running = start_farebox("demo", "--keep", "--port", str(port), "--state", str(state))
    wait_for("the shop that stays", lambda: state.exists() or running.poll() is not None, within_s=PATIENCE_S)
    assert running.poll() is None
    assert f"http://127.0.0.1:{port}" == json.loads(state.read_text())["shop"]
    running.send_signal(signal.SIGINT)
    assert 0 == running.wait(timeout=PATIENCE_S)


def test_a_demo_that_stays_beside_another_shop_opens_at_another_port(start_farebox: Any, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with ExitStack() as stack:
        with suppress(OSError):  # or it is taken by somebody else
            stack.enter_context(closing(socket.create_server(("127.0.0.1", 8402))))
        running = start_farebox("demo", "--keep", "--state", str(state))
        wait_for("the shop that stays", lambda: state.exists() or running.poll() is not None, within_s=PATIENCE_S)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=PATIENCE_S)
    assert 0 == running.returncode
    shop = json.loads(state.read_text())["shop"]
    assert not shop.endswith(":8402")
    assert "Port 8402 can't be had" in out.decode()
    assert f"The shop is open at {shop}" in out.decode()


def test_a_port_that_was_named_and_is_taken_is_told_before_the_story(farebox: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        told = farebox("demo", "--keep", "--port", str(taken.getsockname()[1]))
    assert (1, "") == (told.returncode, told.stdout)
    assert "choose another with --port" in json.loads(told.stderr)["message"]
