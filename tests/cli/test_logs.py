"""Logs carry no secret."""

from __future__ import annotations

import base64
import json
import logging
import sys
import threading
import time
from urllib.parse import quote

import pytest
import structlog

from farebox.cli.config import checked
from farebox.cli.logs import DOTS, Redactor, configure, log_what_nobody_catches
from farebox.core.secret import Secret

PREIMAGE = "5f" * 32
RAW = bytes(range(120, 152))
MACAROON = "AgEEbHNhdAJC" + base64.b64encode(bytes(range(200))).decode()
INVOICE = "lnbcrt210n1" + "q" * 200


@pytest.mark.parametrize(
    "value",
    [
        Secret(PREIMAGE),
        f"preimage {PREIMAGE}",
        f"{PREIMAGE}{PREIMAGE}",
        f"L402 AgEEbHNhdAJCAABjDc0pZsQz:{PREIMAGE}",
        f"{{'authorization': 'L402 {MACAROON}:{PREIMAGE}'}}",
        MACAROON,
        quote(MACAROON, safe=""),
        base64.b64encode(RAW).decode(),
        base64.urlsafe_b64encode(RAW).decode().rstrip("="),
        f"got {RAW!r} here",
        RAW,
        "Payment eyJjaGFsbGVuZ2UiOnsiaWQiOiJ4In19",
        "got eyJjaGFsbGVuZ2UiOnsiaWQiOiJ4In19 in a cookie",
        "Bearer sk-abcdefghijklmnopqrstuvwxyz",
        f"phoenixd+http://:{PREIMAGE}@127.0.0.1:9740",
        "http://user:hunter2hunter2@host/",
        "postgresql://shop:hunter2/hunter2@host/db",
        "password='hunter2hunter2'",
        '{"api_key": "hunter2hunter2"}',
        f"paid {INVOICE}",
        {"deep": [{"headers": (f"L402 {MACAROON}",)}]},
        ValueError(f"no such preimage: {PREIMAGE}"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_secret_by_type_or_by_looks_is_cut_out(value: object) -> None:
    told = repr(Redactor()(None, "info", {"field": value})["field"])
    assert DOTS in told
    secrets = (PREIMAGE, "hunter2", "AgEEbHNh", "eyJja", "sk-abc", INVOICE, "eHl6e3x9", "xyz{|}", "%2BAg")
    assert not any(secret in told for secret in secrets)


@pytest.mark.parametrize(
    "value",
    [
        "POST /api/dvm",
        "/files/a/rather/long/path/to/a/document-of-mine.txt",
        "the seller's service answered 500",
        "phoenixd at 127.0.0.1:9740",
        "http://127.0.0.1:8402",
        "postgresql://127.0.0.1/shop",
        21_000,
        0.5,
        True,
        None,
    ],
)
def test_what_is_not_secret_is_told_as_it_is(value: object) -> None:
    assert value == Redactor()(None, "info", {"field": value})["field"]


def test_what_the_shop_is_configured_with_is_cut_out_whatever_it_looks_like() -> None:
    route = {"path": "/x", "price": "1 sat", "upstream": "http://me:open%20sesame@host"}
    model = {"path": "/y", "price": "1 sat", "openai": "http://m/v1", "model": "m", "api_key": "plain-words-key"}
    shop = checked(
        {
            "receiver": "phoenixd+http://:node-pass@127.0.0.1:9740",
            "store": "postgresql://shop:store-pass@127.0.0.1/shop",
            "route": [route | {"upstream_headers": {"authorization": "Token upstream-token"}}, model],
        },
        "farebox.toml",
    )
    redactor = Redactor(shop.secrets)
    for secret in ("node-pass", "store-pass", "open sesame", "open%20sesame", "plain-words-key", "upstream-token"):
        assert redactor.cut(f"it said {secret}, and left") == f"it said {DOTS}, and left"
    assert not any(secret in repr(shop) for secret in ("node-pass", "store-pass", "plain-words", "upstream-token"))


@pytest.mark.parametrize(
    "text",
    [
        "A" * 50_000,
        "%41" * 20_000,
        "b'" + "\\" * 50_000,
        "://" + ":" * 50_000,
        "://a:" * 10_000,
        "b' \\x" * 10_000,
        "token=" * 10_000,
        "L402 " * 10_000,
        "password" + " " * 50_000,
        "eyJ" * 20_000,
        "Ag" * 30_000,
    ],
    ids=lambda text: text[:6],
)
def test_no_text_keeps_the_redactor_busy(text: str) -> None:
    began = time.perf_counter()
    Redactor().cut(text)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("machine", [True, False])
def test_a_traceback_is_redacted_and_shows_no_local_variable(capsys: pytest.CaptureFixture[str], machine: bool) -> None:
    configure("info", as_json=machine)
    kept_in_a_variable = "correct horse " + "battery staple"
    try:
        raise RuntimeError(f"proof {PREIMAGE}", len(kept_in_a_variable))
    except RuntimeError:
        structlog.get_logger("farebox").exception("app-failed", amount_msat=21_000)
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    told = capsys.readouterr().err
    assert told.count("RuntimeError") >= 2
    assert DOTS in told.replace("\\u2022", "•")
    assert not any(secret in told for secret in (PREIMAGE, "horse battery"))


def test_an_event_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", as_json=True)
    structlog.get_logger("farebox").info("paid", amount_msat=21_000, resource="POST /api/dvm")
    event = json.loads(capsys.readouterr().err)
    assert (event["event"], event["amount_msat"], event["level"]) == ("paid", 21_000, "info")
    assert event["timestamp"].endswith("Z")


def test_standard_logging_goes_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", as_json=True)
    logging.getLogger("uvicorn.error").warning("token %s", PREIMAGE)
    line = capsys.readouterr().err
    assert json.loads(line)["event"] == "token •••"


def test_what_is_below_the_level_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning", as_json=True)
    structlog.get_logger("farebox").info("paid")
    assert capsys.readouterr().err == ""


def _fail() -> None:
    raise RuntimeError(f"proof {PREIMAGE}")


def test_an_error_that_nobody_catches_is_logged_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", as_json=True)
    before = sys.excepthook, threading.excepthook, sys.unraisablehook
    undo = log_what_nobody_catches()
    try:
        thread = threading.Thread(target=_fail)
        thread.start()
        thread.join()
        error = RuntimeError(f"proof {PREIMAGE}")
        sys.excepthook(RuntimeError, error, None)
    finally:
        undo()
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert ["not-caught", "not-caught"] == [event["event"] for event in told]
    assert all(DOTS in event["exception"] for event in told)
    assert PREIMAGE not in str(told)
    assert before == (sys.excepthook, threading.excepthook, sys.unraisablehook)


def test_every_line_of_a_worker_says_which_one_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    configure(as_json=True, worker=2)
    structlog.get_logger("farebox").info("served")
    logging.getLogger("of.a.library").error("broken")
    assert [2, 2] == [json.loads(line)["worker"] for line in capsys.readouterr().err.splitlines()]


def test_what_strangers_wrote_is_only_a_text_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure(as_json=False)
    structlog.get_logger().warning("refused", reason="no\x1b]0;mine\x07\x9b2J")
    told = capsys.readouterr().err
    assert "no�]0;mine��2J" in told
