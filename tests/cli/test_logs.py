"""Logs carry no secret."""

import json
import logging
from typing import Any

import pytest
import structlog

from farebox.cli.logs import configure, redact
from farebox.core.secret import Secret

PREIMAGE = "5f" * 32


@pytest.fixture(autouse=True)
def _restored() -> Any:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize(
    "value",
    [
        Secret(PREIMAGE),
        f"preimage {PREIMAGE}",
        f"L402 AgEEbHNhdAJCAABjDc0pZsQz:{PREIMAGE}",
        "Payment eyJjaGFsbGVuZ2UiOnsiaWQiOiJ4In19",
        "Bearer sk-abcdefghijklmnopqrstuvwxyz",
        f"phoenixd+http://:{PREIMAGE}@127.0.0.1:9740",
        "http://user:hunter2@host/",
    ],
    ids=str,
)
def test_what_is_secret_by_type_or_by_looks_is_cut_out(value: object) -> None:
    told = str(redact(None, "info", {"field": value})["field"])
    assert "•••" in told
    assert not any(secret in told for secret in (PREIMAGE, "hunter2", "AgEEbHNh", "eyJja", "sk-abc"))


def test_an_event_is_one_json_object_and_an_error_in_it_is_redacted_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", as_json=True)
    try:
        raise RuntimeError(f"proof {PREIMAGE}")
    except RuntimeError:
        structlog.get_logger("farebox").exception("app-failed", amount_msat=21_000)
    line = capsys.readouterr().err
    event = json.loads(line)
    assert (event["event"], event["amount_msat"], event["level"]) == ("app-failed", 21_000, "error")
    assert PREIMAGE not in line


def test_standard_logging_goes_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", as_json=True)
    logging.getLogger("uvicorn.error").warning("token %s", PREIMAGE)
    line = capsys.readouterr().err
    assert json.loads(line)["event"] == "token •••"


def test_what_is_below_the_level_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning", as_json=True)
    structlog.get_logger("farebox").info("paid")
    assert capsys.readouterr().err == ""
