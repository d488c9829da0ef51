"""What went wrong with a connection is told in plain words, and never in those of the error."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
from websockets.exceptions import InvalidMessage

from farebox.nostr.trouble import reason_of


def caused_by(cause: BaseException) -> Exception:
    """As a library wraps what it caught."""
    trouble = RuntimeError("hunter2")
    trouble.__cause__ = cause
    return trouble


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "hunter2")
    error.verify_message = "self-signed certificate"
    return error


def no_tls() -> ssl.SSLError:
    error = ssl.SSLError(1, "hunter2")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


@pytest.mark.parametrize(
    ("told", "cause"),
    [
        ("unknown host", socket.gaierror(socket.EAI_NONAME, "hunter2")),
        ("its name can't be looked up now", socket.gaierror(socket.EAI_AGAIN, "hunter2")),
        ("its certificate: self-signed certificate", untrusted()),
        ("it does not speak TLS", no_tls()),
        ("no TLS connection", ssl.SSLError(1, "hunter2")),
        ("connection refused", ConnectionRefusedError(errno.ECONNREFUSED, "hunter2")),
        ("the relay closed the connection", ConnectionResetError("the relay closed the connection")),
        ("it is no websocket", InvalidMessage("hunter2")),
        ("ValueError", ValueError("hunter2")),
    ],
)
def test_what_went_wrong_is_told_in_plain_words(told: str, cause: Exception) -> None:
    assert told == reason_of(cause)


@pytest.mark.parametrize("cause", [socket.gaierror(socket.EAI_NONAME, "hunter2"), untrusted(), no_tls()])
def test_it_is_found_behind_the_error_of_a_library(cause: Exception) -> None:
    assert reason_of(cause) == reason_of(caused_by(cause))
