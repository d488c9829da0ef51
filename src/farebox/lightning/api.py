"""Api: where a node or wallet is asked over HTTP, and with what; it makes the calls and sends none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from urllib.parse import urlencode

from farebox.core.conversation import HttpCall, Line
from farebox.core.exchange import Json
from farebox.core.secret import Secret

ANSWER_WITHIN: Final = timedelta(seconds=10)
PAY_WITHIN: Final = timedelta(seconds=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """base_url: without a slash at its end. headers: `name: value` lines, of which one holds the key."""

    base_url: str
    headers: Secret[str] | None = None
    line: Line | None = None

    @property
    def place(self) -> str:
        """Where it is, as names of backends tell it: `127.0.0.1:8080`."""
        return self.base_url.partition("://")[2]

    def call(
        self,
        method: str,
        path: str,
        asked: Mapping[str, Json] | None = None,
        *,
        within: timedelta = ANSWER_WITHIN,
        endless: timedelta | None = None,
    ) -> HttpCall:
        """Ask with JSON, or with nothing but the path. within: how long to wait. endless: see HttpCall."""
        body = b"" if asked is None else json.dumps(asked).encode()
        return self._call(method, path, body, within, endless)

    def post_form(self, path: str, form: Mapping[str, str], *, within: timedelta = ANSWER_WITHIN) -> HttpCall:
        """Ask with a form; the headers have to say that it is one."""
        return self._call("POST", path, urlencode(form).encode(), within, None)

    def _call(self, method: str, path: str, body: bytes, within: timedelta, endless: timedelta | None) -> HttpCall:
        return HttpCall(
            method=method,
            url=self.base_url + path,
            headers=self.headers,
            body=body,
            timeout=within,
            line=self.line,
            endless=endless,
        )
