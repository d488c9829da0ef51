"""What went wrong with a connection, in words for anyone: the text of an error may quote what was sent."""

from __future__ import annotations

import os
import socket
import ssl
from types import MappingProxyType
from typing import Final

_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
_WORDS: Final = MappingProxyType(
    {
        "ConnectTimeout": "it takes too long to connect",
        "InvalidMessage": "it is no websocket",
        "InvalidStatus": "it is no websocket",
        "InvalidUpgrade": "it is no websocket",
    }
)


def reason_of(trouble: BaseException) -> str:
    """What is wrong with a certificate or a name, or the system's word for what failed; else the class of the error."""
    name = type(trouble).__name__
    if isinstance(trouble, ConnectionResetError) and trouble.errno is None:
        return str(trouble)  # our own words, or asyncio's
    cause: BaseException | None = None if "Timeout" in name else trouble
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "it does not speak TLS" if getattr(cause, "reason", None) in _NO_TLS else "no TLS connection"
        if isinstance(cause, socket.gaierror):
            return "its name can't be looked up now" if cause.errno == socket.EAI_AGAIN else "unknown host"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return _WORDS.get(name, name)
