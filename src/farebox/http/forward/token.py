"""The token by which a caller may spend, as a request shows it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

from farebox.core.secret import Secret
from farebox.http.forward.fields import Field, values
from farebox.http.forward.refusal import Refusal, malformed

_AUTHORIZATION: Final = b"proxy-authorization"
_USER: Final = "purse"
_OWN: Final = b"farebox-purse"
_TOKEN: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)
_REALM: Final = b'realm="farebox", charset="UTF-8"'
_AS_PROXY: Final = "Show a good one in HTTP_PROXY, as http://purse:TOKEN@127.0.0.1:8403."
_AS_SERVER: Final = (
    "Show a good one in the header `Farebox-Purse: TOKEN`; `Authorization` is for the server that is called."
)


def read_token(fields: Sequence[Field]) -> Secret[str] | None:
    """The token of a request; None without one. Where there are two it is for nobody to choose, so both are refused.

    It is the password of the user `purse` in a Basic `Proxy-Authorization`, or a user without a password, so that it
    can stand in HTTP_PROXY; or the token of a Bearer one; or the value of `Farebox-Purse`. Raises Refusal.
    """
    shown = [(_AUTHORIZATION, value) for value in values(fields, _AUTHORIZATION)]
    shown += [(_OWN, value) for value in values(fields, _OWN)]
    if not shown:
        return None
    if len(shown) > 1:
        raise malformed("there is more than one token")
    name, value = shown[0]
    text = value.decode("latin-1").strip()
    token = text if name == _OWN else _credential(text)
    if token is None or not _TOKEN.fullmatch(token):
        raise malformed("the token can't be read; in HTTP_PROXY it stands as http://purse:TOKEN@127.0.0.1:8403")
    return Secret(token)


def no_token(*, proxied: bool, detail: str | None = None) -> Refusal:
    """What is told to a caller that may spend nothing, and how to show a token. proxied: it takes the proxy for one."""
    kind, title = "token-refused", "A token of a purse is needed; `farebox proxy` prints one"
    if proxied:
        asked: tuple[Field, ...] = ((b"proxy-authenticate", b"Basic " + _REALM), (b"proxy-authenticate", b"Bearer"))
        return Refusal(407, kind, title, detail, headers=asked, members={"next_step": _AS_PROXY})
    challenge = (b"www-authenticate", b'Farebox-Purse realm="farebox"')
    return Refusal(401, kind, title, detail, headers=(challenge,), members={"next_step": _AS_SERVER})


def _credential(text: str) -> str | None:
    scheme, _, rest = text.partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            try:
                user, colon, password = base64.b64decode(rest.strip(), validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None
            if password:  # urllib and requests send no user without one
                return password if user == _USER else None
            return user if colon else None
    return None
